"""Delivers access logs from the spool to their origins: the control process' task.

Every few seconds it makes batches of the lines that are due (``batches``). Each origin with batches
has a task that sends them, the oldest first. After a failure that origin waits, longer each time;
then the same file is sent under the same name again. A batch is removed only after its origin has
it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from streamedge.errors import OriginError
from streamedge.logs.batches import (
    Batch,
    SpoolState,
    compress,
    drop_oldest,
    make_batches,
    remove_batch,
    spool_state,
)
from streamedge.logs.spool_names import BatchName
from streamedge.ops.log import Log
from streamedge.ops.metrics import Counter, Counts, Gauge
from streamedge.ops.rate_limited import RateLimitedEvent
from streamedge.origin.spooling import in_thread
from streamedge.origin.writing import WritableOrigin, Write

CHECK_INTERVAL_S = 1.0  # while files wait for their origins
CHECK_INTERVAL_MAX_S = 5.0
CHECKS_PER_INTERVAL = 60  # lines of a log with an interval from 1 minute on are late by 1/60 of it
RETRY_FIRST_S = 1.0  # after a failed delivery
RETRY_MAX_S = 60.0
FAILURES_INTERVAL_S = 60.0  # between log lines about the same failure
_DOUBLINGS_MAX = 16
_PIECE_BYTES = 256 << 10


def retry_pause_s(failures: int) -> float:
    """How long an origin waits after ``failures`` failed deliveries in a row (from 1).

    Doubled each time, from RETRY_FIRST_S up to RETRY_MAX_S.
    """
    return min(RETRY_MAX_S, RETRY_FIRST_S * 2.0 ** min(failures - 1, _DOUBLINGS_MAX))


class Clock(NamedTuple):
    """The time, and how to wait. ``time_s``: since 1970; ``monotonic_s``: never goes back."""

    time_s: Callable[[], float] = time.time
    monotonic_s: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


SYSTEM_CLOCK: Final = Clock()


class Destination(NamedTuple):
    """Where the files of a log go, each ``interval_s``: names under ``prefix`` of the origin
    ``name``."""

    name: str
    writer: WritableOrigin
    prefix: str
    interval_s: float


def check_pause_s(intervals_s: Iterable[float], *, has_batches: bool) -> float:
    """The time until the spool is looked through again, which a thread does.

    ``intervals_s``: of all logs. ``has_batches``: whether files wait for their origins.
    """
    if has_batches:
        return CHECK_INTERVAL_S
    shortest_s = min(intervals_s, default=0.0)
    return max(CHECK_INTERVAL_S, min(CHECK_INTERVAL_MAX_S, shortest_s / CHECKS_PER_INTERVAL))


class LogDelivery:
    """The delivery of all access logs of the edge from the spool folder ``root``.

    ``destinations``: by distribution, now; those of a distribution that is gone stay in use until
    its lines are delivered. ``limit_bytes``: what the spool may hold, now.
    """

    def __init__(
        self,
        root: Path,
        destinations: Callable[[], Mapping[str, Destination]],
        limit_bytes: Callable[[], int],
        log: Log,
        counts: Counts,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._root = root
        self._clock = clock
        self._current = destinations
        self._destinations: dict[str, Destination] = {}
        self._limit_bytes = limit_bytes
        self._log = log
        self._counts = counts
        self._failed = RateLimitedEvent(log, "access_log_not_delivered", FAILURES_INTERVAL_S)
        self._spool_failed = RateLimitedEvent(log, "access_log_spool_failed", FAILURES_INTERVAL_S)
        self._dropped = RateLimitedEvent(log, "access_log_lines_dropped")
        self._unknown = RateLimitedEvent(log, "access_log_without_origin", FAILURES_INTERVAL_S)
        self._has_batches = False  # after the last check
        self._in_use: set[BatchName] = set()
        self._running: set[str] = set()  # origins
        self._failures: dict[str, int] = {}  # in a row, by origin
        self._waits_until_s: dict[str, float] = {}

    @property
    def is_sending(self) -> bool:
        """Whether ``run`` is sending files now."""
        return bool(self._running)

    async def run(self) -> None:
        """Delivers until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                by_origin = await self._check(is_last=False)
                for origin in by_origin.keys() - self._running:
                    self._running.add(origin)
                    task = tasks.create_task(self._deliver_all(origin, by_origin[origin]))
                    task.add_done_callback(partial(_discard, self._running, origin))
                intervals_s = (one.interval_s for one in self._destinations.values())
                pause_s = check_pause_s(intervals_s, has_batches=self._has_batches)
                await self._clock.sleep(pause_s)

    async def finish(self, timeout_s: float) -> None:
        """Delivers all that the workers have written, within ``timeout_s``; they have ended.

        What is left is delivered after the next start.
        """
        self._waits_until_s.clear()
        by_origin = await self._check(is_last=True)
        deliveries = [self._deliver_all(origin, batches) for origin, batches in by_origin.items()]
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.gather(*deliveries)
        except TimeoutError:
            left = sum(len(batches) for batches in by_origin.values())
            self._log.event("access_logs_left", files=left, folder=str(self._root))

    async def _check(self, *, is_last: bool) -> dict[str, list[tuple[Batch, Destination]]]:
        """Makes batches and keeps the limit; returns those that can be sent now, by origin."""
        self._destinations.update(self._current())
        try:
            state = await in_thread(partial(self._maintain, self._clock.time_s(), is_last=is_last))
        except OSError as exc:
            self._spool_failed.emit(self._clock.monotonic_s(), error=str(exc))
            return {}
        self._has_batches = bool(state.batches)
        gauges = self._counts.gauges
        gauges[Gauge.ACCESS_LOG_SPOOL_BYTES] = state.size_bytes
        lag_s = int(self._clock.time_s()) - state.batches[0].due_s if state.batches else 0
        gauges[Gauge.ACCESS_LOG_LAG_S] = max(0, lag_s)
        by_origin: dict[str, list[tuple[Batch, Destination]]] = {}
        for batch in state.batches:
            destination = self._destinations.get(batch.name.distribution)
            if destination is None:
                self._unknown.emit(self._clock.monotonic_s(), distribution=batch.name.distribution)
            elif self._clock.monotonic_s() >= self._waits_until_s.get(destination.name, 0.0):
                by_origin.setdefault(destination.name, []).append((batch, destination))
        return by_origin

    def _maintain(self, now_s: float, *, is_last: bool) -> SpoolState:
        make_batches(self._root, now_s, is_last=is_last)
        state, limit_bytes = spool_state(self._root), self._limit_bytes()
        if state.size_bytes > limit_bytes:
            make_batches(self._root, now_s, is_last=True)
            dropped = drop_oldest(self._root, limit_bytes, self._in_use)
            for distribution, lines in dropped.items():
                self._counts.add(Counter.ACCESS_LOG_LINES_DROPPED, "spool", lines)
                self._dropped.emit(
                    self._clock.monotonic_s(),
                    distribution=distribution,
                    lines=lines,
                    reason="limits.log_spool is reached",
                )
            state = spool_state(self._root)
        return state

    async def _deliver_all(self, origin: str, batches: list[tuple[Batch, Destination]]) -> None:
        for batch, destination in batches:
            if not await self._deliver(batch, destination):
                failures = self._failures[origin] = self._failures.get(origin, 0) + 1
                self._waits_until_s[origin] = self._clock.monotonic_s() + retry_pause_s(failures)
                return
            self._failures.pop(origin, None)

    async def _deliver(self, batch: Batch, destination: Destination) -> bool:
        """Sends one batch and removes it; whether the origin has it."""
        name = f"{destination.prefix}{batch.name.file_name}"
        self._in_use.add(batch.name)
        try:
            path = await in_thread(partial(compress, self._root, batch))
            await _send(destination.writer, name, path)
            await in_thread(partial(remove_batch, self._root, batch))
        except (OriginError, OSError) as exc:
            if isinstance(exc, FileNotFoundError) and not batch.path.exists():
                return True  # it was dropped, because the spool is full
            self._counts.add(Counter.ACCESS_LOG_FILES, "failed")
            self._failed.emit(
                self._clock.monotonic_s(),
                origin=destination.name,
                file=name,
                error=str(exc) or repr(exc),
            )
            return False
        finally:
            self._in_use.discard(batch.name)
        self._counts.add(Counter.ACCESS_LOG_FILES, "delivered")
        return True


async def _send(writer: WritableOrigin, name: str, path: Path) -> None:
    """Writes a file to an origin. Raises OriginError and OSError."""
    size_bytes = await in_thread(lambda: path.stat().st_size)
    write = Write("PUT", name, (("Content-Type", "application/gzip"),), size_bytes)
    response = await writer.write(write, _pieces(path))
    if not response.succeeded:
        detail = response.body[:200].decode("utf-8", "replace")
        raise OSError(f"the origin answered {response.status}: {detail}")


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    with await in_thread(lambda: path.open("rb", buffering=0)) as file:
        while piece := await in_thread(partial(file.read, _PIECE_BYTES)):
            yield piece


def _discard(running: set[str], origin: str, _delivery: asyncio.Task[None]) -> None:
    running.discard(origin)
