"""streamedge/cache/plan.py: what to ask for next, and when to ask again."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from streamedge.cache.extent import CHUNK_BYTES, EXTENT_BYTES
from streamedge.cache.plan import BACKOFF_FIRST_S, BACKOFF_MAX_S, backoff_s, next_fill
from streamedge.spans import Span

# Chunks around the border between the first extent and the second.
FIRST_CHUNK = EXTENT_BYTES // CHUNK_BYTES - 20
BASE = FIRST_CHUNK * CHUNK_BYTES
CHUNKS = 40


class Known:
    """What is there or on its way, by chunk: how many bytes from its start."""

    def __init__(self, valid: list[int]) -> None:
        self.valid = valid

    def __call__(self, position: int) -> int:
        chunk = position // CHUNK_BYTES
        there = self.valid[chunk - FIRST_CHUNK] if chunk - FIRST_CHUNK < len(self.valid) else 0
        return max(position, chunk * CHUNK_BYTES + there)


KNOWN = st.lists(
    st.sampled_from([0, 0, 1, CHUNK_BYTES // 2, CHUNK_BYTES, CHUNK_BYTES]),
    min_size=CHUNKS,
    max_size=CHUNKS,
).map(Known)
POSITIONS = st.integers(BASE, BASE + CHUNKS * CHUNK_BYTES)
LEADS = st.sampled_from([0, 1, CHUNK_BYTES, 10 * CHUNK_BYTES, CHUNKS * CHUNK_BYTES])


def first_gap(want: Span, known: Known) -> int:
    """The first byte of ``want`` that is not known; its end when all are."""
    gap = want.start
    while gap < want.end and known(gap) > gap:
        gap = known(gap)
    return min(gap, want.end)


@settings(max_examples=500, deadline=None)
@given(KNOWN, POSITIONS, POSITIONS, LEADS)
def test_a_fill_is_the_first_gap_in_whole_chunks_of_one_extent(
    known: Known, one: int, other: int, lead_bytes: int
) -> None:
    want = Span(min(one, other), max(one, other))
    gap = first_gap(want, known)
    span = next_fill(want, known, lead_bytes)
    if gap == want.end or gap - want.start > lead_bytes:
        assert span is None
        return
    assert span is not None
    assert span == span.align(CHUNK_BYTES)
    assert span.start <= gap < span.start + CHUNK_BYTES
    assert span.start // EXTENT_BYTES == (span.end - 1) // EXTENT_BYTES
    assert span.end <= want.align(CHUNK_BYTES).end
    later = range(span.start + CHUNK_BYTES, span.end, CHUNK_BYTES)
    assert all(known(chunk) == chunk for chunk in later)
    # It is as long as all that allows.
    assert (
        span.end == want.align(CHUNK_BYTES).end
        or span.end % EXTENT_BYTES == 0
        or known(span.end) > span.end
    )


@settings(deadline=None)
@given(KNOWN, POSITIONS)
def test_nothing_is_asked_for_nothing(known: Known, position: int) -> None:
    assert next_fill(Span(position, position), known, 0) is None


def test_all_known_asks_for_nothing() -> None:
    assert next_fill(Span(0, 10**9), lambda _position: 10**9, 10**9) is None


def test_what_runs_past_the_wish_is_passed_over() -> None:
    fill = Span(0, 10 * CHUNK_BYTES)
    reach = lambda at: fill.end if at < fill.end else at  # noqa: E731
    assert next_fill(Span(5, 20 * CHUNK_BYTES), reach, 10 * CHUNK_BYTES) == Span(
        10 * CHUNK_BYTES, 20 * CHUNK_BYTES
    )
    assert next_fill(Span(5, 20 * CHUNK_BYTES), reach, 9 * CHUNK_BYTES) is None


@settings(deadline=None)
@given(st.integers(0, 30), st.floats(0, 1))
def test_backoff_is_within_its_bounds(attempt: int, jitter: float) -> None:
    pause_s = backoff_s(attempt, jitter)
    assert BACKOFF_FIRST_S / 2 <= pause_s <= BACKOFF_MAX_S
    assert pause_s <= BACKOFF_FIRST_S * 2**attempt
    assert pause_s <= backoff_s(attempt + 1, jitter)


def test_backoff_doubles() -> None:
    assert [backoff_s(attempt, 1.0) for attempt in range(6)] == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0]
