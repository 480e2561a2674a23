"""One running read from an origin, into the cache. It belongs to the asset, not to a reader.

    EMPTY ──claim──▸ FILLING ──last byte, or what others bring──▸ COMPLETE
                        │  ▲
                retryable  resumed where it stopped, against the same version
                        ▼  │
                     FILLING ──budget spent, or not retryable──▸ FAILED(cause)

A fill holds the locks of a window of chunks ahead of its position and moves the window as it goes,
so that another worker can begin its own read beyond it. It writes only what it holds. Where it
meets bytes that are there, or that another fill is bringing, it ends, unless reading across them
is cheaper than a new request behind them (``plan``). It does not know its readers: it tells its
``FillOwner`` when bytes have landed.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from enum import Enum
from typing import Protocol

from streamedge.cache.fill_plan import (
    SKIP_MAX_BYTES,
    WINDOW_MIN_BYTES,
    Pace,
    backoff_s,
    is_worth_skipping,
    window_bytes,
)
from streamedge.cache.origin_pace import Paces, Throughput
from streamedge.cache.storage.extent import CHUNK_BYTES, EXTENT_BYTES, HEADER_BYTES, Extent
from streamedge.cache.storage.records import Asset
from streamedge.errors import CacheFullError, OriginError, OriginFailure
from streamedge.origin import UNKNOWN_BYTES, OriginRead, PrioritizedRead, Version
from streamedge.spans import Span

TAIL_WAIT_S = 0.002  # for the rest of a write, before its beginning is stored by itself
WRITE_BYTES = 256 << 10  # written at once where bytes come quickly; aligned in the file


class FillState(Enum):
    """Where a fill stands; the cause of FAILED is in ``Fill.cause``."""

    FILLING = "filling"
    COMPLETE = "complete"
    FAILED = "failed"


class FillOwner(Protocol):
    """What a fill needs of the open version that started it."""

    asset: Asset

    @property
    def version(self) -> Version: ...

    @property
    def paces(self) -> Paces: ...

    @property
    def can_seek(self) -> bool: ...

    def extent_to_fill(self, index: int) -> Extent: ...

    def extent_write_failed(self, index: int, refused: Extent, exc: OSError) -> Extent: ...

    def ranges_ignored(self, fill: Fill) -> bool: ...

    def arrived(self, fill: Fill, size: int) -> None: ...

    def stored(self, extent: Extent, size: int) -> None: ...

    def filled(self, fill: Fill) -> None: ...

    def end_reached(self, size_bytes: int) -> None: ...

    def fill_ended(self, fill: Fill) -> None: ...


class Fill:
    """Reads ``span`` of the owner's version; ``position`` is the next byte to arrive.

    ``span.end`` is where it means to end; it comes nearer when the fill meets what others bring.
    """

    __slots__ = (
        "_answer_end",
        "_claims",
        "_flush_timer",
        "_full",
        "_has_begun",
        "_held_end",
        "_is_stopped",
        "_is_urgent",
        "_owner",
        "_read",
        "_retries",
        "_running_read",
        "_tail",
        "_tail_start",
        "_task",
        "_throughput",
        "_window_bytes",
        "cause",
        "last_unread",
        "position",
        "span",
        "state",
    )

    def __init__(
        self, owner: FillOwner, span: Span, retries: int, *, is_urgent: bool = True
    ) -> None:
        self._owner = owner
        self._is_urgent = is_urgent
        self._retries = retries
        self._claims: dict[int, tuple[Extent, Span]] = {}  # by extent: chunks that are locked
        self._held_end = span.start  # up to here chunks are locked, or somebody else's
        self._window_bytes = WINDOW_MIN_BYTES
        self._read: OriginRead | None = None
        self._running_read: OriginRead | None = None
        self._answer_end = span.end  # of the running answer
        self._throughput = Throughput(owner.paces.of(owner.asset.origin_name).rate_bytes_s)
        self._tail = b""  # arrived and not stored yet, from _tail_start on
        self._tail_start = 0
        self._flush_timer: asyncio.TimerHandle | None = None
        self._full: CacheFullError | None = None  # met where it could not be told
        self._task: asyncio.Task[None] | None = None
        self._has_begun = False
        self._is_stopped = False
        self.span = span
        self.position = span.start
        self.last_unread = UNKNOWN_BYTES  # where to look whether anybody reads it at all
        self.state = FillState.FILLING
        self.cause: OriginError | CacheFullError | None = None

    @property
    def rest(self) -> Span:
        """What it has still to bring."""
        return Span(self.position, self.span.end)

    @property
    def pace(self) -> Pace:
        """Its present rate, and its origin's round trip."""
        round_trip_s = self._owner.paces.of(self._owner.asset.origin_name).round_trip_s
        now_s = asyncio.get_running_loop().time()
        return Pace(round_trip_s, self._throughput.rate_bytes_s(now_s))

    @property
    def is_stopped(self) -> bool:
        """Whether ``stop`` has ended it."""
        return self._is_stopped

    # --- what it holds --------------------------------------------------------------------

    def claim(self) -> bool:
        """Locks what this fill may write first; False when there is nothing left that it could.

        Narrows ``span`` to what was missing and free, beginning at the first missing byte.
        Raises CacheFullError.
        """
        index, within = divmod(self.span.start, EXTENT_BYTES)
        extent = self._owner.extent_to_fill(index)
        base, chunk = index * EXTENT_BYTES, within // CHUNK_BYTES
        end = min(self.span.end, base + extent.body_bytes)
        chunk += -(-extent.whole_bytes(chunk, end - base - chunk * CHUNK_BYTES) // CHUNK_BYTES)
        self._begin_at(Span(base + chunk * CHUNK_BYTES, end))
        held = self._claims.get(index)
        if held is None or held[1].start != chunk:
            self.release()
            return False
        valid_bytes = extent.valid_bytes(chunk)
        self.position += valid_bytes
        self.span = Span(self.position, self.span.end)
        return self.position < self.span.end

    def adopt(self, read: OriginRead) -> None:
        """Begins with an answer that has already come, whatever bytes it brings.

        Locks what it may write where the answer begins, before any other worker can. A chunk is
        stored from its start on, so an answer that begins within one is of use from the next on.
        """
        self._read = read
        start, end = read.span
        with contextlib.suppress(CacheFullError):  # met again, and told, when the first byte comes
            index, within = divmod(start, EXTENT_BYTES)
            chunk, missing = divmod(within, CHUNK_BYTES)
            if missing and self._owner.extent_to_fill(index).valid_bytes(chunk) < missing:
                start = min(end, start - missing + CHUNK_BYTES)
            self._begin_at(Span(start, end))

    def shorten(self, end: int) -> None:
        """Ends at ``end``, a chunk's start ahead of it, because another fill begins there."""
        self._release(Span(end, UNKNOWN_BYTES))
        self._held_end = min(self._held_end, end)
        self._end_at(end)

    def lengthen(self) -> None:
        """Reads its answer to the end after all."""
        self.span = Span(self.span.start, self._answer_end)

    def expedite(self) -> None:
        """A reader waits for what it brings now: a derived object's sources become urgent, too."""
        if not self._is_urgent:
            self._is_urgent = True
            self._expedite_read()

    def _expedite_read(self) -> None:
        if self._is_urgent and isinstance(self._running_read, PrioritizedRead):
            self._running_read.expedite()

    def stop(self) -> None:
        """Ends where it is, at once, with all that it holds given back."""
        with contextlib.suppress(CacheFullError):
            self._flush()
        self.release()
        self._is_stopped = True
        self.span = Span(self.span.start, self.position)
        if self._has_begun and self._task is not None:
            self._task.cancel()  # before it has begun, cancelled it would let go of nothing

    def release(self) -> None:
        """Gives all locks back."""
        self._release(Span(0, UNKNOWN_BYTES))

    def writes_to(self, extent: Extent) -> bool:
        """Whether it holds any of an extent."""
        return any(held is extent for held, _chunks in self._claims.values())

    def _begin_at(self, span: Span) -> None:
        self.span = span
        self.position = span.start
        self._answer_end = span.end
        self._held_end = span.start // CHUNK_BYTES * CHUNK_BYTES
        self._hold_ahead(span.start)

    def _hold_ahead(self, position: int) -> None:
        """Moves the window of locked chunks: from what has been stored to well ahead of
        ``position``.
        """
        self._window_bytes = window_bytes(self.pace)
        self._release(Span(0, self.position // CHUNK_BYTES * CHUNK_BYTES))
        while self._held_end < min(self.span.end, position + self._window_bytes):
            if not self._hold_more(position):
                return

    def _hold_more(self, position: int) -> bool:
        """Locks a run of chunks behind those that it holds; False when that has to wait."""
        index, within = divmod(self._held_end, EXTENT_BYTES)
        extent, base = self._owner.extent_to_fill(index), index * EXTENT_BYTES
        first = within // CHUNK_BYTES
        target = min(self.span.end, position + self._window_bytes, base + extent.body_bytes)
        if target <= self._held_end:
            self._held_end = target
            return False
        chunks = extent.lock(Span(first, -(-(target - base) // CHUNK_BYTES)))
        if chunks.size:
            whole = self._first_whole_run(extent, chunks)
            extent.unlock(Span(whole, chunks.end))
            chunks = Span(first, whole)
        if chunks.size:
            _extent, held = self._claims.get(index, (extent, chunks))
            if held.end < first:  # between them lies what another worker fills
                extent.unlock(held)
                held = chunks
            self._claims[index] = extent, Span(held.start, chunks.end)
            self._held_end = min(base + chunks.end * CHUNK_BYTES, base + extent.body_bytes)
        elif self._owner.can_seek:
            self._end_at(base + first * CHUNK_BYTES)
            return False
        elif self._held_end <= position:
            self._held_end += CHUNK_BYTES  # another worker's, which this answer has to pass
        else:
            return False
        return True

    def _first_whole_run(self, extent: Extent, chunks: Span) -> int:
        """The chunk where a fill ends because so much is there from it on; the end of ``chunks``
        when there is none. Makes the others ready to be written.
        """
        skipped = chunks.start
        for chunk in range(chunks.start, chunks.end):
            valid_bytes = extent.resume(chunk)
            if chunk < skipped or not self._owner.can_seek:
                continue
            if valid_bytes == extent.chunk_bytes(chunk):
                run_bytes = extent.whole_bytes(chunk, SKIP_MAX_BYTES + 1)
                if not is_worth_skipping(run_bytes, self.pace):
                    return chunk
                skipped = chunk + -(-run_bytes // CHUNK_BYTES)
        return chunks.end

    def _end_at(self, end: int) -> None:
        if end < self.span.end:
            self.span = Span(self.span.start, max(end, self.position))

    def _release(self, span: Span) -> None:
        """Gives back the locks of the chunks in ``span``: a beginning, an end, or all of them."""
        for index, (extent, chunks) in list(self._claims.items()):
            base = index * EXTENT_BYTES // CHUNK_BYTES
            given = chunks.intersect(
                Span(span.start // CHUNK_BYTES - base, -(-span.end // CHUNK_BYTES) - base)
            )
            if not given.size:
                continue
            extent.unlock(given)
            kept = Span(given.end, chunks.end)
            if given.start > chunks.start:
                kept = Span(chunks.start, given.start)
            self._claims[index] = extent, kept
            if not kept.size:
                del self._claims[index]
                extent.settle()

    # --- the answer -----------------------------------------------------------------------

    def start(self) -> asyncio.Task[None]:
        """Begins to read, in a task of its own."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="fill")
        return self._task

    async def _run(self) -> None:
        """Reads to the end, resuming after failures; ends COMPLETE or FAILED, never raises."""
        self._has_begun = True
        try:
            await self._read_all()
            self.state = FillState.COMPLETE
        except (OriginError, CacheFullError) as exc:
            self._fail(exc)
        except asyncio.CancelledError:
            if not self._is_stopped or self._task is None:
                self._fail(OriginError(OriginFailure.BROKEN, "the edge is stopping"))
                raise
            self._task.uncancel()
            self.state = FillState.COMPLETE
        except Exception as exc:  # noqa: BLE001 - a defect, and whoever waits must be told of it
            subject = f"{self._owner.asset.origin_name} {self._owner.asset.name!a}"
            failure = OriginError(
                OriginFailure.UNAVAILABLE, f"{subject}: a defect of the edge: {exc!r}"
            )
            failure.__cause__ = exc
            self._fail(failure)
        finally:
            self._cancel_flush()
            self.release()
            read, self._read = self._read, None
            self._owner.fill_ended(self)
            if read is not None:
                await read.close()

    async def _read_all(self) -> None:
        idle_attempts = 0
        while self.position < self.span.end:
            before = self.position
            try:
                await self._read_on()
                if self.position == before and self.rest.size:
                    raise OriginError(
                        OriginFailure.UNAVAILABLE,
                        f"{self._owner.asset.origin_name} {self._owner.asset.name!a}: the answer"
                        f" brought nothing from byte {before} on",
                    )
            except OriginError as exc:
                if not self.rest.size:
                    return  # it was let go, and what went wrong with it concerns nobody
                idle_attempts = 0 if self.position > before else idle_attempts + 1
                resumable = exc.retryable and not self._owner.version.id
                if not resumable or idle_attempts > self._retries:
                    raise
                await asyncio.sleep(backoff_s(idle_attempts, random.random()))

    def _fail(self, cause: OriginError | CacheFullError) -> None:
        self.state = FillState.FAILED
        self.cause = cause

    async def _read_on(self) -> None:
        """Reads from ``position`` until the answer ends."""
        read, self._read = self._read, None
        asked_s = None
        if read is None:
            asked_s = asyncio.get_running_loop().time()
            read = await self._ask()
        self._tail_start = read.span.start
        self._running_read = read
        self._expedite_read()
        try:
            if self._may_read(read):
                await self._take_all(read, asked_s)
        finally:
            self._running_read = None
            try:
                self._flush()
            finally:
                await read.close()
        if self.span.end == UNKNOWN_BYTES:
            self.span = Span(self.span.start, self.position)
            self._owner.end_reached(self.position)

    async def _ask(self) -> OriginRead:
        """Asks for the rest. Raises OriginError."""
        if self._owner.version.id:
            raise OriginError(
                OriginFailure.BROKEN, "the answer broke off, and no other would be the same"
            )
        read = await self._owner.asset.origin.read(
            self._owner.asset.name, self.rest, if_match=self._owner.version
        )
        if read is None:
            raise OriginError(OriginFailure.UNAVAILABLE, "answered 304 to no condition")
        return read

    def _may_read(self, read: OriginRead) -> bool:
        """Whether an answer is to be read: not when its origin sends all of the object from the
        start, whatever it is asked for, and another fill is about to bring these bytes.
        """
        self._answer_end = read.span.end
        if self.position == 0 or read.span != Span(0, self._owner.version.size_bytes):
            return True
        if self._owner.ranges_ignored(self):
            self._end_at(self.position)
            return False
        self.release()
        self._begin_at(read.span)  # what comes first is as good as what was asked for
        return True

    async def _take_all(self, read: OriginRead, asked_s: float | None) -> None:
        """Stores the pieces of an answer as they come, and measures how quickly they do."""
        loop, paces, name = (
            asyncio.get_running_loop(),
            self._owner.paces,
            self._owner.asset.origin_name,
        )
        is_first = True
        async for piece in read.pieces():
            now_s = loop.time()
            if is_first:
                self._throughput.begin(now_s)
                if asked_s is not None:
                    paces.note_round_trip(name, now_s - asked_s)
            elif self._throughput.arrived(len(piece), now_s):
                paces.note_rate(name, self._throughput.rate_bytes_s(now_s))
            is_first = False
            self._owner.arrived(self, len(piece))
            self._take(piece)
            if self.position >= self.span.end:
                break

    def _take(self, piece: bytes) -> None:
        """Stores a piece of the answer, but for an end that does not fill its chunk.

        The page cache keeps what is written together in one piece of memory and sends it faster
        from there, so that end waits for what follows; not long, for somebody may want it.
        Raises CacheFullError.
        """
        if self._full is not None:
            raise self._full
        start, data = self._tail_start, self._tail + piece if self._tail else piece
        end = start + len(data)
        if self._held_end < end + self._window_bytes // 2:
            self._hold_ahead(end)
        whole_end = (end + HEADER_BYTES) // WRITE_BYTES * WRITE_BYTES - HEADER_BYTES
        is_first = self.position == self.span.start
        if end >= self.span.end or is_first:
            whole_end = end
        kept = max(0, end - max(start, whole_end))
        view = memoryview(data)
        self._tail_start, self._tail = end - kept, bytes(view[len(data) - kept :])
        if not kept:
            self._cancel_flush()
        elif self._flush_timer is None:  # else what came first has waited for a part of the time
            loop = asyncio.get_running_loop()
            self._flush_timer = loop.call_later(TAIL_WAIT_S, self._flush_late)
        if len(data) > kept:
            self._put(start, view[: len(data) - kept])

    def _flush(self) -> None:
        """Stores the end that waited. Raises CacheFullError."""
        self._cancel_flush()
        tail, self._tail = self._tail, b""
        if tail:
            start, self._tail_start = self._tail_start, self._tail_start + len(tail)
            self._put(start, memoryview(tail))

    def _flush_late(self) -> None:
        """The same when nothing has followed in time."""
        try:
            self._flush()
        except CacheFullError as exc:
            self._full = exc  # reading on meets it again, where it can be told

    def _cancel_flush(self) -> None:
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None

    def _put(self, start: int, data: memoryview) -> None:
        """Stores bytes and lets the owner know. Raises CacheFullError."""
        try:
            self._store(start, data)
        except CacheFullError:
            self._tail = b""  # stored behind what was refused, it would hide that it lacks
            raise
        self.position = max(self.position, min(start + len(data), self.span.end))
        self._owner.filled(self)

    def _store(self, at: int, data: memoryview) -> None:
        """Writes what is missing of ``data``, the version's bytes from ``at`` on, as far as this
        fill holds their chunks. Raises CacheFullError.
        """
        for index, run in self._missing_runs(Span(at, at + len(data))):
            base = index * EXTENT_BYTES
            while True:
                extent, _chunks = self._claims[index]
                try:
                    extent.write(run.start - base, data[run.start - at : run.end - at])
                    self._owner.stored(extent, run.size)
                    break
                except OSError as exc:
                    self._move_to_memory(index, run.start - base, exc)

    def _move_to_memory(self, index: int, within: int, exc: OSError) -> None:
        """Goes on in memory where the disk has refused the byte ``within`` an extent.

        Raises CacheFullError when memory refuses too; the extent's locks are given back then.
        """
        disk, chunks = self._claims.pop(index)
        disk.unlock(chunks)
        memory = self._owner.extent_write_failed(index, disk, exc)
        begun = within % CHUNK_BYTES
        try:
            if begun:  # a chunk is valid from its start on
                memory.write(within - begun, disk.read(within - begun, begun))
        except OSError as again:
            raise CacheFullError(f"cannot store: {again}") from again
        self._claims[index] = memory, memory.lock(chunks)

    def _missing_runs(self, span: Span) -> list[tuple[int, Span]]:
        """What of ``span`` may and need be written: runs within one extent, with its index."""
        runs: list[tuple[int, Span]] = []
        for piece in span.split(CHUNK_BYTES):
            index, within = divmod(piece.start, EXTENT_BYTES)
            chunk = within // CHUNK_BYTES
            if index not in self._claims:
                continue
            extent, chunks = self._claims[index]
            if not chunks.start <= chunk < chunks.end:
                continue
            missing = index * EXTENT_BYTES + chunk * CHUNK_BYTES + extent.valid_bytes(chunk)
            if not piece.start <= missing < piece.end:
                continue
            last = runs[-1] if runs else None
            if last is not None and last[0] == index and last[1].end == missing:
                runs[-1] = index, Span(last[1].start, piece.end)
            else:
                runs.append((index, Span(missing, piece.end)))
        return runs


def is_filled_elsewhere(owner: FillOwner, position: int) -> bool:
    """Whether another worker is filling the chunk of ``position``, or has just done so.

    Raises CacheFullError.
    """
    extent = owner.extent_to_fill(position // EXTENT_BYTES)
    chunk = position % EXTENT_BYTES // CHUNK_BYTES
    if extent.is_held_elsewhere(chunk):
        return True
    return extent.valid_bytes(chunk) == extent.chunk_bytes(chunk)
