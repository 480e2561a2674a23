"""Which bytes to request next, when another read begins, and when to retry."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from streamedge.cache.fill_plan import (
    BACKOFF_FIRST_S,
    BACKOFF_MAX_S,
    SKIP_MAX_BYTES,
    WINDOW_MAX_BYTES,
    WINDOW_MIN_BYTES,
    Pace,
    backoff_s,
    is_worth_skipping,
    next_fill,
    own_read_start,
    unread_end,
    window_bytes,
)
from streamedge.cache.storage.extent import CHUNK_BYTES, EXTENT_BYTES
from streamedge.origin import UNKNOWN_BYTES
from streamedge.spans import Span

# Chunks around the border between the first extent and the second.
FIRST_CHUNK = EXTENT_BYTES // CHUNK_BYTES - 20
BASE = FIRST_CHUNK * CHUNK_BYTES
CHUNKS = 40


class Covered:
    """The bytes that are cached or on their way, counted from the start of each chunk."""

    def __init__(self, valid: list[int]) -> None:
        self.valid = valid

    def __call__(self, position: int) -> int:
        chunk = position // CHUNK_BYTES
        there = self.valid[chunk - FIRST_CHUNK] if chunk - FIRST_CHUNK < len(self.valid) else 0
        return max(position, chunk * CHUNK_BYTES + there)


COVERED = st.lists(
    st.sampled_from([0, 0, 1, CHUNK_BYTES // 2, CHUNK_BYTES, CHUNK_BYTES]),
    min_size=CHUNKS,
    max_size=CHUNKS,
).map(Covered)
POSITIONS = st.integers(BASE, BASE + CHUNKS * CHUNK_BYTES)
LEADS = st.sampled_from([0, 1, CHUNK_BYTES, 10 * CHUNK_BYTES, CHUNKS * CHUNK_BYTES])


def first_gap(want: Span, covered: Covered) -> int:
    """The first byte of ``want`` that is not covered; its end if all are."""
    gap = want.start
    while gap < want.end and covered(gap) > gap:
        gap = covered(gap)
    return min(gap, want.end)


@settings(max_examples=500, deadline=None)
@given(COVERED, POSITIONS, POSITIONS, LEADS)
def test_next_fill_is_the_first_gap_in_whole_chunks_of_one_extent(
    covered: Covered, one: int, other: int, lead_bytes: int
) -> None:
    want = Span(min(one, other), max(one, other))
    gap = first_gap(want, covered)
    span = next_fill(want, covered, lead_bytes)
    if gap == want.end or gap - want.start > lead_bytes:
        assert span is None
        return
    assert span is not None
    assert span == span.align(CHUNK_BYTES)
    assert span.start <= gap < span.start + CHUNK_BYTES
    assert span.start // EXTENT_BYTES == (span.end - 1) // EXTENT_BYTES
    assert span.end <= want.align(CHUNK_BYTES).end
    later = range(span.start + CHUNK_BYTES, span.end, CHUNK_BYTES)
    assert all(covered(chunk) == chunk for chunk in later)
    # It is as long as all that allows.
    assert (
        span.end == want.align(CHUNK_BYTES).end
        or span.end % EXTENT_BYTES == 0
        or covered(span.end) > span.end
    )


@settings(deadline=None)
@given(COVERED, POSITIONS)
def test_empty_want_needs_no_fill(covered: Covered, position: int) -> None:
    assert next_fill(Span(position, position), covered, 0) is None


def test_covered_want_needs_no_fill() -> None:
    assert next_fill(Span(0, 10**9), lambda _position: 10**9, 10**9) is None


def test_fill_beyond_the_want_is_skipped() -> None:
    fill = Span(0, 10 * CHUNK_BYTES)
    reach = lambda at: fill.end if at < fill.end else at  # noqa: E731
    assert next_fill(Span(5, 20 * CHUNK_BYTES), reach, 10 * CHUNK_BYTES) == Span(
        10 * CHUNK_BYTES, 20 * CHUNK_BYTES
    )
    assert next_fill(Span(5, 20 * CHUNK_BYTES), reach, 9 * CHUNK_BYTES) is None


@settings(deadline=None)
@given(st.integers(0, 30), st.floats(0, 1))
def test_backoff_is_within_its_limits(attempt: int, jitter: float) -> None:
    pause_s = backoff_s(attempt, jitter)
    assert BACKOFF_FIRST_S / 2 <= pause_s <= BACKOFF_MAX_S
    assert pause_s <= BACKOFF_FIRST_S * 2**attempt
    assert pause_s <= backoff_s(attempt + 1, jitter)


def test_backoff_doubles_with_each_attempt() -> None:
    assert [backoff_s(attempt, 1.0) for attempt in range(6)] == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0]


# --- beside a running fill ------------------------------------------------------------------

PACES = st.builds(Pace, st.floats(0, 10), st.floats(0, 1e10))
SLOW = Pace(0.03, 2_000_000)  # 60 KB arrive while another read would begin


def test_reader_near_a_fill_waits_for_it() -> None:
    fill = Span(10 * CHUNK_BYTES + 5, 400 * CHUNK_BYTES)
    assert own_read_start(fill.start, fill, SLOW) is None
    assert own_read_start(fill.start + 60_000, fill, SLOW) is None


def test_reader_far_ahead_of_a_fill_reads_from_its_own_chunk_on() -> None:
    fill = Span(5, 400 * CHUNK_BYTES)
    assert own_read_start(390 * CHUNK_BYTES + 7, fill, SLOW) == 390 * CHUNK_BYTES


def test_reader_waits_longer_for_an_origin_with_a_longer_round_trip() -> None:
    fill = Span(0, 400 * CHUNK_BYTES)
    position = 10 * CHUNK_BYTES
    assert own_read_start(position, fill, Pace(0.03, 2e6)) == position
    assert own_read_start(position, fill, Pace(0.5, 2e6)) is None
    assert own_read_start(position, fill, Pace(0.03, 1e8)) is None


@settings(deadline=None)
@given(PACES, st.integers(0, 1 << 40), st.integers(0, 1 << 30))
def test_own_read_begins_behind_the_fills_chunk_and_beyond_its_waiters(
    pace: Pace, position: int, ahead: int
) -> None:
    fill = Span(position, position + ahead + 1)
    start = own_read_start(position + ahead, fill, pace)
    if start is None:
        return
    assert fill.start < start <= position + ahead
    assert start % CHUNK_BYTES == 0
    assert ahead > pace.round_trip_bytes


@settings(deadline=None)
@given(PACES)
def test_window_reaches_as_far_as_a_reader_waits(pace: Pace) -> None:
    window = window_bytes(pace)
    assert WINDOW_MIN_BYTES <= window <= WINDOW_MAX_BYTES
    assert window >= min(pace.round_trip_bytes, WINDOW_MAX_BYTES)


@settings(deadline=None)
@given(PACES, st.integers(0, 1 << 30))
def test_run_that_costs_more_than_a_request_is_not_read_across(pace: Pace, run: int) -> None:
    assert is_worth_skipping(run, pace) == (run <= pace.round_trip_bytes and run <= SKIP_MAX_BYTES)


def test_fill_without_readers_ends_unless_little_is_missing() -> None:
    assert unread_end(Span(7, 1007), 1000) == 1007
    assert unread_end(Span(7, 1008), 1000) == 7
    assert unread_end(Span(7, UNKNOWN_BYTES), 1000) == 1007
