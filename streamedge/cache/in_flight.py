"""The table of lookups in flight: at most one for each key, from either entry point of the cache.

A lookup leaves the table before it ends, so a request cannot join a lookup that has ended: a
request that joins always suspends. A request joins at most ``ROUNDS_MAX`` lookups before it sends
its own. A lookup runs as a task of its own, so a viewer's disconnect does not cancel it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field

from streamedge.cache.open_object import OpenObject
from streamedge.cache.storage.records import SentAt
from streamedge.origin import UNKNOWN_BYTES, Fields, OriginResponse

ROUNDS_MAX = 2  # lookups that a request waits for before it sends its own
NOT_SENT = SentAt(0.0, -1)


@dataclass(slots=True)
class CacheStatus:
    """How a request was handled, in the words of Cache-Status (RFC 9211 §2)."""

    hit: bool = False
    forwarded: str = ""  # why: uri-miss, vary-miss, stale, request, bypass, method
    status: int = 0  # the origin's
    stored: bool = False
    collapsed: bool = False
    detail: str = ""


@dataclass(slots=True, eq=False)
class Lookup:
    """A running lookup of a key at the origin, and how many requests wait for it.

    One outcome is set: ``open_object``, a version to read; ``response``, for the first request that
    claims it; ``refusal``, status and fields of an object origin's error, the same for all
    requests. ``withheld``: fields of the origin's response for its own request only.
    ``is_shared``: whether requests that joined may read the version.
    """

    cache_status: CacheStatus = field(default_factory=CacheStatus)
    waiting: int = 0
    is_cold: bool = False  # nothing was stored when it began
    open_object: OpenObject | None = None
    is_shared: bool = True
    unchanged: bool = False
    withheld: dict[str, str] = field(default_factory=dict)
    response: OriginResponse | None = None
    refusal: tuple[int, Fields] | None = None
    sent_at: SentAt = NOT_SENT  # the last request for it
    position: int = 0  # counts as a reader, so the version stays open until the waiters arrive
    want_end: int = UNKNOWN_BYTES

    def claim_response(self) -> OriginResponse:
        """The response, for one request: the caller closes it.

        Raises LookupError if another request has claimed it, or there is none.
        """
        response, self.response = self.response, None
        if response is None:
            raise LookupError("the response of a lookup is for one request only")
        return response

    def release_unclaimed(self) -> None:
        """Releases an unclaimed response once there are no waiters."""
        if self.waiting:
            return
        if self.open_object is not None:
            self.open_object.leave(self)
        if self.response is not None:
            self.response.close()
            self.response = None


class InFlight:
    """A worker's table. ``track_task`` is called with each task, so the cache can cancel it."""

    def __init__(self, track_task: Callable[[asyncio.Task[None]], None]) -> None:
        self._track_task = track_task
        self._running: dict[str, tuple[Lookup, asyncio.Task[None]]] = {}

    def find(self, key: str) -> tuple[Lookup, asyncio.Task[None]] | None:
        """The lookup of a key that has not ended, and its task."""
        entry = self._running.get(key)
        return None if entry is None or entry[1].done() else entry

    def begin(
        self, key: str, lookup: Lookup, work: Callable[[], Coroutine[None, None, None]]
    ) -> asyncio.Task[None]:
        """Runs ``work`` as the lookup of a key that has none."""
        task = asyncio.get_running_loop().create_task(self._run(key, lookup, work), name="lookup")
        self._running[key] = lookup, task
        self._track_task(task)
        task.add_done_callback(lambda done: self._ended(key, lookup, done))
        return task

    def __len__(self) -> int:
        return len(self._running)

    def tasks(self) -> list[asyncio.Task[None]]:
        """The lookups' tasks."""
        return [task for _lookup, task in self._running.values()]

    async def _run(
        self, key: str, lookup: Lookup, work: Callable[[], Coroutine[None, None, None]]
    ) -> None:
        try:
            await work()
        finally:
            self._remove(key, lookup)  # before the waiters wake

    def _ended(self, key: str, lookup: Lookup, task: asyncio.Task[None]) -> None:
        self._remove(key, lookup)  # cancelled before it began, it has not done so itself
        lookup.release_unclaimed()
        if not task.cancelled():
            task.exception()  # retrieved, even if every viewer has left

    def _remove(self, key: str, lookup: Lookup) -> None:
        entry = self._running.get(key)
        if entry is not None and entry[0] is lookup:
            del self._running[key]
