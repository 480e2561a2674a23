"""Where a switch enters its new medium: the first keyframe at or after a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from streamedge.cache.open_object import Failure
from streamedge.media.medium import End, Medium, NeedData, Position, Skip

AUDIO_STEP_MS = 50  # longer than a frame of any audio codec at usual rates
AUDIO_STEPS_MAX = 20
SEARCH_MAX_MS = 60_000  # beyond the medium's duration, which may be wrong
FAST_SWITCH_AHEAD_MS = 3000  # Flash Media Server: a fast switch without a time


async def splice_position(medium: Medium, not_before_ms: Callable[[], int]) -> Position | None:
    """The first position to enter a medium at or after a time of it; None: there is none.

    ``not_before_ms`` may grow while the position is searched and its bytes arrive: the result is
    at or after its value at the return. Raises OriginError, MediaError.
    """
    while True:
        position = await first_keyframe(medium, not_before_ms())
        if position is None:
            return None
        position = await _when_cached(medium, position)
        if position is None or position.time_ms >= not_before_ms():
            return position


async def first_keyframe(medium: Medium, time_ms: int) -> Position | None:
    """The first keyframe at or after a time (without video: a frame); None: there is none.

    ``locate`` finds the last keyframe at or before a time, so the search doubles a distance until
    it passes a keyframe, and then halves the rest.
    """
    if not medium.head.has_video:
        return await _first_audio(medium, time_ms)
    position = await medium.locate(time_ms)
    too_early_ms, step_ms = time_ms, 1
    search_ms = max(0, medium.head.duration_ms - time_ms) + SEARCH_MAX_MS
    while position.time_ms < time_ms:
        if step_ms > 2 * search_ms:
            return None
        position = await medium.locate(time_ms + step_ms)
        if position.time_ms < time_ms:
            too_early_ms = time_ms + step_ms
            step_ms *= 2
    while position.time_ms - too_early_ms > 1:
        middle_ms = (too_early_ms + position.time_ms) // 2
        earlier = await medium.locate(middle_ms)
        if earlier.time_ms < time_ms:
            too_early_ms = middle_ms
        else:
            position = earlier
    return position


async def _first_audio(medium: Medium, time_ms: int) -> Position | None:
    for step in range(AUDIO_STEPS_MAX):
        position = await medium.locate_after(time_ms - 1 + step * AUDIO_STEP_MS)
        if position.time_ms >= time_ms:
            return position
    return None


async def _when_cached(medium: Medium, position: Position) -> Position | None:
    """The position of the first tag at or after ``position``, once its bytes are in the cache."""
    while True:
        run = medium.next_run(position, 0, None)
        if isinstance(run, End):
            return None
        if isinstance(run, Skip):
            position = run.following
        elif isinstance(run, NeedData):
            await _cached(medium, run)
        else:
            return position


async def _cached(medium: Medium, needed: NeedData) -> None:
    cached: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_ready(failure: Failure | None) -> None:
        if cached.done():
            return
        if failure is None:
            cached.set_result(None)
        else:
            cached.set_exception(failure)

    cancel = medium.when_ready(needed.span, on_ready)
    try:
        await cached
    finally:
        cancel()
