"""streamedge/media/containers/cutting.py: segments have all samples, and do not depend on order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.errors import MediaError
from streamedge.media.containers.cutting import (
    INTERLEAVE_MS,
    READ_ON_MS,
    VIDEO_SEGMENT_MS,
    Cutter,
    Sample,
    decode_times,
)
from streamedge.media.containers.segment import SEGMENT_BYTES_MAX

SEGMENT_MS = VIDEO_SEGMENT_MS


def sample(track: int, dts_ms: int, data: bytes = b"x") -> Sample:
    return Sample(track, dts_ms, 0, True, track == 0, data)


@st.composite
def films(draw: st.DrawFn) -> list[Sample]:
    """Samples of two tracks, each in order, displaced by less than INTERLEAVE_MS."""
    steps = st.lists(st.integers(1, 900), min_size=1, max_size=30)
    rows: list[tuple[float, Sample]] = []
    for track in (0, 1):
        skew_ms = draw(st.integers(0, INTERLEAVE_MS // 2))
        time_ms = 0
        for step in draw(steps):
            rows.append((time_ms + skew_ms, sample(track, time_ms)))
            time_ms += step
    rows.sort(key=lambda row: row[0])
    return [each for _order, each in rows]


def cutter(film: list[Sample], position_ms: int = 0) -> Cutter:
    return Cutter(iter(film), (0, 1), SEGMENT_MS, position_ms)


@given(films())
def test_segments_have_each_sample_once_and_in_order(film: list[Sample]) -> None:
    linear = cutter(film)
    number: int | None = 0
    cut: list[Sample] = []
    while number is not None:
        rows, following = linear.cut(number)
        assert all(number * SEGMENT_MS <= row.dts_ms < (number + 1) * SEGMENT_MS for row in rows)
        assert following is None or following > number
        cut += rows
        number = following
    assert cut == sorted(film, key=lambda row: (row.dts_ms, row.track))


@given(films(), st.integers(0, 12))
def test_segment_is_the_same_after_a_seek(film: list[Sample], number: int) -> None:
    linear = cutter(film)
    for before in range(number):
        linear.cut(before)
    start_ms = number * SEGMENT_MS
    # A seek leads to a place in the file, at least INTERLEAVE_MS before.
    place = next(
        (at for at, row in enumerate(film) if row.dts_ms > start_ms - INTERLEAVE_MS), len(film)
    )
    assert cutter(film[:place][-1:] + film[place:], start_ms).cut(number) == linear.cut(number)


def test_gap_is_passed_in_one_step() -> None:
    film = [sample(0, 0), sample(1, 0), sample(0, 3_600_000), sample(1, 3_600_000)]
    rows, following = cutter(film).cut(0)
    assert len(rows) == 2
    assert following == 3_600_000 // SEGMENT_MS


def test_track_that_ends_early_is_not_awaited() -> None:
    film = [sample(1, 0), *(sample(0, time_ms) for time_ms in range(0, 100_000, 40))]
    source = iter(film)
    rows, following = Cutter(source, (0, 1), SEGMENT_MS, 0).cut(0)
    assert len(rows) == 1 + SEGMENT_MS // 40
    assert following == 1
    assert next(source).dts_ms <= SEGMENT_MS + INTERLEAVE_MS + 40


def test_only_near_segments_are_reached_by_reading_on() -> None:
    linear = cutter([])
    linear.cut(3)
    assert linear.reaches(4)
    assert linear.reaches(4 + READ_ON_MS // SEGMENT_MS)
    assert not linear.reaches(3)
    assert not linear.reaches(5 + READ_ON_MS // SEGMENT_MS)


def test_segment_that_is_too_large_is_refused() -> None:
    film = [sample(0, 0, bytes(SEGMENT_BYTES_MAX // 4))] * 5
    with pytest.raises(MediaError, match="64 MiB"):
        cutter(film).cut(0)


@given(st.lists(st.integers(-1000, 10_000), min_size=1, max_size=16), st.integers(0, 2_000))
def test_made_up_decoding_times_rise_and_precede_presentation(pts: list[int], step: int) -> None:
    first = min(pts)
    times = decode_times(pts, first, step)
    assert len(times) == len(pts)
    assert times == sorted(times)
    assert all(time <= shown for time, shown in zip(times, pts, strict=True))
    assert all(time <= first for time in times)


def test_decoding_times_before_the_first_known_one_are_a_frame_apart() -> None:
    assert decode_times([21, 141], 21, 40) == [-59, -19]
