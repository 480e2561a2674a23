"""One version of an asset as a worker has it open: its files, its fills and its waiters.

A reader that finds no bytes ready adds a ``Waiter``; ``demand`` starts the fills for it
(``fill_plan`` decides which), and arriving bytes wake waiters. Fills do not know their readers.
Bytes from other workers show in the mapped headers of the extents; ``tick`` checks these while
there are waiters. ``object_files`` has the bytes that are there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from streamedge.cache.fill import Fill, FillState, is_filled_elsewhere
from streamedge.cache.fill_plan import LEAD_BYTES, next_fill, own_read_start, unread_end
from streamedge.cache.object_files import AnyExtent, ObjectFiles
from streamedge.cache.origin_pace import Paces
from streamedge.cache.rfc9111.freshness import TtlRules, lifetime_s
from streamedge.cache.storage.extent import (
    CHUNK_BYTES,
    EXTENT_BYTES,
    Extent,
)
from streamedge.cache.storage.records import (
    Asset,
    InvalidationTarget,
    Record,
    stored_fields,
)
from streamedge.cache.storage.store import Store
from streamedge.control.invalidation_index import Validity
from streamedge.errors import CacheFullError, OriginError, OriginFailure
from streamedge.ops.log import Log
from streamedge.ops.metrics import Counter, Counts, Gauge
from streamedge.origin import UNKNOWN_BYTES, Fields, OriginHead, OriginRead, Version
from streamedge.spans import NO_BYTES, Span

Failure = OriginError | CacheFullError
FILLS_MAX = 64  # running reads of one version, each worker


@dataclass(slots=True, eq=False)
class Waiter:
    """A reader's callback for when the byte at ``want.start`` is there, or cannot come."""

    want: Span
    lead_bytes: int
    eager: bool
    woken: Callable[[Failure | None], None]
    is_urgent: bool = True  # False: it reads ahead for a viewer that does not wait yet


class ReaderPlace(Protocol):
    """A reader's position, and the end of the bytes that it wants (by default the object's)."""

    position: int
    want_end: int


class ObjectContext(Protocol):
    """The parts of the cache that an open version uses."""

    store: Store
    log: Log
    counts: Counts
    retries: int
    paces: Paces
    quick_abort_bytes: int

    def extent_opened(self, open_object: OpenObject) -> None: ...

    def waiting_began(self, open_object: OpenObject) -> None: ...

    def version_failed(self, open_object: OpenObject, cause: Failure) -> None: ...

    def version_left(self, open_object: OpenObject) -> None: ...

    def version_measured(self, open_object: OpenObject) -> None: ...

    def track_task(self, task: asyncio.Task[None]) -> None: ...

    def validity(self, open_object: OpenObject, subject: InvalidationTarget) -> Validity: ...


