"""Whether an invalidation is completed: every edge that may use cached objects has applied it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import NamedTuple

from streamedge.control.replica import Replica
from streamedge.shared_log.presence import PresenceReporter
from streamedge.shared_log.service import FleetService

THREAD_MARGIN_S = 5.0
LEASE_MARGIN_S = 10.0  # to send the entry, and for the reports that follow the end of a lease
NOT_SENT = (
    "the engine does not take entries from this edge, so the other edges do not know of it: it is"
    " sent as soon as the engine takes them; streamedge fleet check shows what to mend"
)


class Completion(NamedTuple):
    """``edge_ms``: milliseconds until each edge had applied it, by name, as this edge has seen it.
    ``is_completed``: all edges have; if not, ``missing`` has sentences that say what to do."""

    edge_ms: dict[str, int]
    is_completed: bool
    missing: tuple[str, ...] = ()


class CompletionWatch:
    """Watches invalidations by the epoch of their row in this edge's control log.

    ``observe`` gets what ``wait`` returns.
    """

    def __init__(
        self,
        service: FleetService,
        presence: PresenceReporter,
        observe: Callable[[Completion], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._service = service
        self._replica: Replica = service.replica
        self._presence = presence
        self._observe = observe
        self._clock = clock
        self._loop = asyncio.get_running_loop()

    def is_completed(self, epoch: int, wait_s: float = 0.0) -> bool:
        """Whether every edge has applied a row, as far as is known here within ``wait_s``.

        Blocks; for threads other than that of the event loop.
        """
        place = self._replica.place_of_row(epoch)
        if place is None:
            return True
        if place.position is not None and self._presence.has_completed(place.position):
            return True
        if wait_s <= 0.0:
            return False
        future = asyncio.run_coroutine_threadsafe(self.wait(epoch, wait_s), self._loop)
        try:
            return future.result(wait_s + THREAD_MARGIN_S).is_completed
        except FutureTimeoutError:
            future.cancel()
            return False

    @property
    def timeout_s(self) -> float:
        """A time for ``wait``: an edge that is cut off is waited for until its lease is over."""
        return self._presence.lease_s + LEASE_MARGIN_S

    def now_s(self) -> float:
        """The time that ``wait`` counts from."""
        return self._clock()

    async def wait(self, epoch: int, timeout_s: float, began_s: float | None = None) -> Completion:
        """Waits until every edge has applied a row. ``began_s``: ``now_s`` then; default: now."""
        began_s = self.now_s() if began_s is None else began_s
        deadline_s = began_s + timeout_s
        edge_ms: dict[str, int] = {}
        position = await self._position(epoch, deadline_s)
        if position is None:
            return Completion(edge_ms, is_completed=False, missing=(NOT_SENT,))

        def note_edges() -> None:
            passed_ms = round((self._clock() - began_s) * 1000)
            for name in self._presence.edges_with(position):
                edge_ms.setdefault(name, passed_ms)

        left_s = max(0.0, deadline_s - self._clock())
        is_completed = await self._presence.wait_completed(position, left_s, note_edges)
        note_edges()
        missing = () if is_completed else tuple(self._presence.missing(position))
        completion = Completion(dict(sorted(edge_ms.items())), is_completed, missing)
        self._observe(completion)
        return completion

    async def _position(self, epoch: int, deadline_s: float) -> int | None:
        """The position of a row's entry; START where it counts as applied; None on a timeout."""
        while True:
            seen = self._service.position
            place = await asyncio.to_thread(self._replica.place_of_row, epoch)
            if place is None:
                return 0
            if place.position is not None:
                return place.position
            left_s = deadline_s - self._clock()
            if left_s <= 0:
                return None

            def has_moved(seen: int = seen) -> bool:
                return self._service.position != seen

            await self._service.change_event.wait_for(has_moved, left_s)
