"""The table of lookups in flight: at most one for each key, from either entry point of the cache.

A lookup runs in the task of the request that began it. The waiting list is made when a second
request joins. A lookup leaves the table before its waiters wake, so a request cannot join a lookup
that has ended: a request that joins always suspends. A request joins at most ``ROUNDS_MAX`` lookups
before it sends its own.
"""

from __future__ import annotations

import asyncio
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
    served_stale: bool = False  # because the origin failed


@dataclass(slots=True, eq=False)
class Lookup:
    """A running lookup of a key at the origin, and how many requests use it.

    One outcome is set: ``open_object``, a version to read; ``response``, for the first request that
    claims it; ``refusal``, status and fields of an object origin's error, the same for all
    requests; ``failure``. None is set if the lookup was cancelled. ``withheld``: fields of the
    origin's response for its own request only. ``is_shared``: whether requests that joined may read
    the version. ``lookups_ended``: how many lookups of the key had ended when nothing was stored
    under it; None: something may be. ``leaves_conditions``: as in ``Passed``.
    """

    cache_status: CacheStatus
    requests: int = 1  # the one that began it, and those that joined
    is_cold: bool = False  # nothing was stored when it began
    open_object: OpenObject | None = None
    is_shared: bool = True
    unchanged: bool = False
    withheld: dict[str, str] = field(default_factory=dict)
    response: OriginResponse | None = None
    leaves_conditions: bool = False
    refusal: tuple[int, Fields] | None = None
    failure: Exception | None = None
    sent_at: SentAt = NOT_SENT  # the last request for it
    position: int = 0  # counts as a reader, so the version stays open until the waiters arrive
    want_end: int = UNKNOWN_BYTES
    lookups_ended: int | None = None
    _waiters: list[asyncio.Future[None]] | None = None

    def ended(self) -> asyncio.Future[None]:
        """A future that is done when the lookup has ended, of the caller's own."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._waiters is None:
            self._waiters = []
        self._waiters.append(waiter)
        return waiter

    def wake(self) -> None:
        """Wakes the requests that wait for its end."""
        for waiter in self._waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    def resolve(self, open_object: OpenObject, *, unchanged: bool = False) -> None:
        """Sets the version to read. ``unchanged``: the origin has confirmed it, or has failed."""
        self.open_object = open_object
        self.unchanged = unchanged
        open_object.enter(self)

    def claim_response(self) -> OriginResponse:
        """The response, for one request: the caller closes it.

        Raises LookupError if another request has claimed it, or there is none.
        """
        response, self.response = self.response, None
        if response is None:
            raise LookupError("the response of a lookup is for one request only")
        return response

    def leave(self) -> None:
        """Called once by each request; the last one releases what was not claimed."""
        self.requests -= 1
        if self.requests:
            return
        if self.open_object is not None:
            self.open_object.leave(self)
        if self.response is not None:
            self.response.close()
            self.response = None


class InFlight:
    """A worker's table."""

    def __init__(self) -> None:
        self._running: dict[str, Lookup] = {}

    def find(self, key: str) -> Lookup | None:
        """The lookup of a key that has not ended."""
        return self._running.get(key)

    def begin(self, key: str, lookup: Lookup) -> None:
        """Adds the lookup of a key that has none."""
        self._running[key] = lookup

    def end(self, key: str, lookup: Lookup) -> None:
        """Removes a lookup, if it is still there, and then wakes its waiters."""
        if self._running.get(key) is lookup:
            del self._running[key]
            lookup.wake()

    @property
    def requests(self) -> int:
        """How many requests use the running lookups."""
        return sum(lookup.requests for lookup in self._running.values())

    def __len__(self) -> int:
        return len(self._running)
