"""Writable origins with scripted results, and a log that tests can read."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from streamedge.ops.log import Log
from streamedge.ops.log_output import LogTarget
from streamedge.ops.metrics import Gauge
from streamedge.ops.wakeup import Wakeup
from streamedge.origin.writing import Write, WriteResponse
from tests.support.patience import PATIENCE_S

REPLICATOR = Wakeup()
"""The wake-up of the replicator, for all write queues of a test process."""


Outcome = WriteResponse | Exception


@dataclass(slots=True)
class ScriptedWriter:
    """Responds with ``outcomes``, in order, then with success.

    ``sent`` has each attempt's write and body. With ``hold`` an attempt waits for that event.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    sent: list[tuple[Write, bytes]] = field(default_factory=list)
    hold: asyncio.Event | None = None
    lingering_s: float = 0.0
    running: int = 0
    most_running: int = 0
    _attempt: asyncio.Event = field(default_factory=asyncio.Event)

    def lingers_s(self, write: Write) -> float:
        return self.lingering_s

    async def end_abandoned(self) -> int:
        return 0

    async def check(self, write: Write) -> None:
        """Refuses nothing."""

    async def write(self, write: Write, body: AsyncIterator[bytes] | None) -> WriteResponse:
        pieces = [] if body is None else [piece async for piece in body]
        self.sent.append((write, b"".join(pieces)))
        number = len(self.sent)
        self._attempt.set()
        outcome = self.outcomes.pop(0) if self.outcomes else None
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            if self.hold is not None:
                await self.hold.wait()
        finally:
            self.running -= 1
        if isinstance(outcome, Exception):
            raise outcome
        return outcome or WriteResponse(200, (("ETag", f'"origin-{number}"'),))

    async def attempted(self, times: int) -> None:
        """Waits for so many attempts."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.sent) < times:
                self._attempt.clear()
                await self._attempt.wait()

    @property
    def bodies(self) -> list[bytes]:
        return [body for _write, body in self.sent]


class RecordingLog(Log):
    """Records its events, and lets a test wait for one."""

    def __init__(self) -> None:
        super().__init__(LogTarget(os.devnull).open(), "test")
        self.events: list[tuple[str, dict[str, Any]]] = []
        self._changed = asyncio.Event()

    def event(self, event: str, **fields: Any) -> None:
        self.events.append((event, fields))
        self.notice()

    def notice(self) -> None:
        """Makes ``until`` check its condition."""
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits until ``condition`` holds; checks it after each event."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def wait_for_event(self, event: str, times: int = 1) -> list[dict[str, Any]]:
        """Waits until ``event`` was logged so often; returns the fields of each."""
        await self.until(lambda: sum(name == event for name, _ in self.events) >= times)
        return [fields for name, fields in self.events if name == event]


class RecordingGauges(dict[Gauge, int]):
    """Gauges that notify the log of every change."""

    def __init__(self, log: RecordingLog) -> None:
        super().__init__()
        self._log = log

    def __setitem__(self, gauge: Gauge, value: int) -> None:
        super().__setitem__(gauge, value)
        self._log.notice()


async def body_of(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def put(name: str = "film", *fields: tuple[str, str], size_bytes: int | None = None) -> Write:
    return Write("PUT", name, fields, size_bytes)
