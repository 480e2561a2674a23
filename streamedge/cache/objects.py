"""A worker's cache: ``Cache.open(asset)`` gives a reader of an object, ``Cache.peek`` a fresh hit.

``Cache`` keeps the open versions of a worker and limits their files and memory. ``responses`` looks
up an asset's present version and decides what is stored and for how long, for ``open`` as for HTTP
requests. Cancelling ``open`` or a reader cancels neither a lookup nor a fill: both run as tasks of
the cache.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from http import HTTPStatus
from itertools import islice
from typing import Any

from streamedge.cache.bounded_map import BoundedMap
from streamedge.cache.fill import FillState
from streamedge.cache.fill_plan import QUICK_ABORT_BYTES
from streamedge.cache.invalidated import InvalidationChecker
from streamedge.cache.lookup.hit_for_miss import HitForMiss
from streamedge.cache.lookup.in_flight import InFlight
from streamedge.cache.lookup.outcome import Outcome, Passed, Stored, Unavailable
from streamedge.cache.object_files import CLOSE_DELAY_S
from streamedge.cache.open_object import Failure, OpenObject
from streamedge.cache.origin_pace import Paces
from streamedge.cache.origin_requests import CacheRequest, object_request
from streamedge.cache.reader import CacheResult, Reader
from streamedge.cache.responses import ResponseCache
from streamedge.cache.rfc9111.freshness import TtlRules
from streamedge.cache.rfc9111.vary import vary_slot_key
from streamedge.cache.storage.records import (
    NO_TARGET,
    Asset,
    InvalidationTarget,
    Record,
    SentAt,
    marker,
)
from streamedge.cache.storage.store import Store
from streamedge.control.invalidation_index import InvalidationIndex, Validity, Verdict
from streamedge.errors import CacheFullError, OriginError, OriginFailure
from streamedge.ops.log import Log
from streamedge.ops.metrics import Counter, Counts, Gauge
from streamedge.origin import OriginHead, Version
from streamedge.origin.answers import failure_of_status, fold_fields
from streamedge.spans import Span

TICK_S = 0.005
PATIENT_TICKS = 8  # all waiters are checked every 40 ms
RECHECK_TICKS = 10  # chunks that another worker fills are checked every 50 ms
TOUCH_INTERVAL_S = 60.0
RECORDS_BYTES = 32 * 1024 * 1024  # of the keys and header fields of a worker's open versions
VARYING_BYTES = 4 * 1024 * 1024  # of keys whose responses vary, and the fields they vary by
EVICTED_CHECK_S = 1.0
CLOSED_AT_A_TIME = 64  # versions; copying the list of all would take long
INLINE_CHECKS = 8  # a small object is checked every 8 s: it takes a system call
VERSION_ONLY = Span(0, 0)  # an open that needs the version and none of its bytes


class Cache:
    """A worker's cache. Everything runs on the event loop that calls it."""

    def __init__(
        self,
        store: Store,
        log: Log,
        counts: Counts,
        *,
        open_extents: int,
        retries: int,
        quick_abort_bytes: int = QUICK_ABORT_BYTES,
        records_bytes: int = RECORDS_BYTES,
        invalidation_index: InvalidationIndex | None = None,
    ) -> None:
        self.quick_abort_bytes = quick_abort_bytes
        self.paces = Paces()
        self.store = store
        self.log = log
        self.counts = counts
        self.retries = retries
        self.invalidation_checker = InvalidationChecker(store, invalidation_index)
        self.share_writes: Callable[[Sequence[str]], asyncio.Future[None]] | None = None
        """Publishes written keys in a fleet; see ``refuse_written``."""
        self._open_extents = open_extents
        self._versions: OrderedDict[str, OpenObject] = OrderedDict()
        self._unlisted: dict[tuple[str, Version], OpenObject] = {}
        self._sizes: dict[str, int] = {}  # of the open versions' records, by key
        self._versions_bytes = 0
        self._records_bytes = records_bytes
        self._tasks: set[asyncio.Task[Any]] = set()
        self.in_flight = InFlight()
        self.hit_for_miss = HitForMiss()
        self.varying: BoundedMap[tuple[str, ...]] = BoundedMap(VARYING_BYTES)
        self._responses = ResponseCache(self)
        self._waited_for: set[OpenObject] = set()
        self._holders: set[OpenObject] = set()  # have or had open files
        self._evicted_checks = 0
        self._is_closing = False
        self._evicted_timer: asyncio.TimerHandle | None = None
        self._ticks = 0
        self._complete_fills = counts.tally(Counter.FILLS, FillState.COMPLETE.value)
        counts.gauges[Gauge.OPEN_EXTENTS] = 0
        counts.gauges[Gauge.RUNNING_FILLS] = 0

    def peek(
        self, key: str, rules: TtlRules, now_s: float, subject: InvalidationTarget = NO_TARGET
    ) -> OpenObject | None:
        """The asset's version if it is open here and fresh. No I/O, except after a change.

        Eviction of its files is checked every ``TOUCH_INTERVAL_S`` only. Until then the version is
        served from the open files; this is correct, and keeps their disk space a little longer.
        """
        open_object = self._versions.get(key)
        if (
            open_object is None
            or not open_object.is_fresh(rules, now_s)
            or self.validity(open_object, subject).verdict is not Verdict.FRESH
        ):
            return None
        if now_s - open_object.touched_s > TOUCH_INTERVAL_S:
            if open_object.files.evicted:
                return None
            open_object.touched_s = now_s
            open_object.files.touch()
        self._versions.move_to_end(key)
        return open_object

    async def open(self, asset: Asset, want: Span = VERSION_ONLY) -> Reader:
        """Returns a reader of the asset's present version.

        ``want`` is the span that will be read first: a cold open requests only that from the origin
        (its end may lie beyond the object's). Raises OriginError, CacheFullError.
        """
        open_object = self.peek(asset.key, asset.rules, time.time(), asset.subject)
        if (
            open_object is not None
            and open_object.head.status == HTTPStatus.OK
            and not open_object.files.evicted
            and not open_object.is_lost(want.end)
        ):
            return self.reader(open_object, want, CacheResult.HIT, asset.subject)
        outcome = await self._outcome(object_request(asset, want))
        subject = f"{asset.origin_name} {asset.name!a}"
        if isinstance(outcome, Stored):
            reader = outcome.reader
            status, fields = reader.head.status, reader.head.headers
            if status == HTTPStatus.OK:
                return reader
            reader.close()
        elif isinstance(outcome, Unavailable):
            status, fields = int(HTTPStatus.GATEWAY_TIMEOUT), {}
        else:
            status, fields = outcome.response.status, fold_fields(outcome.response.fields)
            outcome.response.close()
            if status in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
                raise CacheFullError(f"{subject}: the cache has no space for it")
        raise OriginError(
            failure_of_status(status),
            f"{subject}: answered {status}",
            status=status,
            fields=fields,
        )

    async def _outcome(self, request: CacheRequest) -> Outcome:
        """As ``ResponseCache.respond``, which goes on if the caller is cancelled."""
        task = asyncio.get_running_loop().create_task(
            self._responses.respond(request), name="lookup"
        )
        self.track_task(task)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_close_outcome)
            raise

    def find_open(self, key: str, subject: InvalidationTarget = NO_TARGET) -> OpenObject | None:
        """The version that is open here, fresh or stale, unless it was refused."""
        open_object = self._versions.get(key)
        if open_object is None or self.validity(open_object, subject).verdict is Verdict.REFUSED:
            return None
        return open_object

    def validity(self, open_object: OpenObject, subject: InvalidationTarget) -> Validity:
        """Validity of an open version; computed again only after a write or an invalidation."""
        validity = self.invalidation_checker.check_open(open_object, subject)
        if validity.verdict is Verdict.REFUSED:
            self._supersede(open_object)
        return validity

    def drop(self, open_object: OpenObject) -> None:
        """Removes a version, so the next request opens another; its readers continue."""
        self._supersede(open_object)

    def forget(self, open_object: OpenObject) -> None:
        """Removes a version and its record, so that each worker's next request fetches it."""
        if self._versions.get(open_object.asset.key) is open_object:
            self.store.forget_record(open_object.asset.key)
        self._supersede(open_object)

    def drop_all(self) -> None:
        """Removes all versions, so the next requests open them again; their readers continue.

        Needed when a configuration reaches an origin of the same name in another way.
        """
        for open_object in list(self._versions.values()):
            self._supersede(open_object)

    def reopen(self, asset: Asset, head: OriginHead) -> Reader:
        """Returns a reader of a given version, whether or not it is still the present one.

        Sends no request itself; bytes that are not cached are requested for this version only.
        """
        open_object = self._versions.get(asset.key)
        if open_object is None or open_object.version != head.version:
            open_object = self._unlisted.get((asset.key, head.version))
        if open_object is None:
            sent_at = self.sent_now()
            record = Record(
                asset.key,
                head,
                sent_at.time_s,
                sent_change=sent_at.change,
                position=sent_at.position,
            )
            open_object = self.open_unlisted(asset, record)
        return Reader(open_object, CacheResult.HIT, asset.subject)

    def open_version(self, asset: Asset, head: OriginHead) -> Reader:
        """As ``reopen``, for a version that may be stored here as the asset's present one."""
        record = (
            None if self.is_open(asset.key, head.version) else self.store.load_record(asset.key)
        )
        if (
            record is not None
            and record.head.version == head.version
            and self.invalidation_checker.check_record(asset, record).verdict is not Verdict.REFUSED
        ):
            self.activate(asset, record)
        return self.reopen(asset, head)

    def is_open(self, key: str, version: Version) -> bool:
        """Whether a version is open here, as the present one or another."""
        present = self._versions.get(key)
        if present is not None and present.version == version:
            return True
        return (key, version) in self._unlisted

    async def close(self) -> None:
        """Ends all fills and closes all files."""
        while running := list(self._tasks):
            await asyncio.sleep(0)  # a task cancelled before it has begun would release nothing
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        for open_object in {*self._versions.values(), *self._holders}:
            if open_object.idle:
                self._forget(open_object)
        if self._evicted_timer is not None:
            self._evicted_timer.cancel()

    # For tests and debugging

    @property
    def open_versions(self) -> tuple[OpenObject, ...]:
        """The present versions of assets that are open here, least recently used first."""
        return tuple(self._versions.values())

    @property
    def running_tasks(self) -> tuple[asyncio.Task[Any], ...]:
        """The opens, validations and fills that have not ended."""
        return tuple(self._tasks)

    # ObjectContext: called by open versions

    def track_task(self, task: asyncio.Task[Any]) -> None:
        """Keeps a reference to a task until it ends, and cancels it in ``close``."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def extent_opened(self, open_object: OpenObject) -> None:
        """Schedules the checks for too many open files and, while any is open, for evicted ones."""
        self._holders.add(open_object)
        self._schedule_closing()
        if self._evicted_timer is None:
            loop = asyncio.get_running_loop()
            self._evicted_timer = loop.call_later(EVICTED_CHECK_S, self._close_evicted)

    def waiting_began(self, open_object: OpenObject) -> None:
        """Ticks for a version while it has waiters."""
        if not self._waited_for:
            asyncio.get_running_loop().call_later(TICK_S, self._tick)
        self._waited_for.add(open_object)

    def version_failed(self, open_object: OpenObject, cause: Failure) -> None:
        """Makes the next open validate if a fill shows that the object has changed."""
        gone = {OriginFailure.CHANGED, OriginFailure.NOT_FOUND, OriginFailure.RANGE_OUTSIDE}
        is_gone = isinstance(cause, OriginError) and cause.failure in gone
        if is_gone or open_object.version.id:
            self.forget(open_object)

    def version_measured(self, open_object: OpenObject) -> None:
        """Saves the record of a version whose size is now known, unless it was replaced."""
        if self._versions.get(open_object.asset.key) is open_object:
            self.remember(open_object.asset, open_object.record)

    def version_left(self, open_object: OpenObject) -> None:
        """Closes a version that is no longer listed; schedules closing if a limit is passed."""
        if (
            self._versions.get(open_object.asset.key) is not open_object
            or open_object.files.in_memory
        ):
            self._forget(open_object)
        self._schedule_closing()

    @property
    def log_position(self) -> int:
        """The end of the control log: a response requested now is newer than all rows up to it."""
        return self.invalidation_checker.position

    # Versions: called by lookups

    def sent_now(self) -> SentAt:
        """Time, change counter and log position for a request that is sent now."""
        return SentAt(time.time(), self.store.changes.number, self.invalidation_checker.position)

    def remember(self, asset: Asset, record: Record) -> bool:
        """Saves a record, unless a write came after its request was sent; whether it was saved.
        A body that is in the present record's file goes with it.

        A write during the save is harmless: the record is refused when it is read.
        """
        if self.invalidation_checker.check_record(asset, record).verdict is Verdict.REFUSED:
            return False
        open_object = self._versions.get(asset.key)
        if open_object is not None and open_object.version == record.head.version:
            body = open_object.files.inline_body()
            if body is not None:
                saved = self.store.save_small(record, body)
                if saved is None:
                    return False  # a record without the body would take its place
                open_object.record, body_file = saved
                open_object.files.use_body(body_file)
                return True
        self.store.save_record(record)
        return True

    def store_small(self, asset: Asset, record: Record, body: bytes) -> OpenObject | None:
        """Stores a response whose whole body is here, as one file, and opens its version.

        None: a write came after its request was sent, or the disk fails.
        """
        if self.invalidation_checker.check_record(asset, record).verdict is Verdict.REFUSED:
            return None
        saved = self.store.save_small(record, body)
        if saved is None:
            return None
        self.counts.add(Counter.ORIGIN_BYTES, asset.origin_name, len(body))
        self._complete_fills.amount += 1
        record, body_file = saved
        open_object = self.activate(asset, record)
        open_object.files.use_body(body_file)
        return open_object

    def refuse_older(self, *keys: str) -> None:
        """Refuses, in all workers, records of these keys and of keys made from them whose requests
        were sent before now. Needs no disk space."""
        self.store.changes.announce(*keys)

    def refuse_written(self, *keys: str) -> asyncio.Future[None] | None:
        """As ``refuse_older``, after a write, in a fleet on all edges.

        The future ends when the other edges will certainly read of it, or soon if the engine of the
        fleet does not answer; None in a fleet of one.
        """
        self.refuse_older(*keys)
        return None if self.share_writes is None else self.share_writes(keys)

    def begin_to_vary(self, key: str, varies_by: tuple[str, ...]) -> None:
        """Saves, for all workers, the request fields by which responses of a key vary (§4.1).

        Responses stored under the key itself before are not used again.
        """
        self.store.save_record(marker(key, varies_by))
        self.store.changes.announce(vary_slot_key(key))

    def activate(self, asset: Asset, record: Record) -> OpenObject:
        """Makes a record's version the asset's open version, and replaces any other."""
        before = self._versions.get(asset.key)
        if (
            before is not None
            and before.version == record.head.version
            and not before.files.evicted
        ):
            open_object = before
            open_object.record = record
        else:
            open_object = OpenObject(self, asset, record)
            if before is not None:
                self._supersede(before)
        self._versions[asset.key] = open_object
        size = record.memory_bytes
        self._versions_bytes += size - self._sizes.get(asset.key, 0)
        self._sizes[asset.key] = size
        return open_object

    def open_unlisted(self, asset: Asset, record: Record) -> OpenObject:
        """Opens a version for one request: only ``reopen`` finds it, by the version itself."""
        open_object = OpenObject(self, asset, record)
        self._unlisted[asset.key, record.head.version] = open_object
        return open_object

    def reader(
        self,
        open_object: OpenObject,
        want: Span,
        result: CacheResult,
        subject: InvalidationTarget = NO_TARGET,
    ) -> Reader:
        """Returns a reader; its result is MISS if the first bytes of a hit are still to come."""
        if result is CacheResult.HIT and want.size:
            first = Span(want.start, min(want.start + 1, open_object.version.size_bytes))
            if not open_object.is_covered(first):
                result = CacheResult.MISS
        return Reader(open_object, result, subject)

    # Periodic work and limits

    def _tick(self) -> None:
        self._ticks += 1
        patient = self._ticks % PATIENT_TICKS == 0
        recheck = self._ticks % RECHECK_TICKS == 0
        try:
            for open_object in list(self._waited_for):
                if not open_object.tick(patient=patient, recheck=recheck):
                    self._waited_for.discard(open_object)
        finally:  # a defect in one waiter must not stop the others
            if self._waited_for:
                asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def _supersede(self, open_object: OpenObject) -> None:
        open_object.superseded = True
        self._unlist(open_object)
        if open_object.idle:
            # Not at once: bytes reported as ready may be about to be sent.
            asyncio.get_running_loop().call_later(CLOSE_DELAY_S, self._close_if_idle, open_object)

    def _close_if_idle(self, open_object: OpenObject) -> None:
        if open_object.idle:
            open_object.close()
            self._holders.discard(open_object)

    def _forget(self, open_object: OpenObject) -> None:
        self._unlist(open_object)
        open_object.close()
        self._holders.discard(open_object)

    def _unlist(self, open_object: OpenObject) -> None:
        key = open_object.asset.key
        if self._versions.get(key) is open_object:
            del self._versions[key]
            self._versions_bytes -= self._sizes.pop(key)
        # By identity: its version may have got its size since.
        for named in [named for named, one in self._unlisted.items() if one is open_object]:
            del self._unlisted[named]

    def _schedule_closing(self) -> None:
        """Closes files after CLOSE_DELAY_S when too many are open: ``ready`` results for them
        may be about to be sent.
        """
        if self._is_over_limit and not self._is_closing:
            self._is_closing = True
            asyncio.get_running_loop().call_later(CLOSE_DELAY_S, self._close_excess)

    def _close_excess(self) -> None:
        """Closes the least recently used versions, then files without readers of the others."""
        self._is_closing = False
        self._close_unused()
        for open_object in list(self._holders):
            excess = self.counts.gauges[Gauge.OPEN_EXTENTS] - self._open_extents
            if excess <= 0:
                return
            open_object.close_extents(int(excess))

    def _close_evicted(self) -> None:
        """Closes evicted files, so that their disk space is free."""
        self._evicted_timer = None
        self._evicted_checks += 1
        for open_object in list(self._holders):
            if (
                open_object.files.is_inline
                and (hash(open_object) + self._evicted_checks) % INLINE_CHECKS
            ):
                continue
            if open_object.files.evicted:
                if open_object.idle:
                    self._forget(open_object)
                else:
                    open_object.close_extents(open_object.files.count, only_evicted=True)
            if not open_object.files.count:
                self._holders.discard(open_object)
        if self.counts.gauges[Gauge.OPEN_EXTENTS]:
            loop = asyncio.get_running_loop()
            self._evicted_timer = loop.call_later(EVICTED_CHECK_S, self._close_evicted)

    def _close_unused(self) -> None:
        if not self._is_over_limit:
            return
        passed = 0  # versions that are in use
        while oldest := list(islice(self._versions.values(), passed, passed + CLOSED_AT_A_TIME)):
            for open_object in oldest:
                if not open_object.idle:
                    passed += 1
                    continue
                self._forget(open_object)
                if not self._is_over_limit:
                    return

    @property
    def _is_over_limit(self) -> bool:
        """Whether a limit is passed. It counts versions too, as one may have no extent open."""
        open_extents = self.counts.gauges[Gauge.OPEN_EXTENTS]
        return (
            max(open_extents, len(self._versions)) > self._open_extents
            or self._versions_bytes > self._records_bytes
        )


def _close_outcome(task: asyncio.Task[Outcome]) -> None:
    """Closes an outcome whose caller was cancelled."""
    if task.cancelled() or task.exception() is not None:
        return
    outcome = task.result()
    if isinstance(outcome, Stored):
        outcome.reader.close()
    elif isinstance(outcome, Passed):
        outcome.response.close()