class OpenObject:
    """An open version of ``asset``; ``record`` has the origin's response about it."""

    __slots__ = (
        "_context",
        "_filled_by_others",
        "_fills",
        "_ignores_ranges",
        "_lifetime",
        "_readers",
        "_record",
        "_trailers",
        "_waiters",
        "asset",
        "files",
        "last_seen_change",
        "superseded",
        "touched_s",
        "validity_by_scope",
        "write_slots",
    )

    def __init__(self, context: ObjectContext, asset: Asset, record: Record) -> None:
        self._context = context
        self._fills: list[Fill] = []
        self._waiters: dict[Waiter, None] = {}
        self._filled_by_others = NO_BYTES  # another worker was filling it at the last check
        self._ignores_ranges = record.head.headers.get("accept-ranges", "").lower() == "none"
        self._readers: set[ReaderPlace] = set()
        self._trailers: Callable[[], Fields] = list  # of the response with its last byte
        self.asset = asset
        self.files = ObjectFiles(
            context.store, context.counts, asset, record, lambda: context.extent_opened(self)
        )
        self.record = record
        self.write_slots: tuple[int, ...] = ()  # kept by ``InvalidationChecker``
        self.superseded = False
        self.touched_s = 0.0

    @property
    def record(self) -> Record:
        """The record of this version; replaced when the origin confirms the version."""
        return self._record

    @record.setter
    def record(self, record: Record) -> None:
        self._record = self.files.record = record
        self.last_seen_change = -1  # none: its request may have been sent before a write
        # Kept by ``InvalidationChecker``, by distribution.
        self.validity_by_scope: dict[str, tuple[int, int, Validity]] = {}
        self._lifetime: tuple[TtlRules | None, float] = None, 0.0  # for the rules used last

    @property
    def head(self) -> OriginHead:
        return self._record.head

    @property
    def version(self) -> Version:
        return self._record.head.version

    @property
    def paces(self) -> Paces:
        """Round trip and rate of each origin."""
        return self._context.paces

    @property
    def can_seek(self) -> bool:
        """Whether any range of it can be requested from its origin at any time."""
        return not self._record.head.version.id and not self._ignores_ranges

    def is_fresh(self, rules: TtlRules, now_s: float) -> bool:
        """Whether it may be served without a request to the origin.

        If the clock went backwards, everything is stale rather than fresh for ever.
        """
        record = self._record
        return now_s >= record.validated_s and record.age_s(now_s) < self.lifetime_s(rules)

    def lifetime_s(self, rules: TtlRules) -> float:
        """Its freshness lifetime, in seconds of age."""
        cached_rules, lifetime = self._lifetime
        if cached_rules is not rules:
            record = self._record
            status, fields = record.head.status, stored_fields(record.head)
            lifetime = lifetime_s(status, fields, rules, record.validated_s, record.held_s)
            self._lifetime = rules, lifetime
        return lifetime

    @property
    def fills(self) -> tuple[Fill, ...]:
        """The fills that are running for it in this worker."""
        return tuple(self._fills)

    @property
    def idle(self) -> bool:
        """Whether it may be closed: it has no reader and no fill."""
        return not self._readers and not self._fills

    @property
    def reader_count(self) -> int:
        """How many readers are open."""
        return len(self._readers)

    def is_lost(self, end: int) -> bool:
        """Whether a byte before ``end`` is missing and cannot come: the version has no validator to
        request its rest with, and no worker is filling it. Its file was evicted, or the worker that
        filled it was killed.
        """
        if not self.version.id or self._fills:
            return False
        end = min(end, self.version.size_bytes)
        position = self.files.ready_end(0, end)
        if position == end or self.files.ready(position, end) is not None:
            return False
        has_file = isinstance(self.files.find(position), Extent)
        return not (has_file and is_filled_elsewhere(self, position))

    def copy(self, span: Span) -> bytes:
        """Copies bytes that the caller knows to be there; fewer if a cache file was truncated,
        which is detected here.
        """
        data = self.files.copy(span)
        position = span.start + len(data)
        if position < span.end and self.files.ready(position, span.end) is not None:
            self.drop_extent_at(position)
        return data

    def drop_extent_at(self, position: int) -> None:
        """Drops the extent of a byte that should be in its file but is missing."""
        extent = self.files.find(position)
        if extent is None:
            return
        for fill in list(self._fills):
            if fill.writes_to(extent):
                fill.stop()
        self.files.drop(position)

    def close_extents(self, count: int, *, only_evicted: bool = False) -> int:
        """Closes up to ``count`` extents without a reader's position or a fill, oldest first;
        returns how many. Not to be called in an iteration of the event loop that called ``ready``.
        """
        read_indexes = {one.position // EXTENT_BYTES for one in self._readers}

        def is_in_use(index: int, extent: AnyExtent) -> bool:
            return index in read_indexes or any(fill.writes_to(extent) for fill in self._fills)

        return self.files.close_some(count, is_in_use, only_evicted=only_evicted)

    def extent_to_fill(self, index: int) -> Extent:
        """The extent that a fill writes to, created if needed. Raises CacheFullError."""
        return self.files.to_fill(index, self._indexes_in_use)

    def extent_write_failed(self, index: int, refused: Extent, exc: OSError) -> Extent:
        """Returns a memory extent instead of one whose write failed. Raises CacheFullError."""
        return self.files.in_memory_instead(index, refused, exc, self._indexes_in_use)

    def _indexes_in_use(self) -> set[int]:
        """The extents with a reader's position or a fill."""
        in_use = {reader.position // EXTENT_BYTES for reader in self._readers}
        in_use.update(fill.position // EXTENT_BYTES for fill in self._fills)
        return in_use

    def demand(self, want: Span, lead_bytes: int = LEAD_BYTES, *, is_urgent: bool = True) -> None:
        """Makes sure that ``want`` is on its way, if this worker can: starts at most one fill, for
        the first gap. ``is_urgent``: a reader waits for its first byte now.

        Raises CacheFullError, and OriginError when the bytes cannot be requested again.
        """
        want = want.intersect(Span(0, self.version.size_bytes))
        if not want.size or self._filled_by_others.start <= want.start < self._filled_by_others.end:
            return  # the tick checks it: readers need not do so each time
        if self.version.id and self._covered(want.start) == want.start:
            if is_filled_elsewhere(self, want.start):
                self._filled_by_others = _chunk_at(want.start)
                return
            broken = OriginError(OriginFailure.CHANGED, "its rest cannot be requested again")
            self._context.version_failed(self, broken)
            raise broken
        if len(self._fills) >= FILLS_MAX:
            return
        if is_urgent:
            self._read_beside(want.start)
        span = next_fill(want, self._covered, lead_bytes)
        if span is None:
            return
        # A gap further on is read ahead, however urgent the first byte is.
        is_urgent = is_urgent and span.start <= want.start
        fill = Fill(self, span, self._context.retries, is_urgent=is_urgent)
        if fill.claim():
            self._start(fill)
        else:
            self._filled_by_others = _chunk_at(
                span.start
            )  # another worker fills it: the tick checks

    def _read_beside(self, position: int) -> None:
        """Shortens the fill that covers ``position`` if it is too far away, so that a new fill can
        begin there.
        """
        fill = self._fill_of(position)
        if fill is not None:
            fill.expedite()
        if fill is None or not self.can_seek or self.files.has(position):
            return
        start = own_read_start(position, fill.rest, fill.pace)
        if start is not None:
            fill.shorten(start)

    def adopt(
        self,
        read: OriginRead,
        trailers: Callable[[], Fields] = list,
        *,
        ends_with_extent: bool = False,
    ) -> None:
        """Fills from a response that has already come, as far as it has missing bytes; ``trailers``
        is called at its end. ``ends_with_extent``: only to the end of its first extent, because the
        rest is requested elsewhere.
        """
        self._trailers = trailers
        fill = Fill(self, read.span, self._context.retries)
        fill.adopt(read)
        if self.can_seek:
            extent_end = (fill.position // EXTENT_BYTES + 1) * EXTENT_BYTES
            if ends_with_extent and extent_end < fill.span.end:
                fill.shorten(extent_end)
            self._end_before_others(fill)
        self._start(fill)

    def _end_before_others(self, fill: Fill) -> None:
        """Ends a response's fill where another one begins, or at once if one covers its start."""
        other = self._fill_of(fill.position)
        if other is not None:
            fill.stop()
            return
        ahead = [one.position for one in self._fills if one.position > fill.position]
        if ahead and min(ahead) < fill.span.end:
            fill.shorten(max(fill.position, min(ahead) // CHUNK_BYTES * CHUNK_BYTES))

    def ranges_ignored(self, fill: Fill) -> bool:
        """Notes that the origin ignores ranges and sends the whole object; whether another fill
        will read the bytes of ``fill`` without a new request.
        """
        self._ignores_ranges = True
        for other in self._fills:
            if other is not fill and other.position <= fill.position and other.rest.size:
                other.lengthen()
                return True
        return False

    def is_covered(self, span: Span) -> bool:
        """Whether every byte of ``span`` is there or on its way in this worker, near enough for
        the first one to be waited for.
        """
        fill = self._fill_of(span.start)
        if (
            fill is not None
            and self.can_seek
            and span.start > fill.position
            and not self.files.has(span.start)
            and own_read_start(span.start, fill.rest, fill.pace) is not None
        ):
            return False
        position = span.start
        while position < span.end:
            reach = self._covered(position)
            if reach == position:
                return False
            position = reach
        return True

    def add_waiter(self, waiter: Waiter) -> None:
        """Adds a waiter. It is called once, never from within this call."""
        self._waiters[waiter] = None
        self._context.waiting_began(self)
        if waiter.want.start >= self.version.size_bytes:  # there is no such byte
            asyncio.get_running_loop().call_soon(self._wake, waiter, None)
            return
        try:
            self.demand(waiter.want, waiter.lead_bytes, is_urgent=waiter.is_urgent)
        except (CacheFullError, OriginError) as exc:
            asyncio.get_running_loop().call_soon(self._wake, waiter, exc)

    def expedite(self, waiter: Waiter) -> None:
        """A waiter that read ahead has become urgent; does nothing if it was called already."""
        waiter.is_urgent = True
        if waiter in self._waiters:
            self._demand_for(waiter)

    def remove_waiter(self, waiter: Waiter) -> None:
        """Removes a waiter; does nothing if it was called already."""
        self._waiters.pop(waiter, None)

    def tick(self, *, patient: bool, recheck: bool) -> bool:
        """Wakes waiters whose data is ready; returns False if none remain.

        ``patient``: not only eager waiters. ``recheck``: check whether chunks that another worker
        was filling are free to fill here.
        """
        if recheck:
            self._filled_by_others = NO_BYTES
        tried_starts: set[int] = set()
        for waiter in list(self._waiters):
            start = waiter.want.start
            if self.files.has(start):
                if waiter.eager or patient:
                    self._wake(waiter, None)
            elif recheck and start not in tried_starts:
                tried_starts.add(start)
                self._demand_for(waiter)
        return bool(self._waiters)

    def _demand_for(self, waiter: Waiter) -> None:
        """Demands a waiter's bytes; the waiter is called with a failure."""
        try:
            self.demand(waiter.want, waiter.lead_bytes, is_urgent=waiter.is_urgent)
        except (CacheFullError, OriginError) as exc:
            self._wake(waiter, exc)

    def close(self) -> None:
        """Closes all files. Raises RuntimeError unless it is idle."""
        if not self.idle:
            raise RuntimeError(f"{self.asset.name!a} is closed while it has readers or fills")
        self.superseded = True  # for objects that still refer to it
        self.files.close()

    def arrived(self, fill: Fill, size: int) -> None:
        """Counts bytes from the origin; stops a fill without readers."""
        self._context.counts.add(Counter.ORIGIN_BYTES, self.asset.origin_name, size)
        if fill.position >= fill.last_unread:
            self._stop_unread(fill)

    def stored(self, extent: Extent, size: int) -> None:
        """Counts bytes that a fill has written, unless it was to memory."""
        if extent.path:
            self._context.store.stored(size)

    def filled(self, fill: Fill) -> None:
        """Wakes eager waiters whose bytes have arrived; the tick wakes the others."""
        for waiter in list(self._waiters):
            if waiter.eager and waiter.want.start < fill.position:
                start = waiter.want.start
                if self.files.has(start):
                    self._wake(waiter, None)

    def end_reached(self, size_bytes: int) -> None:
        """Sets the size of a version whose response had no length."""
        record = self._record
        version = replace(record.head.version, size_bytes=size_bytes)
        trailers, self._trailers = tuple(self._trailers()), list
        self.record = replace(record, head=replace(record.head, version=version), trailers=trailers)
        self._context.version_measured(self)

    def fill_ended(self, fill: Fill) -> None:
        """Wakes the waiters that the fill has served or failed."""
        self._fills.remove(fill)
        self._context.counts.gauges[Gauge.RUNNING_FILLS] -= 1
        self._context.counts.add(Counter.FILLS, fill.state.value)
        rest = Span(fill.position, fill.span.end)
        if fill.state is FillState.FAILED and fill.cause is not None:
            self._context.log.event(
                "fill_failed",
                asset=self.asset.key,
                span=fill.span,
                at=fill.position,
                error=str(fill.cause),
            )
            self._context.version_failed(self, fill.cause)
        elif fill.is_stopped and self.version.id:
            left = OriginError(OriginFailure.BROKEN, "the last reader disconnected")
            self._context.version_failed(self, left)  # its rest cannot be requested
        for waiter in list(self._waiters):
            start = waiter.want.start
            if self.files.has(start):
                self._wake(waiter, None)
            elif fill.state is FillState.FAILED and rest.start <= start < rest.end:
                self._wake(waiter, fill.cause)
            elif start < self.version.size_bytes:
                self._demand_for(waiter)
            else:
                self._wake(waiter, None)  # there is no such byte: the object ends before it
        self._left()

    def validity(self, subject: InvalidationTarget) -> Validity:
        """Its validity after writes and invalidations, for one distribution that serves it."""
        return self._context.validity(self, subject)

    def enter(self, reader: ReaderPlace) -> None:
        """Adds a reader."""
        self._readers.add(reader)

    def leave(self, reader: ReaderPlace) -> None:
        """Removes a reader; does nothing if it was removed already."""
        if reader in self._readers:
            self._readers.remove(reader)
            for fill in list(self._fills):
                self._stop_unread(fill)
            self._left()

    def _is_read(self, fill: Fill) -> bool:
        """Whether any reader may still read the bytes of a fill."""
        position, end = fill.rest
        return any(one.position < end and one.want_end > position for one in self._readers)

    def _stop_unread(self, fill: Fill) -> None:
        """Stops a fill without readers, unless ``fill_plan`` lets it go on."""
        if self._is_read(fill):
            fill.last_unread = UNKNOWN_BYTES
        elif fill.last_unread == UNKNOWN_BYTES:
            last = unread_end(fill.rest, self._context.quick_abort_bytes)
            if last > fill.position:
                fill.last_unread = last
            else:
                fill.stop()
        elif fill.position >= fill.last_unread:
            fill.stop()

    def _left(self) -> None:
        if self.idle:
            self._context.version_left(self)

    def _start(self, fill: Fill) -> None:
        self._fills.append(fill)
        self._context.counts.gauges[Gauge.RUNNING_FILLS] += 1
        self._context.track_task(fill.start())

    def _wake(self, waiter: Waiter, failure: Failure | None) -> None:
        if waiter in self._waiters:  # an earlier callback may have removed it
            del self._waiters[waiter]
            waiter.woken(failure)

    def _covered(self, position: int) -> int:
        """The end of the bytes from ``position`` on that are there or on their way here."""
        fill = self._fill_of(position)
        if fill is not None:
            return fill.span.end
        chunk_end = min((position // CHUNK_BYTES + 1) * CHUNK_BYTES, self.version.size_bytes)
        ready = self.files.ready(position, chunk_end)
        return position if ready is None else position + ready.size_bytes

    def _fill_of(self, position: int) -> Fill | None:
        """The running fill that covers a byte, or None."""
        for fill in self._fills:
            if fill.position <= position < fill.span.end:
                return fill
        return None


def _chunk_at(position: int) -> Span:
    start = position // CHUNK_BYTES * CHUNK_BYTES
    return Span(start, start + CHUNK_BYTES)
