"""The clock of an MPEG-TS, which may begin again in the middle of a file. Pure.

A recorder that restarts, or recordings that were joined, leave a jump of all times. Behind it the
medium goes on with the next frame, as in FFmpeg (``dts_delta_threshold``) and VLC.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import median

BACK_MAX_MS = 5_000  # times of a track that go back further are those of another clock,
FORWARD_MAX_MS = 10_000  # and times so much later than those of all tracks


class Clock:
    """Says by how much to shift the times of each track, so that none of them jumps.

    All tracks get the shift that the first one behind the jump gets, so they stay synchronous.
    Frames of another track that come late still have the shift from before it.
    """

    def __init__(self) -> None:
        self.has_jumped = False
        self._newest_ms = 0
        self._shifts_ms: dict[int, int] = {}
        self._latest_ms: dict[int, int] = {}  # with their shifts

    def shift_ms(self, track: int, time_ms: int, frame_ms: int) -> int:
        """What to add to the time of a track's next frame, which takes ``frame_ms``."""
        shift_ms = self._shifts_ms.get(track, self._newest_ms)
        if self._jumps(track, time_ms + shift_ms):
            shift_ms = self._newest_ms
            if self._jumps(track, time_ms + shift_ms):
                before_ms = self._latest_ms.get(track, max(self._latest_ms.values()))
                shift_ms = self._newest_ms = before_ms + max(1, frame_ms) - time_ms
                self.has_jumped = True
        self._shifts_ms[track] = shift_ms
        latest_ms = self._latest_ms.get(track, time_ms + shift_ms)
        self._latest_ms[track] = max(latest_ms, time_ms + shift_ms)
        return shift_ms

    def _jumps(self, track: int, time_ms: int) -> bool:
        if not self._latest_ms:
            return False
        latest_ms = max(self._latest_ms.values())
        own_ms = self._latest_ms.get(track, latest_ms)
        return time_ms < own_ms - BACK_MAX_MS or time_ms > latest_ms + FORWARD_MAX_MS


def is_jumping(times_ms: Sequence[int]) -> bool:
    """Whether a clock jumps between places of a file that are equally far from each other."""
    steps_ms = [after - before for before, after in pairwise(times_ms)]
    if not steps_ms:
        return False
    usual_ms = max(0, median(steps_ms))
    return min(steps_ms) < 0 or max(steps_ms) > 10 * usual_ms + FORWARD_MAX_MS
