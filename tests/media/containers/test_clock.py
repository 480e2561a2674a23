"""streamedge/media/containers/clock.py: a clock that jumps, and its continuous times."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streamedge.media.containers.clock import BACK_MAX_MS, FORWARD_MAX_MS, Clock, is_jumping

FRAME_MS = {0: 40, 1: 21}  # of video and audio
LATE_MS = 700  # audio may be so much earlier in the file than video of the same time

PART_S = st.integers(2, 20)
CLOCKS_MS = st.integers(-(10**9), 10**9)


def part(seconds: int, clock_ms: int) -> list[tuple[int, int, int]]:
    """The frames of a recording in the order of the file: track, time, time by its clock."""
    rows = [
        (time_ms + (LATE_MS if track == 0 else 0), track, time_ms)
        for track, frame_ms in FRAME_MS.items()
        for time_ms in range(0, 1000 * seconds, frame_ms)
    ]
    return [(track, time_ms, time_ms + clock_ms) for _place, track, time_ms in sorted(rows)]


@given(st.lists(st.tuples(PART_S, CLOCKS_MS), min_size=1, max_size=4))
def test_joined_recordings_have_continuous_and_synchronous_times(
    parts: list[tuple[int, int]],
) -> None:
    clock = Clock()
    first_ms = parts[0][1]
    end_ms, clock_end_ms = 0, 0
    for number, (seconds, clock_ms) in enumerate(parts):
        begin_ms = clock_ms - first_ms
        jump_ms = begin_ms - clock_end_ms
        if number and not (jump_ms < -BACK_MAX_MS - 3000 or jump_ms > FORWARD_MAX_MS + 3000):
            begin_ms = clock_end_ms + 10 * FORWARD_MAX_MS  # a smaller one is a pause
        shifts = set()
        for track, time_ms, by_clock_ms in part(seconds, begin_ms):
            shift_ms = clock.shift_ms(track, by_clock_ms, FRAME_MS[track])
            shifts.add(shift_ms)
            assert abs(by_clock_ms + shift_ms - (end_ms + time_ms)) <= 2000 * (number + 1)
        assert len(shifts) == 1  # of all tracks: they stay synchronous
        end_ms += 1000 * seconds
        clock_end_ms = begin_ms + 1000 * seconds
    assert clock.has_jumped == (len(parts) > 1)


@given(PART_S, CLOCKS_MS)
def test_frame_of_another_track_that_comes_late_keeps_its_time(seconds: int, clock: int) -> None:
    times = Clock()
    for track, _time_ms, by_clock_ms in part(seconds, 0):
        assert times.shift_ms(track, by_clock_ms, FRAME_MS[track]) == 0
    end_ms = 1000 * seconds
    begin_ms = end_ms + 60_000 if clock > 0 else -60_000
    shift_ms = times.shift_ms(1, begin_ms, 21)
    assert abs(begin_ms + shift_ms - end_ms) < 100
    assert times.shift_ms(0, end_ms, 40) == 0
    assert times.shift_ms(0, begin_ms + 40, 40) == shift_ms


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-(2**40), 2**40)), max_size=60))
def test_any_times_get_a_shift(rows: list[tuple[int, int]]) -> None:
    clock = Clock()
    latest: dict[int, int] = {}
    for track, time_ms in rows:
        shifted_ms = time_ms + clock.shift_ms(track, time_ms, 40)
        if latest:
            assert shifted_ms <= max(latest.values()) + FORWARD_MAX_MS
            assert shifted_ms >= latest.get(track, shifted_ms) - BACK_MAX_MS
        latest[track] = max(shifted_ms, latest.get(track, shifted_ms))


def test_places_of_a_file_show_whether_its_clock_jumps() -> None:
    steady = [0, 9_000, 21_000, 30_000, 44_000]
    assert not is_jumping([])
    assert not is_jumping([7])
    assert not is_jumping(steady)
    assert is_jumping([*steady, 1_000])
    assert is_jumping([*steady, 36_000_000])
