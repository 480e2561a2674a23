"""When many viewers' next runs are due: on common beats, not each at its own moment.

Owns waking players. A worker that woke for each viewer apart would spend more on waking than on
sending; the media that waits is seconds ahead of what is shown, so a beat's delay costs nobody.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

TICK_S = 0.1


class TimerHandle:
    """A call to come; ``cancel`` makes it not come."""

    __slots__ = ("_callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self._callback = None

    def keep(self) -> None:
        """Makes the call, unless it was cancelled."""
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()


class CoalescedTimers:
    """One for a worker: beats are a grid on the event loop's clock."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._beats: dict[int, list[TimerHandle]] = {}

    def call_at(self, when_s: float, callback: Callable[[], None]) -> TimerHandle:
        """Calls at the first beat not before ``when_s`` (the event loop's time)."""
        beat = math.ceil(when_s / TICK_S)
        appointment = TimerHandle(callback)
        due = self._beats.get(beat)
        if due is None:
            due = self._beats[beat] = []
            self._loop.call_at(beat * TICK_S, self._sound, beat)
        due.append(appointment)
        return appointment

    def _sound(self, beat: int) -> None:
        for appointment in self._beats.pop(beat):
            self._loop.call_soon(appointment.keep)  # each apart: one's failure is not another's
