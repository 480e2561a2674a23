"""HTTP entry point of the cache: returns a stored response or passes the origin's through.

It looks up the stored response (``selection``), reuses it (RFC 9111 §4.2), validates it (§4.3), or
fetches and stores a new one (§3). ``Cache.open`` sends its requests through here too, so HTTP and
objects follow the same steps. The pure modules of ``rfc9111`` make the decision of each step.

One request at a time fetches a key from the origin; the others wait for its head and read along
(waiting list). A response that only one request may use is passed through to it, and the key is
marked hit-for-miss (``hit_for_miss``): its requests then do not wait for each other, and
``pass_through`` may send them without a task. No request waits for more than ``ROUNDS_MAX`` others.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import replace
from typing import Protocol

from streamedge.cache.fill_plan import backoff_s
from streamedge.cache.hit_for_miss import HitForMiss
from streamedge.cache.in_flight import ROUNDS_MAX, CacheStatus, InFlight, Lookup
from streamedge.cache.open_object import OpenObject
from streamedge.cache.origin_requests import (
    CacheRequest,
    build_origin_request,
    confirms_record,
    contradicts_record,
    freshen_record,
    may_pass,
    may_store,
    record_and_body,
    without_range,
)
from streamedge.cache.outcome import Outcome, Passed, Stored, Unavailable
from streamedge.cache.pass_through import RunningPass, mark_hit_for_miss
from streamedge.cache.reader import CacheResult, Reader
from streamedge.cache.reuse_decision import decide, is_refused, may_serve_stale
from streamedge.cache.rfc9111.reuse import Reuse
from streamedge.cache.rfc9111.storing import withheld_fields
from streamedge.cache.rfc9111.vary import parse_vary
from streamedge.cache.selection import (
    Selected,
    VaryingVersions,
    save_vary,
    select,
    select_variant,
)
from streamedge.cache.storage.extent import EXTENT_BYTES
from streamedge.cache.storage.inline_body import INLINE_BYTES_MAX
from streamedge.cache.storage.records import (
    Asset,
    InvalidationTarget,
    Record,
    SentAt,
    stored_fields,
)
from streamedge.control.invalidation_index import Verdict
from streamedge.control.position import older_of
from streamedge.errors import CacheFullError, OriginError, OriginFailure
from streamedge.origin import (
    OriginHead,
    OriginRequest,
    OriginResponse,
    Upstream,
    Version,
)
from streamedge.origin.answers import fold_fields
from streamedge.origin.objects import ResponseRead, object_error
from streamedge.origin.peer.client import PeerResponse
from streamedge.origin.peer.tier import TieredObject, TieredUpstream
from streamedge.spans import Span

SMALL_BODY_WAIT_S = 0.02  # for the rest of a small body; after that it is stored as it comes
LOCK_TICK_S = 0.005
LOCK_WAIT_S = 5.0  # for another worker's lookup; after that, a worker sends its own request

_USABLE = frozenset({Reuse.FRESH, Reuse.STALE, Reuse.STALE_WHILE_REVALIDATE})


class Versions(VaryingVersions, Protocol):
    """The parts of the cache used here: its store, its open versions, and its lookups in flight."""

    retries: int
    in_flight: InFlight
    hit_for_miss: HitForMiss

    def activate(self, asset: Asset, record: Record) -> OpenObject: ...

    def store_small(self, asset: Asset, record: Record, body: bytes) -> OpenObject | None: ...

    def open_unlisted(self, asset: Asset, record: Record) -> OpenObject: ...

    def drop(self, open_object: OpenObject) -> None: ...

    def forget(self, open_object: OpenObject) -> None: ...

    def remember(self, asset: Asset, record: Record) -> bool: ...

    def refuse_older(self, *keys: str) -> None: ...

    def refuse_written(self, *keys: str) -> asyncio.Future[None] | None: ...

    def sent_now(self) -> SentAt: ...

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
        while True:
            now_s = time.time()
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
            outcome = await self._join(running, request)
            if outcome is not None:
                return outcome

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

    async def _join(self, lookup: Lookup, request: CacheRequest) -> Stored | Passed | None:
        """Waits for another request's lookup. None if its outcome is of no use to this one."""
        lookup.requests += 1
        try:
            await lookup.ended()
            failure = lookup.failure
            if failure is not None:
                raise failure.clone() if isinstance(failure, OriginError) else failure
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
        return Passed(lookup.claim_response(), lookup.cache_status)

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
            await self._fetch(
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
                    self._resolve(lookup, self._cache.activate(asset, present))
                    return
            elif record is not None and is_refused(self._cache, asset, record):
                record = None  # refused while it waited for the lock
            await self._fetch(lookup, request, asset, record)
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

    async def _fetch(
        self,
        lookup: Lookup,
        request: CacheRequest,
        asset: Asset,
        record: Record | None,
        *,
        is_passed: bool = False,
        running: RunningPass | None = None,
    ) -> None:
        origin_request = build_origin_request(request, record, is_passed=is_passed)
        lookup.sent_at = sent_at = self._cache.sent_now() if running is None else running.sent_at
        try:
            response = await self._send(request.upstream, origin_request, running)
            if response.status == 416 and (request.is_object or request.suffix_bytes):
                response.close()  # the size decides, for other ranges too
                method = "HEAD" if request.is_object else origin_request.method
                origin_request = replace(
                    origin_request, method=method, fields=without_range(origin_request.fields)
                )
                response = await self._send(request.upstream, origin_request)
            if isinstance(response, PeerResponse):
                # The other edge may have requested it earlier than now.
                position = older_of(sent_at.position, response.as_of)
                if self._is_refused_as_of(position, asset, record, response):
                    response.close()
                    response = await _without_tier(request.upstream, origin_request)
                else:
                    lookup.sent_at = sent_at = sent_at._replace(position=position)
        except OriginError as exc:
            if record is None or not may_serve_stale(self._cache, request, asset, record):
                raise
            lookup.cache_status.detail = exc.failure.value
            lookup.cache_status.served_stale = True
            self._resolve(lookup, self._cache.activate(asset, record), unchanged=True)
            return
        try:
            is_handled = await self._handle_response(
                lookup, request, asset, record, origin_request, response, sent_at
            )
        except BaseException:
            response.close()
            raise
        if is_handled:
            return
        response.close()
        if is_passed and record is None:
            raise OriginError(
                OriginFailure.UNAVAILABLE,
                f"{asset.origin_name} {asset.name!a}: unexpected status {response.status}",
            )
        await self._fetch(lookup, request, asset, None, is_passed=True)

    def _is_refused_as_of(
        self, position: int, asset: Asset, record: Record | None, response: OriginResponse
    ) -> bool:
        """Whether an invalidation forbids a response as of ``position``; ``record``: what it may
        confirm."""
        fields = fold_fields(response.fields)
        stored = fields if record is None else {**record.head.headers, **fields}
        now = self._cache.sent_now()
        as_of = Record(
            asset.key,
            OriginHead(Version("", 0), "", stored),
            now.time_s,
            sent_change=now.change,
            position=position,
        )
        checker = self._cache.invalidation_checker
        return checker.invalidated(asset, as_of).verdict is Verdict.REFUSED

    async def _send(
        self,
        upstream: Upstream,
        origin_request: OriginRequest,
        running: RunningPass | None = None,
    ) -> OriginResponse:
        """Sends a request that is safe to repeat, and retries it after temporary failures.

        ``running``: the first attempt, if it was sent already.
        """
        attempt = 0
        while True:
            try:
                if running is not None and not attempt:
                    return await running.wait()
                return await upstream.send(origin_request)
            except OriginError as exc:
                if not exc.retryable or attempt == self._cache.retries:
                    raise
                await asyncio.sleep(backoff_s(attempt, random.random()))
            attempt += 1

    async def _handle_response(
        self,
        lookup: Lookup,
        request: CacheRequest,
        asset: Asset,
        record: Record | None,
        origin_request: OriginRequest,
        response: OriginResponse,
        sent_at: SentAt,
    ) -> bool:
        """Acts on the origin's response: refreshes, stores, serves stale, or passes it through.

        False when the response does not answer the viewer's own request (a validation, a range).
        """
        status, fields = response.status, fold_fields(response.fields)
        lookup.cache_status.status = status
        now_s = time.time()
        if record is not None and confirms_record(record, origin_request, status, fields):
            response.close()
            open_object = self._cache.activate(
                asset, freshen_record(record, fields, sent_at, now_s)
            )
            self._cache.remember(asset, open_object.record)
            lookup.withheld = withheld_fields(stored_fields(open_object.record.head) | fields)
            self._resolve(lookup, open_object, unchanged=True)
            return True
        if (
            status >= 500
            and record is not None
            and may_serve_stale(self._cache, request, asset, record)
        ):
            response.close()
            lookup.cache_status.served_stale = True
            self._resolve(lookup, self._cache.activate(asset, record), unchanged=True)
            return True
        is_stale = isinstance(response, PeerResponse) and response.answer.is_stale
        # Here a stale response of another edge would count as fresh.
        storable = not is_stale and may_store(request, origin_request, status, fields)
        if storable or (request.needs_version and status in (200, 206)):
            record_and_read = record_and_body(
                asset, origin_request, response, fields, sent_at, now_s
            )
            if record_and_read is not None:
                new_record, read = record_and_read
                body = await _small_body(new_record, read) if storable else None
                stored = self._store(request, new_record, read, body, is_shared=storable)
                if stored is not None:
                    lookup.withheld = withheld_fields(fields)
                    lookup.cache_status.stored = lookup.is_shared = storable
                    if not storable and not is_stale:
                        self._cache.hit_for_miss.begin(asset.key, now_s)
                    self._resolve(lookup, stored)
                    return True
        if record is not None and contradicts_record(record, origin_request, status, fields):
            self._cache.refuse_older(asset.key)
        if not may_pass(request, origin_request, status, fields):
            return False
        if request.is_object and status >= 400 and response.size_bytes == 0:
            response.close()
            lookup.refusal = status, response.fields
            return True
        if not is_stale:
            mark_hit_for_miss(self._cache, asset, origin_request, status, lookup.lookups_ended)
        lookup.response = response
        return True

    def _store(
        self,
        request: CacheRequest,
        record: Record,
        read: ResponseRead | None,
        body: bytes | None,
        *,
        is_shared: bool,
    ) -> OpenObject | None:
        """Begins to store a response under the key of its variant. Only this request can
        read it unless it is ``is_shared``. ``body``: all of it, if it is small and was received.

        None: neither disk nor memory has space, so the response has to be passed through.
        """
        base, varies_by = request.asset, parse_vary(record.head.headers)
        if is_shared:
            save_vary(self._cache, base.key, varies_by)
        asset = select_variant(base, varies_by, request.selected_by) if varies_by else base
        record = record if record.key == asset.key else replace(record, key=asset.key)
        if body is not None:
            small_object = self._cache.store_small(asset, record, body)
            if small_object is not None:
                if read is not None:
                    read.close_now()
                self._cache.hit_for_miss.end(base.key)
                return small_object
        open_version = self._cache.activate if is_shared else self._cache.open_unlisted
        open_object = open_version(asset, record)
        if read is not None:
            try:
                if not open_object.files.is_complete(read.span.start):
                    open_object.extent_to_fill(read.span.start // EXTENT_BYTES)
            except CacheFullError:
                self._cache.drop(open_object)
                return None
            if open_object.files.ready_end(read.span.start, read.span.end) == read.span.end:
                read.close_now()  # all of this version is cached already
            else:
                is_tiered = isinstance(asset.origin, TieredObject)
                open_object.adopt(read, read.trailers, ends_with_extent=is_tiered)
        if is_shared:
            self._cache.hit_for_miss.end(base.key)
            if record.head.version.has_ended:
                self._cache.remember(asset, record)
        return open_object

    def _resolve(self, lookup: Lookup, open_object: OpenObject, *, unchanged: bool = False) -> None:
        lookup.open_object = open_object
        lookup.unchanged = unchanged
        open_object.enter(lookup)


async def _without_tier(upstream: Upstream, origin_request: OriginRequest) -> OriginResponse:
    """The origin's own response, in place of an older one of another edge."""
    if isinstance(upstream, TieredUpstream):
        return await upstream.send_past_tier(origin_request)
    return await upstream.send(origin_request)


def _in_background(request: CacheRequest) -> CacheRequest:
    """The validation after a stale response was sent (RFC 5861 §3).

    Its response is for all viewers: so it is a GET, and no viewer gets interim responses.
    """
    return replace(
        request, origin_request=replace(request.origin_request, method="GET", interim=None)
    )


async def _small_body(record: Record, read: ResponseRead | None) -> bytes | None:
    """The whole body of a small response that arrives at once; None: it is stored as it comes."""
    size_bytes = record.head.version.size_bytes
    if read is None or not 0 < size_bytes <= INLINE_BYTES_MAX or read.span.size != size_bytes:
        return None
    return await read.buffered(SMALL_BODY_WAIT_S)
