"""Coalesced timers: the next runs of many viewers are sent at common ticks.

A worker that woke for each viewer separately would spend more on waking than on sending. Media are
sent seconds before they are shown, so a delay of one tick does no harm.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

TICK_S = 0.1


class TimerHandle:
    """A scheduled call, until ``cancel``."""

    __slots__ = ("_callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self._callback = None

    def fire(self) -> None:
        """Makes the call, unless it was cancelled."""
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()


class CoalescedTimers:
    """The timers of a worker. Ticks are a grid of TICK_S on the event loop's clock."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._ticks: dict[int, list[TimerHandle]] = {}

    def call_at(self, when_s: float, callback: Callable[[], None]) -> TimerHandle:
        """Calls at the first tick at or after ``when_s`` (the event loop's time)."""
        tick = math.ceil(when_s / TICK_S)
        handle = TimerHandle(callback)
        handles = self._ticks.get(tick)
        if handles is None:
            handles = self._ticks[tick] = []
            self._loop.call_at(tick * TICK_S, self._fire, tick)
        handles.append(handle)
        return handle

    def _fire(self, tick: int) -> None:
        for handle in self._ticks.pop(tick):
            self._loop.call_soon(handle.fire)  # one may raise
