"""When an item of a playlist ends, and how long it is. Pure."""

from __future__ import annotations

from streamedge.delivery.rtmp.playback.playlist import Item
from streamedge.media.medium import MediumHead

LAST_FRAME_MS = 40  # how long the last frame is shown if the duration of its medium does not say
REORDERED_MS = 120  # frames of an item that the client cut off are shown after its end (B-frames)
LAST_FRAME_MAX_MS = 1000  # a duration further behind the last frame is wrong


def length_ms(item: Item, head: MediumHead) -> int:
    """How long an item plays."""
    rest_ms = max(0, head.duration_ms - item.start_ms)
    return rest_ms if item.duration_ms is None else min(rest_ms, item.duration_ms)


def end_ms(last_ms: int, until_ms: int | None, head: MediumHead) -> int:
    """The medium's time at which an item ends, all of whose media were sent.

    ``last_ms`` is the time of the last tag, ``until_ms`` the last time that the client requested.
    """
    if until_ms is not None and last_ms > until_ms:
        return until_ms + 1 + REORDERED_MS
    if last_ms < head.duration_ms <= last_ms + LAST_FRAME_MAX_MS:
        return head.duration_ms
    return last_ms + LAST_FRAME_MS
