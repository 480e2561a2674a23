"""One running read from an origin, into the cache. It belongs to the asset, not to a reader.

    EMPTY ──claim──▸ FILLING ──last byte──▸ COMPLETE
                        │  ▲
                retryable  resumed where it stopped, against the same version
                        ▼  │
                     FILLING ──budget spent, or not retryable──▸ FAILED(cause)

A fill holds the locks of the chunks it claimed until it ends, stores only what is missing in them
(so an origin that sends more than was asked does no harm), and never outlives its worker's right
to them. It does not know its readers: it tells its ``FillOwner`` when bytes have landed.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from enum import Enum
from typing import Protocol

from streamedge.cache.asset import Asset
from streamedge.cache.extent import CHUNK_BYTES, EXTENT_BYTES, HEADER_BYTES, Extent
from streamedge.cache.plan import backoff_s
from streamedge.errors import CacheFullError, OriginError, OriginFailure
from streamedge.origin import UNKNOWN_BYTES, OriginRead, Version
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

    def extent_to_fill(self, index: int) -> Extent: ...

    def extent_refused(self, index: int, exc: OSError) -> Extent: ...

    def arrived(self, fill: Fill, size: int) -> None: ...

    def stored(self, extent: Extent, size: int) -> None: ...

    def filled(self, fill: Fill) -> None: ...

    def found_end(self, size_bytes: int) -> None: ...

    def fill_ended(self, fill: Fill) -> None: ...


class Fill:
    """Reads ``span`` of the owner's version; ``position`` is the next byte to arrive."""

    __slots__ = (
        "_claims",
        "_flush_timer",
        "_owner",
        "_read",
        "_refused",
        "_retries",
        "_tail",
        "_tail_start",
        "cause",
        "position",
        "span",
        "state",
    )

    def __init__(self, owner: FillOwner, span: Span, retries: int) -> None:
        self._owner = owner
        self._retries = retries
        self._claims: dict[int, tuple[Extent, Span]] = {}
        self._read: OriginRead | None = None
        self._tail = b""  # arrived and not stored yet, from _tail_start on
        self._tail_start = 0
        self._flush_timer: asyncio.TimerHandle | None = None
        self._refused = False
        self.span = span
        self.position = span.start
        self.state = FillState.FILLING
        self.cause: OriginError | CacheFullError | None = None

    def claim(self) -> bool:
        """Locks what this fill may write; False when there is nothing left that it could.

        Narrows ``span`` to what was missing and free, beginning at the first missing byte.
        """
        index = self.span.start // EXTENT_BYTES
        extent, chunks = self._claim_extent(index)
        while chunks.size and extent.valid_bytes(chunks.start) == extent.chunk_bytes(chunks.start):
            extent.unlock(Span(chunks.start, chunks.start + 1))  # another worker was quicker
            chunks = Span(chunks.start + 1, chunks.end)
        self._claims[index] = extent, chunks
        if not chunks.size:
            return False
        base = index * EXTENT_BYTES
        start = base + chunks.start * CHUNK_BYTES + extent.valid_bytes(chunks.start)
        self.span = Span(start, min(base + chunks.end * CHUNK_BYTES, base + extent.body_bytes))
        self.position = start
        return True

    def adopt(self, read: OriginRead) -> None:
        """Begins with an answer that has already come, whatever bytes it brings.

        Locks what it may write where the answer begins, before any other worker can.
        """
        self._read = read
        self.span = read.span
        self.position = read.span.start
        index = read.span.start // EXTENT_BYTES
        with contextlib.suppress(CacheFullError):  # met again, and told, when the first byte comes
            self._claims[index] = self._claim_extent(index)

    async def run(self) -> None:
        """Reads to the end, resuming after failures; ends COMPLETE or FAILED, never raises."""
        idle_attempts = 0
        try:
            while self.position < self.span.end:
                before = self.position
                try:
                    await self._read_on()
                except OriginError as exc:
                    idle_attempts = 0 if self.position > before else idle_attempts + 1
                    resumable = exc.retryable and not self._owner.version.id
                    if not resumable or idle_attempts > self._retries:
                        raise
                    await asyncio.sleep(backoff_s(idle_attempts, random.random()))
            self.state = FillState.COMPLETE
        except (OriginError, CacheFullError) as exc:
            self.state = FillState.FAILED
            self.cause = exc
        finally:
            if self.state is FillState.FILLING:
                self.state = FillState.FAILED
                self.cause = OriginError(OriginFailure.BROKEN, "the edge is stopping")
            for extent, chunks in self._claims.values():
                extent.unlock(chunks)
                extent.settle()
            self._owner.fill_ended(self)

    async def _read_on(self) -> None:
        """Reads from ``position`` until the answer ends."""
        read, self._read = self._read, None
        if read is None:
            if self._owner.version.id:
                raise OriginError(
                    OriginFailure.BROKEN, "the answer broke off, and no other would be the same"
                )
            read = await self._owner.asset.origin.read(
                self._owner.asset.name,
                Span(self.position, self.span.end),
                if_match=self._owner.version,
            )
            assert read is not None
        self._tail_start = read.span.start
        self._refused = False
        try:
            async for piece in read.pieces():
                self._owner.arrived(self, len(piece))
                if not self._take(piece) or self.position >= self.span.end:
                    break
        finally:
            try:
                self._flush()
            finally:
                await read.close()
        if self.span.end == UNKNOWN_BYTES and not self._refused:
            self.span = Span(self.span.start, self.position)
            self._owner.found_end(self.position)

    def _take(self, piece: bytes) -> bool:
        """Stores a piece of the answer, but for an end that does not fill its chunk.

        The page cache keeps what is written together in one piece of memory and sends it faster
        from there, so that end waits for what follows; not long, for somebody may want it. False
        when the disk refused: the answer is of no more use.
        """
        self._cancel_flush()
        start, data = self._tail_start, self._tail + piece if self._tail else piece
        end = start + len(data)
        whole_end = (end + HEADER_BYTES) // WRITE_BYTES * WRITE_BYTES - HEADER_BYTES
        is_first = self.position == self.span.start
        if end >= self.span.end or is_first:
            whole_end = end
        kept = max(0, end - max(start, whole_end))
        view = memoryview(data)
        self._tail_start, self._tail = end - kept, bytes(view[len(data) - kept :])
        if kept:
            loop = asyncio.get_running_loop()
            self._flush_timer = loop.call_later(TAIL_WAIT_S, self._flush_late)
        return self._put(start, view[: len(data) - kept])

    def _flush(self) -> None:
        """Stores the end that waited."""
        self._cancel_flush()
        tail, self._tail = self._tail, b""
        if tail:
            start, self._tail_start = self._tail_start, self._tail_start + len(tail)
            self._refused = not self._put(start, memoryview(tail))

    def _flush_late(self) -> None:
        """The same when nothing has followed in time."""
        try:
            self._flush()
        except CacheFullError:
            self._refused = True  # reading on meets it again, where it can be told

    def _cancel_flush(self) -> None:
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None

    def _put(self, start: int, data: memoryview) -> bool:
        """Stores bytes and lets the owner know; False when the disk refused, now or before."""
        if self._refused or not self._store(start, data):
            self._cancel_flush()
            self._tail = b""  # stored behind what was refused, it would hide that it lacks
            return False
        self.position = max(self.position, min(start + len(data), self.span.end))
        self._owner.filled(self)
        return True

    def _store(self, at: int, data: memoryview) -> bool:
        """Writes what is missing of ``data``, the version's bytes from ``at`` on.

        False when the disk refused: ``position`` is then where to read on, into memory.
        """
        for index, run in self._missing_runs(Span(at, at + len(data))):
            extent, chunks = self._claims[index]
            base = index * EXTENT_BYTES
            try:
                extent.write(run.start - base, data[run.start - at : run.end - at])
                self._owner.stored(extent, run.size)
            except OSError as exc:
                extent.unlock(chunks)
                self._claims[index] = self._owner.extent_refused(index, exc), chunks
                self.position = run.start // CHUNK_BYTES * CHUNK_BYTES  # begun anew, in memory
                return False
        return True

    def _missing_runs(self, span: Span) -> list[tuple[int, Span]]:
        """What of ``span`` may and need be written: runs within one extent, with its index."""
        runs: list[tuple[int, Span]] = []
        for piece in span.split(CHUNK_BYTES):
            index, within = divmod(piece.start, EXTENT_BYTES)
            if index not in self._claims:
                self._claims[index] = self._claim_extent(index)
            extent, chunks = self._claims[index]
            chunk = within // CHUNK_BYTES
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

    def _claim_extent(self, index: int) -> tuple[Extent, Span]:
        """Locks the first free run of chunks that the fill's span has in an extent."""
        extent = self._owner.extent_to_fill(index)
        base = index * EXTENT_BYTES
        within = self.span.intersect(Span(base, base + extent.body_bytes)).shift(-base)
        blocks = within.align(CHUNK_BYTES)
        chunks = extent.lock(Span(blocks.start // CHUNK_BYTES, blocks.end // CHUNK_BYTES))
        for chunk in range(chunks.start, chunks.end):
            extent.resume(chunk)
        return extent, chunks


def is_filled_elsewhere(owner: FillOwner, position: int) -> bool:
    """Whether another worker is filling the chunk of ``position``, or has just done so.

    Raises CacheFullError.
    """
    extent = owner.extent_to_fill(position // EXTENT_BYTES)
    chunk = position % EXTENT_BYTES // CHUNK_BYTES
    free = extent.lock(Span(chunk, chunk + 1))
    is_missing = free.size > 0 and extent.valid_bytes(chunk) < extent.chunk_bytes(chunk)
    extent.unlock(free)
    return not is_missing
