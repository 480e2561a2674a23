"""The viewer's time line of an FLV file whose times begin anywhere, jump, or go back.

Converts a tag's time to a time of the medium. A recording whose times begin late or below zero
begins at 0. Where times go back, or jump ahead further than a pause, recordings were joined, and
the time line continues without a jump. Audio and video jump at different tags but by the same
amount, so that they stay in sync. Pure.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamedge.media.flv.tags import TagFlag

LATE_START_MS = 1000  # a file whose media begins later is shifted to begin at 0
FALL_BACK_MS = 1000  # times of one kind that go back further mean joined recordings
JUMP_AHEAD_MS = 30_000  # … and so do times that jump ahead further than this
STEP_MS = 40  # from the last tag before a jump to the first one after it


class Timeline(NamedTuple):
    """The shift that is added to tag times of each kind, and the last time of each kind, or None.

    ``…_before_ms`` is the shift before the last jump: it applies again if only a single tag was
    off.
    """

    video_shift_ms: int = 0
    audio_shift_ms: int = 0
    video_last_ms: int | None = None
    audio_last_ms: int | None = None
    video_before_ms: int | None = None
    audio_before_ms: int | None = None

    @property
    def last_ms(self) -> int | None:
        """The latest time so far."""
        times = [last for last in (self.video_last_ms, self.audio_last_ms) if last is not None]
        return max(times) if times else None


def start_shift_ms(first_ms: int) -> int:
    """The shift of a file whose first sample has this time."""
    return -first_ms if first_ms < 0 or first_ms >= LATE_START_MS else 0


def place_tags(
    timeline: Timeline, times_ms: NDArray[np.int64], flags: NDArray[np.uint8]
) -> tuple[NDArray[np.int64], Timeline]:
    """Times of the medium for consecutive tags, and the time line after the last of them."""
    is_media = flags & TagFlag.MEDIA != 0
    is_audio = flags & TagFlag.AUDIO != 0
    is_video, is_audio = is_media & ~is_audio, is_media & is_audio
    medium_ms = times_ms + np.where(is_audio, timeline.audio_shift_ms, timeline.video_shift_ms)
    if _is_steady(timeline, medium_ms, is_video, is_audio):
        video, audio = medium_ms[is_video], medium_ms[is_audio]
        return medium_ms, timeline._replace(
            video_last_ms=int(video[-1]) if len(video) else timeline.video_last_ms,
            audio_last_ms=int(audio[-1]) if len(audio) else timeline.audio_last_ms,
        )
    for row, time_ms in enumerate(times_ms.tolist()):
        medium_ms[row], timeline = _place(timeline, time_ms, int(flags[row]))
    return medium_ms, timeline


def _is_steady(
    timeline: Timeline,
    medium_ms: NDArray[np.int64],
    is_video: NDArray[np.bool_],
    is_audio: NDArray[np.bool_],
) -> bool:
    """Whether tags continue the time line without any jump."""
    if not (is_video | is_audio).all() or int(medium_ms.min()) < 0:
        return False
    if timeline.video_before_ms is not None or timeline.audio_before_ms is not None:
        return False
    last_ms = timeline.last_ms
    if last_ms is not None and int(medium_ms[0]) > last_ms + JUMP_AHEAD_MS:
        return False
    if np.any(np.diff(medium_ms) > JUMP_AHEAD_MS):
        return False
    for times, last in (
        (medium_ms[is_video], timeline.video_last_ms), (medium_ms[is_audio], timeline.audio_last_ms)
    ):  # fmt: skip
        if len(times) == 0:
            continue
        if last is not None and int(times[0]) < last - FALL_BACK_MS:
            return False
        if np.any(np.diff(times) < -FALL_BACK_MS):
            return False
    return True


def _place(timeline: Timeline, time_ms: int, flags: int) -> tuple[int, Timeline]:
    last_ms = timeline.last_ms
    if not flags & TagFlag.MEDIA:
        # Headers, commands and script tags often have the time 0, wherever they are.
        medium_ms = time_ms + timeline.video_shift_ms
        if last_ms is not None and abs(medium_ms - last_ms) > FALL_BACK_MS:
            medium_ms = last_ms
        return max(0, medium_ms), timeline
    is_video = bool(flags & TagFlag.VIDEO)
    if is_video:
        own, own_last, before = (
            timeline.video_shift_ms, timeline.video_last_ms, timeline.video_before_ms
        )  # fmt: skip
        other = timeline.audio_shift_ms
    else:
        own, own_last, before = (
            timeline.audio_shift_ms, timeline.audio_last_ms, timeline.audio_before_ms
        )  # fmt: skip
        other = timeline.video_shift_ms
    medium_ms = time_ms + own
    new_before = None
    if last_ms is not None:
        falls_back = own_last is not None and medium_ms < own_last - FALL_BACK_MS
        if before is not None and _continues(time_ms + before, last_ms, other_ms=medium_ms):
            own = before
        elif falls_back or medium_ms > last_ms + JUMP_AHEAD_MS:
            new_before = own
            # The other kind may have jumped already.
            fits_other = abs(time_ms + other - last_ms) <= FALL_BACK_MS
            own = other if fits_other else last_ms + STEP_MS - time_ms
        medium_ms = time_ms + own
    medium_ms = max(0, medium_ms)
    if is_video:
        return medium_ms, timeline._replace(
            video_shift_ms=own, video_last_ms=medium_ms, video_before_ms=new_before
        )
    return medium_ms, timeline._replace(
        audio_shift_ms=own, audio_last_ms=medium_ms, audio_before_ms=new_before
    )


def _continues(medium_ms: int, last_ms: int, other_ms: int) -> bool:
    """Whether a time continues from the last one, and is closer to it than another time."""
    distance = abs(medium_ms - last_ms)
    return distance <= FALL_BACK_MS and distance < abs(other_ms - last_ms)
