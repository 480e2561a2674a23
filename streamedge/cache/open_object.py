"""One version of an asset as a worker has it open: its extents, its fills, and who waits for what.

Demand goes down and bytes go up here: a reader that finds nothing ready leaves a ``Waiter``;
``demand`` turns want into fills (``plan`` decides, ``Fill`` does); landing bytes wake waiters.
Readers come and go without a fill noticing. What another worker fills is seen in the extents'
mapped headers, which ``tick`` looks at while somebody waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from streamedge.cache.fill import Fill, FillState, is_filled_elsewhere
from streamedge.cache.fill_plan import LEAD_BYTES, goes_on_unread, next_fill, own_read_start
from streamedge.cache.origin_pace import Paces
from streamedge.cache.rfc9111.freshness import TtlRules, lifetime_s
from streamedge.cache.storage.extent import (
    CHUNK_BYTES,
    EXTENT_BYTES,
    HEADER_BYTES,
    Extent,
    Ready,
    quick_ready,
)
from streamedge.cache.storage.records import (
    Asset,
    InvalidationTarget,
    Record,
    stored_fields,
    version_digest,
)
from streamedge.cache.storage.store import Store
from streamedge.control.invalidation_index import Validity
from streamedge.errors import CacheFullError, OriginError, OriginFailure
from streamedge.ops.log import Log
from streamedge.ops.metrics import Counter, Counts, Gauge
from streamedge.origin import UNKNOWN_BYTES, Fields, OriginHead, OriginRead, Version
from streamedge.spans import Span

Failure = OriginError | CacheFullError
CLOSE_DELAY_S = 0.01  # for what was found ready in a file to be sent first
FILLS_MAX = 64  # running reads of one version, each worker


@dataclass(slots=True, eq=False)
class Waiter:
    """A reader's wish to be called when the byte at ``want.start`` is there, or cannot come."""

    want: Span
    lead_bytes: int
    eager: bool
    woken: Callable[[Failure | None], None]
    is_urgent: bool = True  # False: it reads ahead for a viewer that does not wait yet


class ReaderPlace(Protocol):
    """Where a reader stands, and up to where it has asked to read; until it says so, to the end."""

    position: int
    want_end: int


class ObjectContext(Protocol):
    """What an open version needs of the cache it lives in."""

    store: Store
    log: Log
    counts: Counts
    retries: int
    paces: Paces
    quick_abort_bytes: int

    def extent_opened(self, version: OpenObject) -> None: ...

    def waiting_began(self, version: OpenObject) -> None: ...

    def version_failed(self, version: OpenObject, cause: Failure) -> None: ...

    def version_left(self, version: OpenObject) -> None: ...

    def version_measured(self, version: OpenObject) -> None: ...

    def track_task(self, task: asyncio.Task[None]) -> None: ...

    def validity(self, opened: OpenObject, subject: InvalidationTarget) -> Validity: ...


