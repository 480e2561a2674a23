"""Writes through an edge of a fleet: all other edges refuse what they cached before, and learn
which objects have a write in this edge's queue.

A worker puts the written keys into the control database, as an entry that waits to be published;
the control process publishes it. Writes that come together share an entry. The response to a write
waits until every edge of the fleet has applied the entry, but no longer than SHARED_TIMEOUT_S, and
not at all while the engine does not answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from streamedge.control.database import ControlDatabase, ControlError
from streamedge.control.replica import Replica
from streamedge.fleet.entries import Entry, EntryKind, new_entry_id
from streamedge.ops.log import Log
from streamedge.ops.rate_limited import RateLimitedEvent

SHARED_TIMEOUT_S = 1.0
KEYS_MAX = 1000  # in one entry
KEYS_PENDING_MAX = 100_000  # while the control database cannot be written
COMPLETED_POLL_S = 0.005  # while a write waits for the other edges
RETRY_S = 1.0
FAILURES_INTERVAL_S = 60.0


class SharedWrites:
    """The writes through one worker.

    ``notify_publisher`` wakes the control process. ``announce`` shows the edge's processes that an
    entry waits. ``check`` is called after each wake-up of this worker. ``describe(key)`` returns
    the body of the PENDING entry of an object's newest queued write, or None; it blocks.
    ``is_completed(position)``: whether all edges have applied the entries up to a position.
    """

    def __init__(
        self,
        database: ControlDatabase,
        edge: str,
        notify_publisher: Callable[[], None],
        log: Log,
        announce: Callable[[], None] = lambda: None,
        describe: Callable[[str], dict[str, Any] | None] = lambda _key: None,
        is_completed: Callable[[int], bool] = lambda _position: True,
    ) -> None:
        self._is_completed = is_completed
        self._describe = describe
        self._queued: list[str] = []  # keys of objects
        self._bodies: list[dict[str, Any]] = []  # of PENDING entries
        self._replica = Replica(database, edge, lambda *_keys: None)
        self._edge = edge
        self._notify_publisher = notify_publisher
        self._announce = announce
        self._not_stored = RateLimitedEvent(
            log, "written_keys_not_shared", interval_s=FAILURES_INTERVAL_S
        )
        self._pending: list[tuple[str, asyncio.Future[None]]] = []
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}  # by id of the entry
        self._storing: asyncio.Task[None] | None = None
        self._checking: asyncio.Task[None] | None = None

    def share(self, keys: Sequence[str]) -> asyncio.Future[None]:
        """Publishes keys; the future ends as the module says, and never fails."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        loop.call_later(SHARED_TIMEOUT_S, _end, future)
        self._pending += [(key, future) for key in keys]
        del self._pending[:-KEYS_PENDING_MAX]
        self._start_storing()
        return future

    def share_queued(self, key: str) -> None:
        """Publishes the newest queued write of an object, before the keys that come next."""
        self._queued.append(key)
        del self._queued[:-KEYS_PENDING_MAX]  # the replicator publishes those that are missing
        self._start_storing()

    def share_pending(self, body: dict[str, Any]) -> None:
        """Publishes a PENDING entry."""
        self._bodies.append(body)
        del self._bodies[:-KEYS_PENDING_MAX]
        self._start_storing()

    def check(self) -> None:
        """Ends the futures of entries that are in the shared log now."""
        if self._waiting and self._checking is None:
            self._checking = asyncio.get_running_loop().create_task(
                self._check(), name="written_keys_check"
            )
            self._checking.add_done_callback(self._checked)

    async def close(self) -> None:
        """Waits until all keys are in the control database."""
        if self._storing is not None:
            await asyncio.gather(self._storing, return_exceptions=True)

    def _start_storing(self) -> None:
        if self._storing is None:
            loop = asyncio.get_running_loop()
            self._storing = loop.create_task(self._store(), name="written_keys")
            self._storing.add_done_callback(self._stored)

    async def _store(self) -> None:
        while self._queued or self._bodies or self._pending:
            batch, self._pending = self._pending[:KEYS_MAX], self._pending[KEYS_MAX:]
            await self._store_pending()  # those of these writes, so that they are known first
            if not batch:
                continue
            futures = list({id(future): future for _key, future in batch}.values())
            body = {"keys": list(dict.fromkeys(key for key, _future in batch))}
            entry = Entry(new_entry_id(), EntryKind.WRITTEN, self._edge, time.time(), "", body)
            self._waiting[entry.id] = futures
            is_engine_up = await self._add_until_stored(entry)
            self._announce()
            self._notify_publisher()
            if not is_engine_up:
                self._end_entry(entry.id)

    async def _store_pending(self) -> None:
        keys, self._queued = list(dict.fromkeys(self._queued)), []
        bodies, self._bodies = self._bodies, []
        for key in keys:
            body = await asyncio.to_thread(self._describe, key)
            if body is not None:
                bodies.append(body)
        for body in bodies:
            entry = Entry(new_entry_id(), EntryKind.PENDING, self._edge, time.time(), "", body)
            await self._add_until_stored(entry)
        if bodies:
            self._announce()
            self._notify_publisher()

    async def _add_until_stored(self, entry: Entry) -> bool:
        """Stores an entry; returns whether the engine answers."""
        while True:
            is_engine_up = await self._add(entry)
            if is_engine_up is not None:
                return is_engine_up
            await asyncio.sleep(RETRY_S)  # nothing notifies when the database can be written

    async def _add(self, entry: Entry) -> bool | None:
        """Stores an entry; returns whether the engine answers, or None on failure."""
        try:
            await asyncio.to_thread(self._replica.add_own, entry)
            return (await asyncio.to_thread(self._replica.view)).is_engine_up
        except ControlError as exc:
            effect = "other edges serve what they cached before these writes, until this passes"
            self._not_stored.emit(time.monotonic(), error=str(exc), effect=effect)
            return None

    async def _check(self) -> None:
        for entry_id, futures in list(self._waiting.items()):
            place = None
            if not all(future.done() for future in futures):
                place = await asyncio.to_thread(self._replica.place_of, entry_id)
                if place is None or place.position is None:
                    continue
                if not self._is_completed(place.position):
                    asyncio.get_running_loop().call_later(COMPLETED_POLL_S, self.check)
                    continue
            self._end_entry(entry_id)

    def _end_entry(self, entry_id: str) -> None:
        for future in self._waiting.pop(entry_id, ()):
            _end(future)

    def _stored(self, task: asyncio.Task[None]) -> None:
        self._storing = None
        _raise_failure(task)

    def _checked(self, task: asyncio.Task[None]) -> None:
        self._checking = None
        if not task.cancelled() and isinstance(task.exception(), ControlError):
            return  # the futures end by themselves
        _raise_failure(task)


def _end(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _raise_failure(task: asyncio.Task[None]) -> None:
    """Hands an unexpected failure to the loop's exception handler."""
    if not task.cancelled():
        exc = task.exception()
        if exc is not None:
            raise exc
