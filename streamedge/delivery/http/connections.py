"""The open connections of a server, of any HTTP version, and the tasks that answer requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence, Set
from typing import Any, Protocol

from streamedge.cache.storage.records import Provenance
from streamedge.delivery.http.seen_viewers import RunningResponse, ViewerKey
from streamedge.delivery.net.read_scheduler import ReadScheduler


class ViewerConnection(Protocol):
    """What the server does with a connection."""

    def shutdown(self) -> None:
        """Closes it, at once or behind the responses that are due."""
        ...

    def retire(self) -> None:
        """Closes it behind the next response, however late its request comes."""
        ...

    def abort(self) -> None: ...

    def sweep(self, now_s: float, idle_s: float, stall_s: float, body_rate: int) -> None:
        """Closes it when it was idle or stalled for too long. ``body_rate``: bytes a second."""
        ...

    def revoke(self, is_revoked: Callable[[Provenance], bool]) -> None:
        """Aborts its running responses that ``is_revoked`` matches."""
        ...

    def running(self) -> Sequence[RunningResponse]:
        """The responses that are being sent."""
        ...

    def end_viewer(self, viewer: ViewerKey, clients: Set[str]) -> bool:
        """Ends the viewer's responses, and a connection of ``clients`` that sends none.

        Returns whether there was any.
        """
        ...


class Connections:
    """At most ``connections_max`` open connections, which share the time for parsing."""

    def __init__(self, connections_max: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.read_scheduler = ReadScheduler(self.loop)
        self.open: set[ViewerConnection] = set()
        self._connections_max = connections_max
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_stopped = False
        self._is_retiring = False
        self.passing = 0  # requests that wait for the origin without a task
        self._closed = asyncio.Event()

    def add(self, connection: ViewerConnection) -> bool:
        """Adds a connection; False if there are more than allowed now."""
        self.open.add(connection)
        if self._is_retiring:
            self.loop.call_soon(connection.retire)
        return len(self.open) <= self._connections_max

    def remove(self, connection: ViewerConnection) -> None:
        self.open.discard(connection)
        self._closed.set()

    def retire(self) -> None:
        """Retires all connections, and those that are still being accepted."""
        self._is_retiring = True
        for connection in list(self.open):
            connection.retire()

    @property
    def requests(self) -> int:
        """How many requests are being handled."""
        return len(self._tasks) + self.passing

    def start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Runs work for a request; a failure goes to the loop's exception handler.

        After ``cancel_tasks`` it begins no more.
        """
        if self._is_stopped:
            work.close()
            return
        task = self.loop.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)

    async def all_closed(self) -> None:
        """Returns when no connection is open."""
        while self.open:
            self._closed.clear()
            await self._closed.wait()

    async def cancel_tasks(self) -> None:
        """Cancels the tasks that still run, and waits for their end."""
        self._is_stopped = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            context = {"message": "a request failed", "exception": exc, "task": task}
            self.loop.call_exception_handler(context)
