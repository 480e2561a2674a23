"""HTTP entry point of the cache: returns a stored response or passes the origin's through.

It selects the stored response (``lookup.selection``), reuses it (RFC 9111 §4.2), validates it
(§4.3), or requests and stores a new one (§3, ``lookup.fetch``). ``Cache.open`` sends its requests
through here too, so HTTP and objects follow the same steps. The pure modules of ``rfc9111`` make
the decision of each step.

One request at a time fetches a key from the origin; the others wait for its head and read along
(waiting list). A response that only one request may use is passed through to it, and the key is
marked hit-for-miss: its requests then do not wait for each other, and ``lookup.pass_through`` may
send them without a task. No request waits for more than ``ROUNDS_MAX`` others.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Protocol

from streamedge.cache.lookup.fetch import FetchingVersions, fetch
from streamedge.cache.lookup.in_flight import ROUNDS_MAX, CacheStatus, InFlight, Lookup
from streamedge.cache.lookup.outcome import Outcome, Passed, Stored, Unavailable
from streamedge.cache.lookup.pass_through import RunningPass
from streamedge.cache.lookup.reuse_decision import decide, is_refused
from streamedge.cache.lookup.selection import Selected, select
from streamedge.cache.open_object import OpenObject
from streamedge.cache.origin_requests import CacheRequest
from streamedge.cache.reader import CacheResult, Reader
from streamedge.cache.rfc9111.reuse import Reuse
from streamedge.cache.storage.records import Asset, InvalidationTarget, Record
from streamedge.control.invalidation_index import Verdict
from streamedge.errors import OriginError
from streamedge.origin import OriginHead, Version
from streamedge.origin.objects import object_error
from streamedge.spans import Span

LOCK_TICK_S = 0.005
LOCK_WAIT_S = 5.0  # for another worker's lookup; after that, a worker sends its own request

_USABLE = frozenset({Reuse.FRESH, Reuse.STALE, Reuse.STALE_WHILE_REVALIDATE})


class Versions(FetchingVersions, Protocol):
    """The parts of the cache used here: its store, its open versions, and its lookups in flight."""

    in_flight: InFlight

    def forget(self, open_object: OpenObject) -> None: ...

    def refuse_written(self, *keys: str) -> asyncio.Future[None] | None: ...

    def track_task(self, task: asyncio.Task[None]) -> None: ...

    def reader(
        self,
        open_object: OpenObject,
        want: Span,
        result: CacheResult,
        subject: InvalidationTarget = ...,
    ) -> Reader: ...


class ResponseCache:
    """The entry point for requests. It has no state of its own; the cache has it."""

    def __init__(self, cache: Versions) -> None:
        self._cache = cache
        self._in_flight = cache.in_flight

    async def respond(self, request: CacheRequest) -> Outcome:
        """Returns the response to a request. Raises OriginError, CacheFullError.

        If it is cancelled, so is its request to the origin, and those that wait for it go on to
        send their own. ``Cache.open`` is for callers that may be cancelled at any time.
        """
        rounds = 0
        now_s = arrived_s = time.time()
        while True:
            running = self._in_flight.find(request.asset.key)
            if running is not None and running.is_cold and not rounds:
                # Another request already found the cache empty; skip the disk lookup.
                selected = Selected(request.asset, None, "uri-miss")
            else:
                selected = select(self._cache, request)
                running = self._in_flight.find(selected.asset.key)
            asset, record = selected.asset, selected.record
            reuse = decide(self._cache, request, asset, record, now_s)
            if record is not None and reuse in _USABLE:
                open_object = self._cache.activate(asset, record)
                if not self._is_lost(open_object, request):
                    if reuse is Reuse.STALE_WHILE_REVALIDATE and running is None:
                        self._start_validation(_in_background(request), selected)
                    return self._hit(open_object, request, collapsed=rounds > 0)
                self._cache.forget(open_object)
                selected = Selected(asset, None, "uri-miss")
                reuse = decide(self._cache, request, asset, None, now_s)
            if reuse is Reuse.GATEWAY_TIMEOUT:
                return Unavailable()
            if rounds == ROUNDS_MAX or self._skips_waiting_list(
                request, asset, now_s, running is not None
            ):
                return await self._fetch_alone(request, selected)
            if running is None:
                lookup = self._begin_lookup(request, selected)
                return await self._own_lookup(lookup, request, selected)
            rounds += 1
            outcome = await self._join(running, request, arrived_s)
            if outcome is not None:
                return outcome
            now_s = time.time()

    async def finish_pass(self, request: CacheRequest, running: RunningPass) -> Outcome:
        """The outcome of a request that ``pass_through.begin_pass`` sent; as ``respond``."""
        selected = Selected(request.asset, None, "uri-miss", running.lookups_ended)
        return await self._fetch_alone(request, selected, running)

    def in_flight_fetch(self, key: str) -> asyncio.Future[None] | None:
        """A future for the end of the fetch of a key with nothing stored; None if none runs."""
        running = self._in_flight.find(key)
        return running.ended() if running is not None and running.is_cold else None

    def refuse_written(self, *primary_keys: str) -> asyncio.Future[None] | None:
        """After a write: no worker uses a response whose request was sent before.

        The result is that of ``Cache.refuse_written``.
        """
        return self._cache.refuse_written(*primary_keys)

    # Stored responses

    def _is_lost(self, open_object: OpenObject, request: CacheRequest) -> bool:
        """Whether the bytes for a request are not here any more and cannot come."""
        if not open_object.version.id:
            return False
        return open_object.is_lost(request.span_of_first_read(open_object.version.size_bytes).end)

    def _hit(self, open_object: OpenObject, request: CacheRequest, *, collapsed: bool) -> Stored:
        reader = self._reader(open_object, request, CacheResult.HIT, request.asset.subject)
        return Stored(reader, reader.result, CacheStatus(hit=True, collapsed=collapsed))

    def _reader(
        self,
        open_object: OpenObject,
        request: CacheRequest,
        result: CacheResult,
        subject: InvalidationTarget,
    ) -> Reader:
        first = request.span_of_first_read(open_object.version.size_bytes)
        return self._cache.reader(open_object, first, result, subject)

    # Requests to the origin

    def _skips_waiting_list(
        self, request: CacheRequest, asset: Asset, now_s: float, is_running: bool
    ) -> bool:
        """Whether a request neither waits for others nor makes them wait.

        The response to a HEAD of a site is of no use to a GET, so others would wait in vain. A HEAD
        may itself wait for a running GET.
        """
        if self._cache.hit_for_miss.holds(asset.key, now_s):
            return True
        return request.origin_request.method == "HEAD" and not request.is_object and not is_running

    def _begin_lookup(self, request: CacheRequest, selected: Selected) -> Lookup:
        lookup = Lookup(
            CacheStatus(forwarded=selected.why),
            position=request.want.start,
            is_cold=selected.record is None,
        )
        self._in_flight.begin(selected.asset.key, lookup)
        return lookup

    async def _own_lookup(
        self, lookup: Lookup, request: CacheRequest, selected: Selected
    ) -> Stored | Passed:
        """Runs a lookup for the request that began it."""
        try:
            await self._run_lookup(lookup, request, selected)
            return self._own_outcome(lookup, request)
        finally:
            lookup.leave()

    async def _join(
        self, lookup: Lookup, request: CacheRequest, arrived_s: float
    ) -> Stored | Passed | None:
        """Waits for another request's lookup. None if its outcome is of no use to this one."""
        lookup.requests += 1
        try:
            await lookup.ended()
            failure = lookup.failure
            if failure is not None:
                raise failure.clone() if isinstance(failure, OriginError) else failure
            # An invalidation that is unknown here may have been completed between.
            misses_invalidations = self._cache.invalidation_checker.misses_invalidations
            if misses_invalidations and lookup.sent_at.time_s < arrived_s:
                return None
            return self._joined_outcome(lookup, request)
        finally:
            lookup.leave()

    def _start_validation(self, request: CacheRequest, selected: Selected) -> None:
        """Begins a lookup in a task of its own: no request waits for its outcome."""
        lookup = self._begin_lookup(request, selected)
        task = asyncio.get_running_loop().create_task(
            self._run_lookup(lookup, request, selected), name="validation"
        )

        def ended(task: asyncio.Task[None]) -> None:
            # Cancelled before it began, it has not done so itself.
            self._in_flight.end(selected.asset.key, lookup)
            lookup.leave()
            if not task.cancelled():
                task.exception()  # retrieved: the stale response was sent

        task.add_done_callback(ended)
        self._cache.track_task(task)

    def _own_outcome(self, lookup: Lookup, request: CacheRequest) -> Stored | Passed:
        """The outcome of a lookup for the request that began it."""
        if lookup.open_object is not None:
            result = CacheResult.REFRESH_HIT if lookup.unchanged else CacheResult.MISS
            if lookup.cache_status.hit:
                result = CacheResult.HIT
            reader = self._reader(lookup.open_object, request, result, request.asset.subject)
            return Stored(reader, reader.result, lookup.cache_status, lookup.withheld)
        if lookup.refusal is not None:
            return Passed(object_error(*lookup.refusal), lookup.cache_status)
        return Passed(lookup.claim_response(), lookup.cache_status, lookup.leaves_conditions)

    def _joined_outcome(self, lookup: Lookup, request: CacheRequest) -> Stored | Passed | None:
        """The outcome of a lookup for a request that joined it; None if it cannot use it."""
        if lookup.refusal is not None and request.is_object:
            if self._is_outdated(lookup, request.asset):
                return None
            cache_status = replace(lookup.cache_status, collapsed=True)
            return Passed(object_error(*lookup.refusal), cache_status)
        if lookup.open_object is None or not lookup.is_shared:
            return None
        asset = select(self._cache, request).asset
        if asset.key != lookup.open_object.asset.key or self._is_outdated(lookup, asset):
            return None
        reader = self._reader(lookup.open_object, request, CacheResult.HIT, asset.subject)
        return Stored(reader, reader.result, replace(lookup.cache_status, collapsed=True))

    def _is_outdated(self, lookup: Lookup, asset: Asset) -> bool:
        """Whether a write or an invalidation came after the lookup's request was sent."""
        sent_at = lookup.sent_at
        if sent_at.change == self._cache.store.changes.number:
            return False
        if lookup.open_object is None:  # an object origin's error
            sent_record = Record(
                asset.key,
                OriginHead(Version("", 0), ""),
                sent_at.time_s,
                sent_change=sent_at.change,
                position=sent_at.position,
            )
        else:
            record = lookup.open_object.record
            sent_record = replace(
                record,
                validated_s=max(record.validated_s, sent_at.time_s),
                sent_change=max(record.sent_change, sent_at.change),
                position=max(record.position, sent_at.position),
            )
        return (
            self._cache.invalidation_checker.check_record(asset, sent_record).verdict
            is not Verdict.FRESH
        )

    async def _fetch_alone(
        self, request: CacheRequest, selected: Selected, running: RunningPass | None = None
    ) -> Outcome:
        """Sends the request without waiting for others and without making them wait.

        ``running``: it was sent already.
        """
        lookup = Lookup(CacheStatus(forwarded=selected.why))
        if selected.record is None:
            lookup.lookups_ended = selected.lookups_ended
        try:
            await fetch(
                self._cache,
                lookup,
                request,
                selected.asset,
                selected.record,
                is_passed=not request.needs_version,
                running=running,
            )
            if lookup.open_object is not None:  # other workers may remember that nothing is stored
                self._cache.store.changes.lookup_ended(selected.asset.key)
            return self._own_outcome(lookup, request)
        finally:
            lookup.leave()

    async def _run_lookup(self, lookup: Lookup, request: CacheRequest, selected: Selected) -> None:
        """Sets the outcome of a lookup, and ends it."""
        try:
            await self._look_up(lookup, request, selected)
        except Exception as exc:
            lookup.failure = exc
            raise
        finally:
            self._in_flight.end(selected.asset.key, lookup)

    async def _look_up(self, lookup: Lookup, request: CacheRequest, selected: Selected) -> None:
        """Fetches the key, or waits for another worker that is fetching it and uses its result.

        After ``ROUNDS_MAX`` lookups of other workers without a usable result it fetches anyway:
        in a queue, the last worker would wait for all others. The record is read again only if a
        lookup has ended since it was read.
        """
        store, asset, record = self._cache.store, selected.asset, selected.record
        has_lock = await self._lock_key(asset.key)
        try:
            present = None
            if not has_lock or selected.lookups_ended != store.changes.lookups_ended(asset.key):
                lookup.sent_at = self._cache.sent_now()
                present = store.load_record(asset.key)
            if (
                present is not None
                and not present.is_marker
                and present != record
                and not is_refused(self._cache, asset, present)
            ):
                record = present
                if decide(self._cache, request, asset, present, time.time()) is Reuse.FRESH:
                    # Another worker has fetched it in the meantime.
                    lookup.cache_status = CacheStatus(hit=True)
                    lookup.resolve(self._cache.activate(asset, present))
                    return
            elif record is not None and is_refused(self._cache, asset, record):
                record = None  # refused while it waited for the lock
            await fetch(self._cache, lookup, request, asset, record)
        finally:
            if has_lock:
                store.changes.lookup_ended(asset.key)
                store.unlock_asset(asset.key)

    async def _lock_key(self, key: str) -> bool:
        """Waits for the lock of a key; False after ROUNDS_MAX other lookups or LOCK_WAIT_S."""
        store = self._cache.store
        if store.lock_asset(key):
            return True
        ended = store.changes.lookups_ended(key)
        for _tick in range(int(LOCK_WAIT_S / LOCK_TICK_S)):
            await asyncio.sleep(LOCK_TICK_S)
            if store.lock_asset(key):
                return True
            if store.changes.lookups_ended(key) - ended >= ROUNDS_MAX:
                break
        return False


def _in_background(request: CacheRequest) -> CacheRequest:
    """The validation after a stale response was sent (RFC 5861 §3).

    Its response is for all viewers: so it is a GET, and no viewer gets interim responses.
    """
    return replace(
        request, origin_request=replace(request.origin_request, method="GET", interim=None)
    )
