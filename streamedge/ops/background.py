"""Background tasks, whose failures are always logged.

``Services`` runs tasks that live as long as their process, such as flushing metrics: a failure is
logged with its traceback, counted, and the task is started again after a pause. ``run_detached`` is
for work that no caller waits for. All other tasks are awaited or have a callback that reads their
result (tests/test_project.py checks this). ``report_unhandled`` makes the event loop log any other
exception, which asyncio would write to stderr.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

from streamedge.ops.log import Log
from streamedge.ops.metrics import Counter, Counts
from streamedge.ops.rate_limited import RateLimitedEvent

RESTART_PAUSES_S = (0.1, 1.0, 5.0, 30.0)  # by failures in a row within SOON_S
SOON_S = 60.0


class Services:
    """The long-running tasks of one process, by name."""

    def __init__(self, log: Log, counts: Counts) -> None:
        self._log = log
        self._counts = counts
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, name: str, work: Callable[[], Awaitable[object]]) -> None:
        """Runs ``work`` until it returns; restarts it when it fails."""
        self._counts.tally(Counter.SERVICE_FAILURES, name)  # 0 until it fails
        self._tasks[name] = asyncio.create_task(self._keep_running(name, work), name=name)

    def start_periodic(
        self, name: str, interval_s: float, work: Callable[[], Awaitable[object]]
    ) -> None:
        """Calls ``work`` repeatedly, with a pause of ``interval_s`` before each call."""

        async def repeat() -> None:
            while True:
                await asyncio.sleep(interval_s)
                await work()

        self.start(name, repeat)

    async def stop(self, *names: str) -> None:
        """Stops services in this order; all of them if none is named."""
        for name in names or tuple(self._tasks):
            task = self._tasks.pop(name, None)
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _keep_running(self, name: str, work: Callable[[], Awaitable[object]]) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            began_s = loop.time()
            try:
                await work()
            except Exception as exc:  # noqa: BLE001 - any failure is logged and retried
                failures = failures + 1 if loop.time() - began_s < SOON_S else 1
                pause_s = RESTART_PAUSES_S[min(failures, len(RESTART_PAUSES_S)) - 1]
                self._counts.add(Counter.SERVICE_FAILURES, name)
                self._log.event(
                    "service_failed",
                    service=name,
                    error=repr(exc),
                    restarts_in_s=pause_s,
                    stack=stack_of(exc),
                )
                await asyncio.sleep(pause_s)
            else:
                return


_detached: set[asyncio.Task[None]] = set()


def run_detached(work: Coroutine[Any, Any, None], name: str) -> None:
    """Runs work that no caller waits for; a failure goes to the loop's exception handler."""
    task = asyncio.get_running_loop().create_task(work, name=name)
    _detached.add(task)
    task.add_done_callback(_detached_ended)


def _detached_ended(task: asyncio.Task[None]) -> None:
    _detached.discard(task)
    if not task.cancelled() and (exc := task.exception()) is not None:
        context = {"message": "a detached task failed", "exception": exc, "task": task}
        task.get_loop().call_exception_handler(context)


def report_unhandled(loop: asyncio.AbstractEventLoop, log: Log, counts: Counts) -> None:
    """Makes ``loop`` log unhandled exceptions of callbacks and dropped tasks."""
    line = RateLimitedEvent(log, "unhandled_exception")

    def report(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        exc = context.get("exception")
        task = context.get("task") or context.get("future")
        counts.add(Counter.ERRORS, "unhandled_exception")
        line.emit(
            loop.time(),
            message=str(context.get("message")),
            error=None if exc is None else repr(exc),
            task=task.get_name() if isinstance(task, asyncio.Task) else None,
            stack=None if exc is None else stack_of(exc),
        )

    loop.set_exception_handler(report)


def report_libraries(loop: asyncio.AbstractEventLoop, log: Log) -> None:
    """Sends warnings and errors that libraries log to ``log`` instead of stderr."""
    logging.lastResort = _LibraryHandler(loop, log)


class _LibraryHandler(logging.Handler):
    """The last-resort handler of ``logging``; any thread may call it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._loop = loop
        self._line = RateLimitedEvent(log, "library_warning")

    def emit(self, record: logging.LogRecord) -> None:
        exc = record.exc_info[1] if record.exc_info else None
        emit = partial(
            self._line.emit,
            self._loop.time(),
            library=record.name,
            message=record.getMessage(),
            error=None if exc is None else repr(exc),
            stack=None if exc is None else stack_of(exc),
        )
        with contextlib.suppress(RuntimeError):  # the loop is closed because the process ends
            self._loop.call_soon_threadsafe(emit)


def stack_of(exc: BaseException) -> list[str]:
    """The lines of a traceback, including its causes."""
    return "".join(traceback.format_exception(exc)).splitlines()