class OpenObject:
    """A version of ``asset``; ``record`` is what the origin said of it."""

    __slots__ = (
        "_context",
        "_extents",
        "_filled_by_others",
        "_fills",
        "_ignores_ranges",
        "_lifetime",
        "_memory",
        "_readers",
        "_record",
        "_trailers",
        "_waiters",
        "asset",
        "last_seen_change",
        "superseded",
        "touched_s",
        "validity_by_scope",
    )

    def __init__(self, context: ObjectContext, asset: Asset, record: Record) -> None:
        self._context = context
        self._extents: dict[int, Extent] = {}
        self._memory: dict[int, Extent] = {}
        self._fills: list[Fill] = []
        self._waiters: dict[Waiter, None] = {}
        self._filled_by_others = Span(0, 0)  # lately found being filled by another worker
        self._ignores_ranges = record.head.headers.get("accept-ranges", "").lower() == "none"
        self._readers: set[ReaderPlace] = set()
        self._trailers: Callable[[], Fields] = list  # of the answer that brings its end
        self.asset = asset
        self.record = record
        self.last_seen_change = -1  # none: its request may have been sent before a write
        self.superseded = False
        self.touched_s = 0.0

    @property
    def record(self) -> Record:
        """What the origin said; set anew when it confirms the version."""
        return self._record

    @record.setter
    def record(self, record: Record) -> None:
        self._record = record
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
        """How quick each origin is."""
        return self._context.paces

    @property
    def can_seek(self) -> bool:
        """Whether its origin can be asked for any part of it, at any time."""
        return not self._record.head.version.id and not self._ignores_ranges

    def is_fresh(self, rules: TtlRules, now_s: float) -> bool:
        """Whether it may be served without asking the origin.

        A clock that went backwards makes everything stale rather than fresh for ever.
        """
        record = self._record
        return now_s >= record.validated_s and record.age_s(now_s) < self.lifetime_s(rules)

    def lifetime_s(self, rules: TtlRules) -> float:
        """For how long it is fresh, in seconds of its age."""
        cached_rules, lifetime = self._lifetime
        if cached_rules is not rules:
            head = self._record.head
            fields = stored_fields(head)
            lifetime = lifetime_s(head.status, fields, rules, self._record.validated_s)
            self._lifetime = rules, lifetime
        return lifetime

    @property
    def open_extents(self) -> int:
        """Files (and memory in their stead) that this version keeps open."""
        return len(self._extents) + len(self._memory)

    @property
    def idle(self) -> bool:
        """Whether it may be closed: nobody reads, nothing fills."""
        return not self._readers and not self._fills

    @property
    def in_memory(self) -> bool:
        """Whether any of it lies in memory, which is given back as soon as possible."""
        return bool(self._memory)

    @property
    def evicted(self) -> bool:
        """Whether any of its files has been unlinked, so that newcomers should open anew."""
        return any(extent.evicted for extent in self._extents.values())

    def ready(self, position: int, end: int) -> Ready | None:
        """What can be sent from ``position`` on without waiting, within one extent."""
        index = position // EXTENT_BYTES
        within = position - index * EXTENT_BYTES
        extent = self._extents.get(index) or self._find(index)
        if extent is not None:
            if extent.complete:
                size, left = end - position, extent.body_bytes - within
                if size > left:  # noqa: PLR1730 - for every hit: a third of what min() takes
                    size = left
                if size <= 0:
                    return None
                return quick_ready((extent.fd, HEADER_BYTES + within, size))
            ready = extent.ready(within, within + end - position)
            if ready is not None:
                return ready
        memory = self._memory.get(index)
        return memory.ready(within, within + end - position) if memory is not None else None

    def ready_end(self, position: int, end: int) -> int:
        """Up to where bytes from ``position`` on are known to be there, at most ``end``, in every
        extent. What has to be checked first is checked a few chunks at a time: there may be more.
        """
        while position < end:
            extent = self._extents.get(position // EXTENT_BYTES)
            checks = 0 if extent is None else extent.checks
            ready = self.ready(position, end)
            if ready is None:
                break
            position += ready.size_bytes
            if extent is not None and extent.checks != checks:
                break
        return position

    def is_complete(self, position: int) -> bool:
        """Whether the extent at ``position`` is known to be whole."""
        extent = self._extents.get(position // EXTENT_BYTES)
        return extent is not None and extent.complete

    def copy(self, span: Span) -> bytes:
        """Bytes that the caller knows to be there; fewer where a cache file has been cut short,
        which is noticed here.
        """
        parts = []
        position = span.start
        while position < span.end:
            ready = self.ready(position, span.end)
            if ready is None:
                break
            index, within = divmod(position, EXTENT_BYTES)
            extent = self._extents.get(index)
            if extent is None or extent.fd != ready.fd:
                extent = self._memory[index]
            part = extent.read(within, ready.size_bytes)
            parts.append(part)
            position += len(part)
            if len(part) < ready.size_bytes:
                self.lose(position)
                break
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def lose(self, position: int) -> None:
        """Drops the extent of a byte that should be in its file, and is not."""
        index = position // EXTENT_BYTES
        extent = self._extents.get(index)
        if extent is None:
            return
        for fill in list(self._fills):
            if fill.writes_to(extent):
                fill.stop()
        self._context.store.drop_extent(extent)
        del self._extents[index]
        self._context.counts.gauges[Gauge.OPEN_EXTENTS] -= 1
        # What was found ready in it may be on its way to be sent.
        loop = asyncio.get_running_loop()
        loop.call_later(CLOSE_DELAY_S, self._context.store.close_extent, extent)

    def close_extents(self, count: int, *, only_evicted: bool = False) -> int:
        """Closes up to ``count`` extents that no reader stands in and no fill writes to, those
        first that were opened first; how many it closed. Not within a turn in which ``ready`` was
        asked: what it said may be sent at the end of that turn.
        """
        in_use = {one.position // EXTENT_BYTES for one in self._readers}
        closed = 0
        for index, extent in list(self._extents.items()):
            if closed == count:
                break
            if only_evicted and not extent.evicted:
                continue
            if index in in_use or any(fill.writes_to(extent) for fill in self._fills):
                continue
            del self._extents[index]
            self._context.store.close_extent(extent)
            closed += 1
        self._context.counts.gauges[Gauge.OPEN_EXTENTS] -= closed
        return closed

    def demand(self, want: Span, lead_bytes: int = LEAD_BYTES, *, is_urgent: bool = True) -> None:
        """Sees to it that ``want`` is on its way, where this worker can: with one more fill at
        the most, for the first gap. ``is_urgent``: somebody waits for its first byte now.

        Raises CacheFullError, and OriginError when it could not be asked for again.
        """
        want = want.intersect(Span(0, self.version.size_bytes))
        if not want.size or self._filled_by_others.start <= want.start < self._filled_by_others.end:
            return  # every reader here wants the same: one look in a while is enough
        if self.version.id and self._covered(want.start) == want.start:
            if is_filled_elsewhere(self, want.start):
                self._filled_by_others = _chunk_at(want.start)
                return
            broken = OriginError(OriginFailure.CHANGED, "what is left of it cannot be asked for")
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
            )  # another worker is at it: the tick will tell

    def _read_beside(self, position: int) -> None:
        """Makes room for a read at ``position`` where the fill that is to bring it is too far
        away: that fill ends where the new one begins.
        """
        fill = self._fill_of(position)
        if fill is not None:
            fill.expedite()
        if fill is None or not self.can_seek or self.ready(position, position + 1) is not None:
            return
        start = own_read_start(position, fill.rest, fill.pace)
        if start is not None:
            fill.shorten(start)

    def adopt(self, read: OriginRead, trailers: Callable[[], Fields] = list) -> None:
        """Fills from an answer that has already come, as far as it brings what is missing;
        ``trailers`` are asked for at its end.
        """
        self._trailers = trailers
        fill = Fill(self, read.span, self._context.retries)
        fill.adopt(read)
        if self.can_seek:
            self._end_before_others(fill)
        self._start(fill)

    def _end_before_others(self, fill: Fill) -> None:
        """Lets an answer end where a running fill begins, or at once within what one brings."""
        other = self._fill_of(fill.position)
        if other is not None:
            fill.stop()
            return
        ahead = [one.position for one in self._fills if one.position > fill.position]
        if ahead and min(ahead) < fill.span.end:
            fill.shorten(max(fill.position, min(ahead) // CHUNK_BYTES * CHUNK_BYTES))

    def ranges_ignored(self, fill: Fill) -> bool:
        """Notes that the origin sends all of the object whatever is asked for; whether another
        fill will bring what ``fill`` was to, without any new request.
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
            and self.ready(span.start, span.start + 1) is None
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
        """Registers a wish; the waiter is called once, never from within this call."""
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
        """A waiter that read ahead has become urgent; does nothing for one that was answered."""
        waiter.is_urgent = True
        if waiter in self._waiters:
            self._demand_for(waiter)

    def remove_waiter(self, waiter: Waiter) -> None:
        """Takes a wish back; does nothing for one that has been answered."""
        self._waiters.pop(waiter, None)

    def tick(self, *, patient: bool, ask_again: bool) -> bool:
        """Wakes whoever can go on; False when nobody waits any more.

        ``patient``: not only eager waiters. ``ask_again``: look whether chunks that another worker
        was filling have become free to fill here.
        """
        if ask_again:
            self._filled_by_others = Span(0, 0)
        tried_starts: set[int] = set()
        for waiter in list(self._waiters):
            start = waiter.want.start
            if self.ready(start, start + 1) is not None:
                if waiter.eager or patient:
                    self._wake(waiter, None)
            elif ask_again and start not in tried_starts:
                tried_starts.add(start)
                self._demand_for(waiter)
        return bool(self._waiters)

    def _demand_for(self, waiter: Waiter) -> None:
        """Demands what a waiter wants; a failure is the waiter's answer."""
        try:
            self.demand(waiter.want, waiter.lead_bytes, is_urgent=waiter.is_urgent)
        except (CacheFullError, OriginError) as exc:
            self._wake(waiter, exc)

    def touch(self) -> None:
        """Marks its files as used now."""
        for key in (self.asset.key, *self.asset.parent_keys):
            self._context.store.touch_record(key)
        for extent in self._extents.values():
            if extent.path:
                self._context.store.touch(extent.path)

    def close(self) -> None:
        """Closes all files. Only when idle."""
        assert self.idle
        self.superseded = True  # for whoever still remembers it
        for extent in (*self._extents.values(), *self._memory.values()):
            self._context.store.close_extent(extent)
            self._context.counts.gauges[Gauge.OPEN_EXTENTS] -= 1
        self._extents.clear()
        self._memory.clear()

    def extent_to_fill(self, index: int) -> Extent:
        """The extent that a fill writes to, made if need be. Raises CacheFullError."""
        memory = self._memory.get(index)
        if memory is not None:
            return memory
        extent = self._extents.get(index)
        if extent is None:
            self._drop_passed_memory()
            extent = self._context.store.make_extent(*self._identity(index))
            self._keep(index, extent)
        return extent

    def extent_write_failed(self, index: int, refused: Extent, exc: OSError) -> Extent:
        """Memory in place of an extent whose disk refused. Raises CacheFullError."""
        if not refused.path:
            raise CacheFullError(f"cannot store: {exc}") from exc
        if index in self._memory:
            return self._memory[index]
        self._context.store.note_disk_failure(exc)
        self._drop_passed_memory()
        memory = self._context.store.make_memory_extent(*self._identity(index))
        self._keep(index, memory)
        return memory

    def arrived(self, fill: Fill, size: int) -> None:
        """Counts bytes from the origin; ends a fill that nobody reads any more."""
        self._context.counts.add(Counter.ORIGIN_BYTES, self.asset.origin_name, size)
        if fill.position >= fill.last_unread:
            self._stop_unread(fill)

    def stored(self, extent: Extent, size: int) -> None:
        """Counts bytes that a fill has written, unless it was to memory."""
        if extent.path:
            self._context.store.stored(size)

    def filled(self, fill: Fill) -> None:
        """Wakes eager waiters that bytes have landed for; the others follow with the tick."""
        for waiter in list(self._waiters):
            if waiter.eager and waiter.want.start < fill.position:
                start = waiter.want.start
                if self.ready(start, start + 1) is not None:
                    self._wake(waiter, None)

    def end_reached(self, size_bytes: int) -> None:
        """Notes the size of what came without a length."""
        record = self._record
        version = replace(record.head.version, size_bytes=size_bytes)
        trailers, self._trailers = tuple(self._trailers()), list
        self.record = replace(record, head=replace(record.head, version=version), trailers=trailers)
        self._context.version_measured(self)

    def fill_ended(self, fill: Fill) -> None:
        """Wakes everybody whom the fill served or fails."""
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
            left = OriginError(OriginFailure.BROKEN, "its last reader has left")
            self._context.version_failed(self, left)  # the rest of this answer cannot be asked for
        for waiter in list(self._waiters):
            start = waiter.want.start
            if self.ready(start, start + 1) is not None:
                self._wake(waiter, None)
            elif fill.state is FillState.FAILED and rest.start <= start < rest.end:
                self._wake(waiter, fill.cause)
            elif start < self.version.size_bytes:
                self._demand_for(waiter)
            else:
                self._wake(waiter, None)  # there is no such byte: the end has been found
        self._left()

    def validity(self, subject: InvalidationTarget) -> Validity:
        """What writes and invalidations say of it, for one of the distributions that serve it."""
        return self._context.validity(self, subject)

    def enter(self, reader: ReaderPlace) -> None:
        """A reader has come."""
        self._readers.add(reader)

    def leave(self, reader: ReaderPlace) -> None:
        """A reader has gone; does nothing for one that had gone before."""
        if reader in self._readers:
            self._readers.remove(reader)
            for fill in list(self._fills):
                self._stop_unread(fill)
            self._left()

    def _is_read(self, fill: Fill) -> bool:
        """Whether anybody may still come to read what a fill brings."""
        position, end = fill.rest
        return any(one.position < end and one.want_end > position for one in self._readers)

    def _stop_unread(self, fill: Fill) -> None:
        """Ends a fill whose readers have all left, unless it is to go on (``plan``)."""
        if self._is_read(fill):
            fill.last_unread = UNKNOWN_BYTES
        elif fill.last_unread == UNKNOWN_BYTES:
            last = goes_on_unread(fill.rest, self._context.quick_abort_bytes)
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
        if waiter in self._waiters:  # whoever was woken before it may have taken it back
            del self._waiters[waiter]
            waiter.woken(failure)

    def _covered(self, position: int) -> int:
        """Up to where bytes from ``position`` on are there or on their way in this worker."""
        fill = self._fill_of(position)
        if fill is not None:
            return fill.span.end
        chunk_end = min((position // CHUNK_BYTES + 1) * CHUNK_BYTES, self.version.size_bytes)
        ready = self.ready(position, chunk_end)
        return position if ready is None else position + ready.size_bytes

    def _fill_of(self, position: int) -> Fill | None:
        """The running fill that is to bring a byte."""
        for fill in self._fills:
            if fill.position <= position < fill.span.end:
                return fill
        return None

    def _find(self, index: int) -> Extent | None:
        digest, body_bytes = self._identity(index)
        extent = self._context.store.find_extent(digest, body_bytes)
        if extent is not None:
            extent.settle()
            self._keep(index, extent)
        return extent

    def _keep(self, index: int, extent: Extent) -> None:
        (self._extents if extent.path else self._memory)[index] = extent
        self._context.counts.gauges[Gauge.OPEN_EXTENTS] += 1
        self._context.extent_opened(self)

    def _drop_passed_memory(self) -> None:
        """Frees memory that no reader stands in and no fill writes to."""
        in_use = {reader.position // EXTENT_BYTES for reader in self._readers}
        in_use.update(fill.position // EXTENT_BYTES for fill in self._fills)
        for index in self._memory.keys() - in_use:
            self._context.store.close_extent(self._memory.pop(index))
            self._context.counts.gauges[Gauge.OPEN_EXTENTS] -= 1

    def _identity(self, index: int) -> tuple[bytes, int]:
        version = self.version
        body = EXTENT_BYTES
        if version.is_measured:
            body = min(EXTENT_BYTES, version.size_bytes - index * EXTENT_BYTES)
        return version_digest(self.asset.key, version, index), body


def _chunk_at(position: int) -> Span:
    start = position // CHUNK_BYTES * CHUNK_BYTES
    return Span(start, start + CHUNK_BYTES)
