"""The one door to the cache: ``Cache.open(asset)`` gives a reader, ``Cache.peek`` a fresh hit.

Owns which versions a worker has open, and how an asset's present version is found out: from
memory, from the record another worker left, or from the origin, asked by one worker at a time.
The origin's first answer is kept reading, so that a cold open costs one request.

A reader's cancellation cancels neither the finding out nor any fill: both run as the cache's own.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

from streamedge.cache.asset import NOBODYS, Asset, Record, SentAt, Subject, marker
from streamedge.cache.extent import CHUNK_BYTES, EXTENT_BYTES
from streamedge.cache.freshness import TtlRules
from streamedge.cache.open_version import Failure, OpenVersion
from streamedge.cache.plan import QUICK_ABORT_BYTES, backoff_s
from streamedge.cache.reader import CacheResult, Reader
from streamedge.cache.rulings import Rulings
from streamedge.cache.store import Store
from streamedge.cache.throughput import Paces
from streamedge.cache.vary import vary_slot_key
from streamedge.control.in_force import InForce, Ruling, Verdict
from streamedge.errors import OriginError, OriginFailure
from streamedge.ops.log import Log
from streamedge.ops.metrics import Counts, Gauge
from streamedge.origin import UNKNOWN_BYTES, OriginHead, OriginRead, Version
from streamedge.spans import Span

TICK_S = 0.005
PATIENT_TICKS = 8  # everybody who waits is looked after each 40 ms
ASK_AGAIN_TICKS = 10  # chunks that another worker fills are tried for each 50 ms
TOUCH_INTERVAL_S = 60.0
OBJECT_STATUS = 200
VERSION_ONLY = Span(0, 0)  # wanted of an open: what the object is, none of its bytes


class _Found(NamedTuple):
    opened: OpenVersion
    asked: bool  # the origin was asked
    unchanged: bool  # … and said what was known before


@dataclass(slots=True, eq=False)
class _Finding:
    """An asset's version being found out, and how many wait to open it.

    It takes a reader's place in the version, so that nothing is closed before they come.
    """

    position: int
    want_end: int = UNKNOWN_BYTES
    openers: int = 0
    opened: OpenVersion | None = None

    def settle(self) -> None:
        """Gives the place up when nobody is left to come."""
        if self.openers == 0 and self.opened is not None:
            self.opened.leave(self)


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
        in_force: InForce | None = None,
    ) -> None:
        self.quick_abort_bytes = quick_abort_bytes
        self.paces = Paces()
        self.store = store
        self.log = log
        self.counts = counts
        self.retries = retries
        self.rulings = Rulings(store, in_force)
        self._open_extents = open_extents
        self._versions: OrderedDict[str, OpenVersion] = OrderedDict()
        self._finding: dict[str, tuple[_Finding, asyncio.Task[_Found]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._waited_for: set[OpenVersion] = set()
        self._ticks = 0
        counts.gauges[Gauge.OPEN_EXTENTS] = 0
        counts.gauges[Gauge.RUNNING_FILLS] = 0

    def peek(
        self, key: str, rules: TtlRules, now_s: float, subject: Subject = NOBODYS
    ) -> OpenVersion | None:
        """The asset's version when it is open here and fresh; no I/O, but after a change.

        Whether its files have been evicted is looked at now and then only: until then it is
        served from the open files, which is right, and keeps their disk space a little longer.
        """
        opened = self._versions.get(key)
        if (
            opened is None
            or not opened.is_fresh(rules, now_s)
            or self.ruling(opened, subject).verdict is not Verdict.FRESH
        ):
            return None
        if now_s - opened.touched_s > TOUCH_INTERVAL_S:
            if opened.evicted:
                return None
            opened.touched_s = now_s
            opened.touch()
        self._versions.move_to_end(key)
        return opened

    async def open(self, asset: Asset, want: Span = VERSION_ONLY) -> Reader:
        """A reader of the asset's present version.

        ``want`` is what will be read first: a cold open asks the origin for just that (its end may
        lie beyond the object's). Raises OriginError, CacheFullError.
        """
        while True:
            opened = self.peek(asset.key, asset.rules, time.time(), asset.subject)
            if opened is not None and not opened.evicted:
                return self.reader(opened, want, CacheResult.HIT, asset.subject)
            first = asset.key not in self._finding
            if first:
                self._begin_finding(asset, want)
            finding, task = self._finding[asset.key]
            finding.openers += 1
            try:
                found = await asyncio.shield(task)
                # Who has joined may have come after a change, and the asking begun before it.
                if first or self.ruling(found.opened, asset.subject).verdict is Verdict.FRESH:
                    return self.reader(found.opened, want, _result(found, first), asset.subject)
            except OriginError as exc:
                raise OriginError(exc.failure, str(exc)) from exc
            finally:
                finding.openers -= 1
                finding.settle()

    def present(self, key: str, subject: Subject = NOBODYS) -> OpenVersion | None:
        """The version that is open here, fresh or not, unless it must not be served again."""
        opened = self._versions.get(key)
        if opened is None or self.ruling(opened, subject).verdict is Verdict.REFUSED:
            return None
        return opened

    def ruling(self, opened: OpenVersion, subject: Subject) -> Ruling:
        """What writes and invalidations say of an open version; looked up after a change only."""
        ruling = self.rulings.of_open(opened, subject)
        if ruling.verdict is Verdict.REFUSED:
            self._supersede(opened)
        return ruling

    def drop(self, opened: OpenVersion) -> None:
        """Has the next request for a version's asset find another; those who read it read on."""
        self._supersede(opened)

    def let_go(self) -> None:
        """Opens every version anew when it is next asked for; those who read one read on.

        For origins that are reached in another way than before, under the same names.
        """
        for opened in list(self._versions.values()):
            self._supersede(opened)

    def reopen(self, asset: Asset, head: OriginHead) -> Reader:
        """A reader of a version that is known already, whether or not it is still the present one.

        Asks nobody: bytes that are not cached are asked for under this version alone.
        """
        opened = self._versions.get(asset.key)
        if opened is None or opened.version != head.version:
            sent = self.sent_now()
            record = Record(
                asset.key,
                head,
                sent.time_s,
                asked_change=sent.change,
                position=sent.position,
            )
            opened = OpenVersion(self, asset, record)
        return Reader(opened, CacheResult.HIT, asset.subject)

    async def close(self) -> None:
        """Ends all fills and closes all files."""
        while running := [*self._tasks, *(task for _finding, task in self._finding.values())]:
            await asyncio.sleep(0)  # cancelled before it has begun, a task would let go of nothing
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        for opened in list(self._versions.values()):
            if opened.idle:
                self._forget(opened)

    # What open versions need of their cache

    def keep(self, task: asyncio.Task[None]) -> None:
        """Holds a fill's task, which no reader holds."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def extent_opened(self) -> None:
        """An open version has one more file open."""

    def waiting_began(self, version: OpenVersion) -> None:
        """Ticks for a version as long as somebody waits for it."""
        if not self._waited_for:
            asyncio.get_running_loop().call_later(TICK_S, self._tick)
        self._waited_for.add(version)

    def version_failed(self, version: OpenVersion, cause: Failure) -> None:
        """Lets the next open ask the origin, when a fill shows that the object has changed."""
        gone = {OriginFailure.CHANGED, OriginFailure.NOT_FOUND, OriginFailure.RANGE_OUTSIDE}
        is_gone = isinstance(cause, OriginError) and cause.failure in gone
        if is_gone or version.version.id:
            if self._versions.get(version.asset.key) is version:
                self.store.forget_record(version.asset.key)
            self._supersede(version)

    def version_measured(self, version: OpenVersion) -> None:
        """Remembers what had no length until now, unless something has taken its place."""
        if self._versions.get(version.asset.key) is version:
            self.remember(version.asset, version.record)

    def version_left(self, version: OpenVersion) -> None:
        """Closes a version that nobody will find again, and the longest unused beyond the limit."""
        if self._versions.get(version.asset.key) is not version or version.in_memory:
            self._forget(version)
        self._close_unused()

    # How the present version is found out

    def _begin_finding(self, asset: Asset, want: Span) -> None:
        finding = _Finding(want.start)
        task = asyncio.get_running_loop().create_task(
            self._find_out(asset, want, finding), name="open"
        )
        task.add_done_callback(lambda done: self._found_out(asset.key, finding, done))
        self._finding[asset.key] = finding, task

    async def _find_out(self, asset: Asset, want: Span, finding: _Finding) -> _Found:
        found = await self._find_version(asset, want)
        finding.opened = found.opened
        found.opened.enter(finding)
        return found

    async def _find_version(self, asset: Asset, want: Span) -> _Found:
        while True:
            record = self.store.load_record(asset.key)
            found = self._from_record(asset, record)
            if found is not None:
                return found
            if self.store.lock_asset(asset.key):
                break
            await asyncio.sleep(TICK_S)  # another worker asks: its record will tell
        try:
            record = self.store.load_record(asset.key)
            return self._from_record(asset, record) or await self._ask(asset, record, want)
        finally:
            self.store.unlock_asset(asset.key)

    def _found_out(self, key: str, finding: _Finding, task: asyncio.Task[_Found]) -> None:
        del self._finding[key]
        finding.settle()
        if not task.cancelled():
            task.exception()  # seen, even if every reader has left

    def _from_record(self, asset: Asset, record: Record | None) -> _Found | None:
        if record is None or record.is_marker or record.head.status != OBJECT_STATUS:
            return None
        if self.rulings.of_record(asset, record).verdict is not Verdict.FRESH:
            return None
        opened = self.admit(asset, record, only_fresh=True)
        return None if opened is None else _Found(opened, asked=False, unchanged=True)

    async def _ask(self, asset: Asset, record: Record | None, want: Span) -> _Found:
        """Asks the origin, several times if it fails in a way that may pass."""
        for attempt in range(self.retries + 1):
            try:
                return await self._ask_once(asset, record, want)
            except OriginError as exc:
                if not exc.retryable or attempt == self.retries:
                    raise
                await asyncio.sleep(backoff_s(attempt, random.random()))
        raise AssertionError("the last attempt returns or raises")

    async def _ask_once(self, asset: Asset, record: Record | None, want: Span) -> _Found:
        sent = self.sent_now()
        if record is not None and (
            record.is_marker
            or record.head.status != OBJECT_STATUS
            or self.rulings.of_record(asset, record).verdict is Verdict.REFUSED
        ):
            record = None
        known: Version | None = record.head.version if record is not None else None
        read: OriginRead | None = None
        head: OriginHead
        if want.size:
            try:
                read = await asset.origin.read(asset.name, first_read(want), if_none_match=known)
            except OriginError as exc:
                if exc.failure is not OriginFailure.RANGE_OUTSIDE:
                    raise
                head = await asset.origin.head(asset.name)
            else:
                if read is None:
                    assert record is not None
                    head = record.head
                else:
                    head = read.head
        else:
            head = await asset.origin.head(asset.name)
        fresh = Record(
            asset.key, head, sent.time_s, asked_change=sent.change, position=sent.position
        )
        opened = self.admit(asset, fresh, only_fresh=False)
        assert opened is not None
        if read is not None:
            opened.adopt(read)
        self.remember(asset, fresh)  # only now: other workers must find what is filled locked
        return _Found(opened, asked=True, unchanged=head.version == known)

    def sent_now(self) -> SentAt:
        """The moment for a request that is sent next."""
        return SentAt(time.time(), self.store.changes.number, self.rulings.position)

    def remember(self, asset: Asset, record: Record) -> bool:
        """Saves what the origin said, unless a write has come since it was asked.

        One that comes while it is saved is no matter: the record is refused when it is read.
        """
        if self.rulings.of_record(asset, record).verdict is Verdict.REFUSED:
            return False
        self.store.save_record(record)
        return True

    def refuse_older(self, *keys: str) -> None:
        """Sees to it that nothing asked for before under these keys, or under keys that were made
        from them, is used again in any worker. Needs no disk space."""
        self.store.changes.announce(*keys)

    def begin_to_vary(self, key: str, varies_by: tuple[str, ...]) -> None:
        """Notes that the answers of a key differ by request fields, for every worker (§4.1).

        What was stored under the key itself before is not used again.
        """
        self.store.save_record(marker(key, varies_by))
        self.store.changes.announce(vary_slot_key(key))

    def admit(self, asset: Asset, record: Record, *, only_fresh: bool) -> OpenVersion | None:
        """The open version that a record speaks of, in place of any other of the asset."""
        before = self._versions.get(asset.key)
        if before is not None and before.version == record.head.version and not before.evicted:
            opened = before
            opened.record = record
        else:
            opened = OpenVersion(self, asset, record)
        if only_fresh and not opened.is_fresh(asset.rules, time.time()):
            return None
        if before is not None and before is not opened:
            self._supersede(before)
        self._versions[asset.key] = opened
        return opened

    def reader(
        self,
        opened: OpenVersion,
        want: Span,
        result: CacheResult,
        subject: Subject = NOBODYS,
    ) -> Reader:
        """A reader that tells a hit from a version whose first bytes are still to come."""
        first = Span(want.start, min(want.start + 1, opened.version.size_bytes))
        if result is CacheResult.HIT and want.size and not opened.is_covered(first):
            result = CacheResult.MISS
        return Reader(opened, result, subject)

    # Keeping house

    def _tick(self) -> None:
        self._ticks += 1
        patient = self._ticks % PATIENT_TICKS == 0
        ask_again = self._ticks % ASK_AGAIN_TICKS == 0
        try:
            for version in list(self._waited_for):
                if not version.tick(patient=patient, ask_again=ask_again):
                    self._waited_for.discard(version)
        finally:  # one waiter's defect must not stop the others
            if self._waited_for:
                asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def _supersede(self, opened: OpenVersion) -> None:
        opened.superseded = True
        if self._versions.get(opened.asset.key) is opened:
            del self._versions[opened.asset.key]
        if opened.idle:
            opened.close()

    def _forget(self, opened: OpenVersion) -> None:
        if self._versions.get(opened.asset.key) is opened:
            del self._versions[opened.asset.key]
        opened.close()

    def _close_unused(self) -> None:
        if not self._has_too_many:
            return
        for opened in list(self._versions.values()):
            if opened.idle:
                self._forget(opened)
                if not self._has_too_many:
                    break

    @property
    def _has_too_many(self) -> bool:
        """Whether a limit is passed; it is for versions too, as one may have no extent open."""
        open_extents = self.counts.gauges[Gauge.OPEN_EXTENTS]
        return max(open_extents, len(self._versions)) > self._open_extents


def _result(found: _Found, first: bool) -> CacheResult:
    """How an open went; ``first``: the asking was for its sake."""
    if not found.asked:
        return CacheResult.HIT
    if found.unchanged:
        return CacheResult.REFRESH_HIT
    return CacheResult.MISS if first else CacheResult.HIT


def first_read(want: Span) -> Span:
    """What a cold open asks for: whole chunks, within the extent where ``want`` begins."""
    aligned = want.align(CHUNK_BYTES)
    return Span(aligned.start, min(aligned.end, (want.start // EXTENT_BYTES + 1) * EXTENT_BYTES))
