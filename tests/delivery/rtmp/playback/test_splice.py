"""streamedge/delivery/rtmp/playback/splice.py: the search for a keyframe."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from streamedge.delivery.rtmp.playback.splice import SEARCH_MAX_MS, first_keyframe
from streamedge.media.medium import Medium, MediumHead, Position

LOCATES_MAX = 80  # each may read the file


class Keyframes:
    """A medium that only finds keyframes."""

    def __init__(self, times_ms: list[int], duration_ms: int, *, has_video: bool) -> None:
        self.times_ms = times_ms
        self.head = MediumHead(duration_ms, {}, frozenset(), has_video=has_video)
        self.located = 0

    async def locate(self, time_ms: int) -> Position:
        self.located += 1
        row = max(0, bisect_right(self.times_ms, time_ms) - 1)
        return Position(row, self.times_ms[row])

    async def locate_after(self, time_ms: int) -> Position:
        self.located += 1
        row = min(bisect_right(self.times_ms, time_ms), len(self.times_ms) - 1)
        return Position(row, self.times_ms[row])


times = st.sets(st.integers(1, 10_000_000), max_size=30).map(lambda some: [0, *sorted(some)])


@given(times, st.integers(0, 10_000_000))
async def test_first_keyframe_at_or_after_a_time_is_found(
    times_ms: list[int], time_ms: int
) -> None:
    medium = Keyframes(times_ms, times_ms[-1] + 40, has_video=True)
    position = await first_keyframe(cast(Medium, medium), time_ms)
    row = bisect_left(times_ms, time_ms)
    if row == len(times_ms):
        assert position is None
    else:
        assert position == Position(row, times_ms[row])
    assert medium.located <= LOCATES_MAX


@given(times, st.integers(0, 10_000_000), st.integers(0, 20_000_000))
async def test_wrong_duration_hides_distant_keyframes_only(
    times_ms: list[int], time_ms: int, duration_ms: int
) -> None:
    medium = Keyframes(times_ms, duration_ms, has_video=True)
    position = await first_keyframe(cast(Medium, medium), time_ms)
    row = bisect_left(times_ms, time_ms)
    if row < len(times_ms) and times_ms[row] - time_ms <= SEARCH_MAX_MS:
        assert position == Position(row, times_ms[row])
    elif position is not None:
        assert position.time_ms >= time_ms
    assert medium.located <= LOCATES_MAX


async def test_any_audio_frame_is_an_entry() -> None:
    medium = Keyframes(list(range(0, 10_000, 26)), 10_000, has_video=False)
    position = await first_keyframe(cast(Medium, medium), 5000)
    assert position is not None
    assert 5000 <= position.time_ms < 5026
    assert await first_keyframe(cast(Medium, medium), 10_001) is None
