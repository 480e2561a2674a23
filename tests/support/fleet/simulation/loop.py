"""An event loop of asyncio in simulated time, one for each simulated control process."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, cast

import simpy

# What every event loop uses of asyncio, though it is private there.
_LOG_DESTROY_PENDING = "_log_destroy_pending"
_RUN = "_run"
_SET_RUNNING_LOOP = "_set_running_loop"


class SimulatedLoop:
    """Runs callbacks as SimPy's events; the parts of an event loop that coroutines need.

    ``rate``: how fast its clock runs, 1.01 for a drift of 1 %. ``stop`` and ``go_on`` are SIGSTOP
    and SIGCONT; ``kill`` drops everything. ``thread_s``: the duration of each call in a thread.
    """

    def __init__(
        self, env: simpy.Environment, *, rate: float = 1.0, offset_s: float = 0.0, thread_s: float
    ) -> None:
        self._env = env
        self._rate = rate
        self._offset_s = offset_s
        self._thread_s = thread_s
        self._ready: deque[asyncio.Handle] = deque()
        self._is_due = False
        self._tasks: list[asyncio.Task[Any]] = []
        self.is_stopped = False
        self.is_killed = False
        self.failures: list[str] = []

    def start(self, work: Coroutine[Any, Any, object]) -> asyncio.Task[Any]:
        """Starts a task from outside of the loop."""
        task = self.create_task(work)
        self._tasks.append(task)
        return task

    def stop(self) -> None:
        self.is_stopped = True

    def go_on(self) -> None:
        self.is_stopped = False
        self._schedule()

    def kill(self) -> None:
        """Nothing runs any more. The tasks stay referenced, so that none notices its end."""
        self.is_killed = True
        self._ready.clear()
        for task in self._tasks:
            setattr(task, _LOG_DESTROY_PENDING, False)
            work = task.get_coro()
            if inspect.iscoroutine(work) and inspect.getcoroutinestate(work) == "CORO_CREATED":
                work.close()  # Python warns of coroutines that never ran

    # The event loop

    def time(self) -> float:
        return self._offset_s + self._env.now * self._rate

    def call_soon(
        self,
        callback: Callable[..., object],
        *arguments: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, arguments, self._self, context)
        self._ready.append(handle)
        self._schedule()
        return handle

    call_soon_threadsafe = call_soon

    def call_later(
        self,
        delay: float,
        callback: Callable[..., object],
        *arguments: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *arguments, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[..., object],
        *arguments: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, arguments, self._self, context)
        due = self._env.timeout(max(0.0, (when - self.time()) / self._rate), handle)
        due.callbacks.append(self._timer_is_due)
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self._self)

    def create_task(
        self,
        work: Coroutine[Any, Any, object],
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
    ) -> asyncio.Task[Any]:
        return asyncio.Task(work, loop=self._self, name=name, context=context)

    def run_in_executor(
        self, executor: object, call: Callable[..., Any], *arguments: Any
    ) -> asyncio.Future[Any]:
        future = self.create_future()

        def run() -> None:
            try:
                result = call(*arguments)
            except Exception as exc:  # noqa: BLE001  # the waiting task gets it
                if not future.done():
                    future.set_exception(exc)
            else:
                if not future.done():
                    future.set_result(result)

        self.call_later(self._thread_s, run)
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self.is_killed:
            self.failures.append(repr(context.get("exception") or context.get("message")))

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        return None

    @property
    def _self(self) -> asyncio.AbstractEventLoop:
        return cast("asyncio.AbstractEventLoop", self)

    def _timer_is_due(self, due: simpy.Event) -> None:
        handle = cast("asyncio.TimerHandle", due.value)
        if not handle.cancelled() and not self.is_killed:
            self._ready.append(handle)
            self._schedule()

    def _schedule(self) -> None:
        if not self._is_due and self._ready and not self.is_stopped:
            self._is_due = True
            self._env.timeout(0).callbacks.append(self._run)

    def _run(self, _event: simpy.Event) -> None:
        self._is_due = False
        if self.is_stopped or self.is_killed:
            return
        set_running_loop = getattr(asyncio, _SET_RUNNING_LOOP)
        set_running_loop(self._self)
        try:
            while self._ready and not (self.is_stopped or self.is_killed):
                handle = self._ready.popleft()
                if not handle.cancelled():
                    getattr(handle, _RUN)()
        finally:
            set_running_loop(None)
