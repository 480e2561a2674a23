"""Hits that are asked for in one turn of the loop, answered together.

All of them are decided on, then all are sent, then all are counted and logged: so each step's code
is still in the processor's caches when it runs again, which the kernel's sending would have driven
out of them between one hit and the next. A burst ends with the turn of the loop in which it began.

Of those who ask for what nobody has asked for yet, one goes to the application, and the others are
put off until it has begun to ask: then they can be held behind it (``protocol``).

Owns who is due. What the answer is, the lane decides; each connection sends its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from streamedge.delivery.http.fast_path.fast_path import Answered, LaneAnswer, PlainGet
from streamedge.delivery.http.fast_path.request_memo import Wanted

BURST_MAX = 64
"""Requests in a burst: the first of them waits while the others are decided on, 5 us each."""


class BatchConnection(Protocol):
    """A connection on which something has come."""

    loop: asyncio.AbstractEventLoop

    def take_up(
        self, now_s: float, gone: set[str]
    ) -> tuple[PlainGet, Wanted | None, LaneAnswer] | None: ...

    def send_hit(
        self, asked: PlainGet, wanted: Wanted | None, answer: LaneAnswer, loop_s: float
    ) -> Answered | None: ...

    def broke(self, cause: Exception) -> None: ...


class HitBatch:
    """A worker's. ``finished`` is told of all that went out at once and whole."""

    __slots__ = ("_due", "_finished", "_gone", "_put_off")

    def __init__(self, finished: Callable[[Sequence[Answered]], None]) -> None:
        self._due: list[BatchConnection] = []
        self._put_off: list[BatchConnection] = []
        self._gone: set[str] = set()
        self._finished = finished

    def add(self, asking: BatchConnection) -> None:
        """Has ``asking`` taken up before the loop waits again."""
        due = self._due
        due.append(asking)
        if len(due) == 1:
            asking.loop.call_soon(self.run)
        elif len(due) == BURST_MAX:
            self.run()

    def put_off(self, asking: BatchConnection) -> None:
        """Has ``asking`` taken up again when the tasks of those who have gone have begun."""
        self._put_off.append(asking)

    def finish(self) -> None:
        """Takes up all that are due, and those that are put off as well."""
        while self._due or self._put_off:
            self._take_up_again()

    def _take_up_again(self) -> None:
        self._due += self._put_off
        self._put_off.clear()
        self._gone.clear()
        self.run()

    def run(self) -> None:
        """Takes up all that are due; harmless when none is."""
        due, self._due = self._due, []
        if not due:
            return
        now_s, gone, hits = time.time(), self._gone, []
        none_has_gone = not gone
        for asking in due:
            try:
                hit = asking.take_up(now_s, gone)
            except Exception as cause:  # noqa: BLE001 - one request's fault is not the others'
                asking.broke(cause)
                continue
            if hit is not None:
                hits.append((asking, hit))
        if gone and none_has_gone:
            due[0].loop.call_soon(self._take_up_again)
        loop_s, answered = due[0].loop.time(), []
        for asking, (asked, wanted, answer) in hits:
            try:
                sent = asking.send_hit(asked, wanted, answer, loop_s)
            except Exception as cause:  # noqa: BLE001 - nor when it is sent
                asking.broke(cause)
                continue
            if sent is not None:
                answered.append(sent)
        if answered:
            self._finished(answered)
