"""One running read from an origin, into the cache. It belongs to the asset, not to a reader.

    EMPTY ──claim──▸ FILLING ──last byte, or others have the rest──▸ COMPLETE
                        │  ▲
                retryable  resumed where it stopped, against the same version
                        ▼  │
                     FILLING ──budget spent, or not retryable──▸ FAILED(cause)

A fill holds the locks of a window of chunks ahead of its position and moves the window with it,
so that another worker can begin its own read beyond it. It writes only chunks that it has locked.
It ends at bytes that are cached, or that another fill reads, unless reading across them is cheaper
than a new request behind them (``fill_plan``). It does not know its readers: it calls its
``FillOwner`` when bytes have arrived.
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

TAIL_WAIT_S = 0.002  # for the rest of a write; then its beginning is stored alone
WRITE_BYTES = 256 << 10  # one write when bytes come quickly; aligned in the file


class FillState(Enum):
    """The state of a fill; the cause of FAILED is in ``Fill.cause``."""

    FILLING = "filling"
    COMPLETE = "complete"
    FAILED = "failed"


class FillOwner(Protocol):
    """The parts of the open version that its fills use."""

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

    ``span.end`` is the planned end; it moves nearer when the fill meets bytes of others.
    """

    __slots__ = (
        "_answer_end",
        "_claims",
        "_flush_timer",
        "_full_error",
        "_has_begun",
        "_is_stopped",
        "_is_urgent",
        "_locked_end",
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
        self._claims: dict[int, tuple[Extent, Span]] = {}  # locked chunks, by extent
        self._locked_end = span.start  # up to here, chunks are locked here or elsewhere
        self._window_bytes = WINDOW_MIN_BYTES
        self._read: OriginRead | None = None
        self._running_read: OriginRead | None = None
        self._answer_end = span.end  # of the running response
        self._throughput = Throughput(owner.paces.of(owner.asset.origin_name).rate_bytes_s)
        self._tail = b""  # bytes that are not stored yet, from _tail_start on
        self._tail_start = 0
        self._flush_timer: asyncio.TimerHandle | None = None
        self._full_error: CacheFullError | None = None  # from a timer; raised at the next piece
        self._task: asyncio.Task[None] | None = None
        self._has_begun = False
        self._is_stopped = False
        self.span = span
        self.position = span.start
        self.last_unread = UNKNOWN_BYTES  # position of the next check for readers
        self.state = FillState.FILLING
        self.cause: OriginError | CacheFullError | None = None

    @property
    def rest(self) -> Span:
        """The span that it has yet to read."""
        return Span(self.position, self.span.end)

    @property
    def pace(self) -> Pace:
        """Its present rate and its origin's round trip."""
        round_trip_s = self._owner.paces.of(self._owner.asset.origin_name).round_trip_s
        now_s = asyncio.get_running_loop().time()
        return Pace(round_trip_s, self._throughput.rate_bytes_s(now_s))

    @property
    def is_stopped(self) -> bool:
        """Whether ``stop`` has ended it."""
        return self._is_stopped

    # --- locks -----------------------------------------------------------------------------

    def claim(self) -> bool:
        """Locks the first chunks to write; False if no chunk is both missing and free.

        Narrows ``span`` to missing and free bytes, beginning at the first missing one.
        Raises CacheFullError.
        """
        index, within = divmod(self.span.start, EXTENT_BYTES)
        extent = self._owner.extent_to_fill(index)
        base, chunk = index * EXTENT_BYTES, within // CHUNK_BYTES
        end = min(self.span.end, base + extent.body_bytes)
        chunk += -(-extent.whole_bytes(chunk, end - base - chunk * CHUNK_BYTES) // CHUNK_BYTES)
        self._begin_at(Span(base + chunk * CHUNK_BYTES, end))
        locked = self._claims.get(index)
        if locked is None or locked[1].start != chunk:
            self.release()
            return False
        valid_bytes = extent.valid_bytes(chunk)
        self.position += valid_bytes
        self.span = Span(self.position, self.span.end)
        return self.position < self.span.end

    def adopt(self, read: OriginRead) -> None:
        """Begins with a response that has already come, whatever its range.

        Locks chunks at the start of the response before another worker can. A chunk is stored from
        its start on, so a response that begins within a chunk is used from the next one on.
        """
        self._read = read
        start, end = read.span
        with contextlib.suppress(CacheFullError):  # raised again at the first byte
            index, within = divmod(start, EXTENT_BYTES)
            chunk, missing = divmod(within, CHUNK_BYTES)
            if missing and self._owner.extent_to_fill(index).valid_bytes(chunk) < missing:
                start = min(end, start - missing + CHUNK_BYTES)
            self._begin_at(Span(start, end))

    def shorten(self, end: int) -> None:
        """Ends at ``end``, a chunk's start ahead of it, because another fill begins there."""
        self._release(Span(end, UNKNOWN_BYTES))
        self._locked_end = min(self._locked_end, end)
        self._end_at(end)

    def lengthen(self) -> None:
        """Reads its response to the end after all."""
        self.span = Span(self.span.start, self._answer_end)

    def expedite(self) -> None:
        """A reader waits for its bytes from now on; the sources of a derived object become urgent,
        too.
        """
        if not self._is_urgent:
            self._is_urgent = True
            self._expedite_read()

    def _expedite_read(self) -> None:
        if self._is_urgent and isinstance(self._running_read, PrioritizedRead):
            self._running_read.expedite()

    def stop(self) -> None:
        """Ends at once where it is, and releases all locks. Does nothing when it has all bytes:
        then it is about to end by itself, and nothing of its version is missing.
        """
        with contextlib.suppress(CacheFullError):
            self._flush()
        if not self.rest.size:
            return
        self.release()
        self._is_stopped = True
        self.span = Span(self.span.start, self.position)
        if self._has_begun and self._task is not None:
            self._task.cancel()  # a task cancelled before it has begun would release nothing

    def release(self) -> None:
        """Releases all locks."""
        self._release(Span(0, UNKNOWN_BYTES))

    def writes_to(self, extent: object) -> bool:
        """Whether it has locked any chunk of an extent."""
        return any(locked is extent for locked, _chunks in self._claims.values())

    def _begin_at(self, span: Span) -> None:
        self.span = span
        self.position = span.start
        self._answer_end = span.end
        self._locked_end = span.start // CHUNK_BYTES * CHUNK_BYTES
        self._lock_ahead(span.start)

    def _lock_ahead(self, position: int) -> None:
        """Moves the window of locked chunks: from the end of the stored bytes to well ahead of
        ``position``.
        """
        self._window_bytes = window_bytes(self.pace)
        self._release(Span(0, self.position // CHUNK_BYTES * CHUNK_BYTES))
        while self._locked_end < min(self.span.end, position + self._window_bytes):
            if not self._lock_more(position):
                return

    def _lock_more(self, position: int) -> bool:
        """Locks a run of chunks behind the locked ones; False if that has to wait."""
        index, within = divmod(self._locked_end, EXTENT_BYTES)
        extent, base = self._owner.extent_to_fill(index), index * EXTENT_BYTES
        first = within // CHUNK_BYTES
        target = min(self.span.end, position + self._window_bytes, base + extent.body_bytes)
        if target <= self._locked_end:
            self._locked_end = target
            return False
        chunks = extent.lock(Span(first, -(-(target - base) // CHUNK_BYTES)))
        if chunks.size:
            whole = self._first_whole_run(extent, chunks)
            extent.unlock(Span(whole, chunks.end))
            chunks = Span(first, whole)
        if chunks.size:
            _extent, locked = self._claims.get(index, (extent, chunks))
            if locked.end < first:  # another worker fills the chunks between them
                extent.unlock(locked)
                locked = chunks
            self._claims[index] = extent, Span(locked.start, chunks.end)
            self._locked_end = min(base + chunks.end * CHUNK_BYTES, base + extent.body_bytes)
        elif self._owner.can_seek:
            self._end_at(base + first * CHUNK_BYTES)
            return False
        elif self._locked_end <= position:
            self._locked_end += (
                CHUNK_BYTES  # another worker's chunk, which this response has to pass
            )
        else:
            return False
        return True

    def _first_whole_run(self, extent: Extent, chunks: Span) -> int:
        """The chunk where the fill ends because enough bytes are there from it on, or the end of
        ``chunks``. Prepares the chunks before it for writing.
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
        """Releases the locked chunks in ``span``, which is at their start or end, or has all."""
        for index, (extent, chunks) in list(self._claims.items()):
            base = index * EXTENT_BYTES // CHUNK_BYTES
            released = chunks.intersect(
                Span(span.start // CHUNK_BYTES - base, -(-span.end // CHUNK_BYTES) - base)
            )
            if not released.size:
                continue
            extent.unlock(released)
            rest = Span(released.end, chunks.end)
            if released.start > chunks.start:
                rest = Span(chunks.start, released.start)
            self._claims[index] = extent, rest
            if not rest.size:
                del self._claims[index]
                extent.settle()

    # --- the response ---------------------------------------------------------------------

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
        except Exception as exc:  # noqa: BLE001 - a defect: waiters must get an error
            subject = f"{self._owner.asset.origin_name} {self._owner.asset.name!a}"
            failure = OriginError(
                OriginFailure.UNAVAILABLE, f"{subject}: internal error of the edge: {exc!r}"
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
                        f"{self._owner.asset.origin_name} {self._owner.asset.name!a}: the response"
                        f" had no bytes from byte {before} on",
                    )
            except OriginError as exc:
                if not self.rest.size:
                    return  # it was shortened or stopped: the error has no effect
                idle_attempts = 0 if self.position > before else idle_attempts + 1
                resumable = exc.retryable and not self._owner.version.id
                if not resumable or idle_attempts > self._retries:
                    raise
                await asyncio.sleep(backoff_s(idle_attempts, random.random()))

    def _fail(self, cause: OriginError | CacheFullError) -> None:
        self.state = FillState.FAILED
        self.cause = cause

    async def _read_on(self) -> None:
        """Reads from ``position`` until the response ends."""
        read, self._read = self._read, None
        sent_s = None
        if read is None:
            sent_s = asyncio.get_running_loop().time()
            read = await self._request_rest()
        self._tail_start = read.span.start
        self._running_read = read
        self._expedite_read()
        try:
            if self._may_read(read):
                await self._store_pieces(read, sent_s)
        finally:
            self._running_read = None
            try:
                self._flush()
            finally:
                await read.close()
        if self.span.end == UNKNOWN_BYTES:
            self.span = Span(self.span.start, self.position)
            self._owner.end_reached(self.position)

    async def _request_rest(self) -> OriginRead:
        """Requests the rest. Raises OriginError."""
        if self._owner.version.id:
            raise OriginError(
                OriginFailure.BROKEN,
                "the response broke off and has no validator to resume with",
            )
        read = await self._owner.asset.origin.read(
            self._owner.asset.name, self.rest, if_match=self._owner.version
        )
        if read is None:
            raise OriginError(OriginFailure.UNAVAILABLE, "304 to a request without a condition")
        return read

    def _may_read(self, read: OriginRead) -> bool:
        """Whether to read a response: not if the origin ignores ranges and another fill is about to
        reach these bytes.
        """
        self._answer_end = read.span.end
        if self.position == 0 or read.span != Span(0, self._owner.version.size_bytes):
            return True
        if self._owner.ranges_ignored(self):
            self._end_at(self.position)
            return False
        self.release()
        self._begin_at(read.span)  # the first bytes are useful too
        return True

    async def _store_pieces(self, read: OriginRead, sent_s: float | None) -> None:
        """Stores the pieces of a response as they come, and measures their rate."""
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
                if sent_s is not None:
                    paces.note_round_trip(name, now_s - sent_s)
            elif self._throughput.arrived(len(piece), now_s):
                paces.note_rate(name, self._throughput.rate_bytes_s(now_s))
            is_first = False
            self._owner.arrived(self, len(piece))
            self._add_piece(piece)
            if self.position >= self.span.end:
                break

    def _add_piece(self, piece: bytes) -> None:
        """Stores a piece of the response, except an end that does not fill an aligned write.

        The page cache keeps the bytes of one write in one piece of memory and sends them faster
        from there. So the end waits for the next piece, but only TAIL_WAIT_S: a reader may need it.
        Raises CacheFullError.
        """
        if self._full_error is not None:
            raise self._full_error
        start, data = self._tail_start, self._tail + piece if self._tail else piece
        end = start + len(data)
        if self._locked_end < end + self._window_bytes // 2:
            self._lock_ahead(end)
        whole_end = (end + HEADER_BYTES) // WRITE_BYTES * WRITE_BYTES - HEADER_BYTES
        is_first = self.position == self.span.start
        if end >= self.span.end or is_first:
            whole_end = end
        waiting = max(0, end - max(start, whole_end))
        view = memoryview(data)
        self._tail_start, self._tail = end - waiting, bytes(view[len(data) - waiting :])
        if not waiting:
            self._cancel_flush()
        elif self._flush_timer is None:  # otherwise the first bytes have waited already
            loop = asyncio.get_running_loop()
            self._flush_timer = loop.call_later(TAIL_WAIT_S, self._flush_late)
        if len(data) > waiting:
            self._store(start, view[: len(data) - waiting])

    def _flush(self) -> None:
        """Stores the waiting end. Raises CacheFullError."""
        self._cancel_flush()
        tail, self._tail = self._tail, b""
        if tail:
            start, self._tail_start = self._tail_start, self._tail_start + len(tail)
            self._store(start, memoryview(tail))

    def _flush_late(self) -> None:
        """Stores the waiting end when no piece has followed in time."""
        try:
            self._flush()
        except CacheFullError as exc:
            self._full_error = exc  # the next piece raises it

    def _cancel_flush(self) -> None:
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None

    def _store(self, start: int, data: memoryview) -> None:
        """Stores bytes and calls the owner. Raises CacheFullError."""
        try:
            self._write(start, data)
        except CacheFullError:
            self._tail = b""  # stored behind a gap, it would hide the gap
            raise
        self.position = max(self.position, min(start + len(data), self.span.end))
        self._owner.filled(self)

    def _write(self, at: int, data: memoryview) -> None:
        """Writes the missing bytes of ``data``, the version's bytes from ``at`` on, to the chunks
        that this fill has locked. Raises CacheFullError.
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
        """Continues in memory after a failed write at offset ``within`` of an extent.

        Raises CacheFullError if memory is full too, or the disk fails again. ``_claims`` has all
        locks at any time, so ``release`` ends them whatever fails here.
        """
        disk, chunks = self._claims[index]
        memory = self._owner.extent_write_failed(index, disk, exc)
        within_chunk = within % CHUNK_BYTES
        try:
            if within_chunk:  # chunks are valid from their start on
                memory.write(within - within_chunk, disk.read(within - within_chunk, within_chunk))
            disk.unlock(chunks)
        except OSError as failure:
            raise CacheFullError(f"cannot store: {failure}") from failure
        self._claims[index] = memory, memory.lock(chunks)

    def _missing_runs(self, span: Span) -> list[tuple[int, Span]]:
        """The runs of ``span`` to write: missing, locked, within one extent; with its index."""
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
    if extent.is_locked_elsewhere(chunk):
        return True
    return extent.valid_bytes(chunk) == extent.chunk_bytes(chunk)
