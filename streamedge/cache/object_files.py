"""The files of one version of an asset that a worker has open: its bytes, and which are ready.

A version has an extent for each 64 MiB. While the disk fails its extents are in memory; a small
object has the file of its record in the place of its one extent. Nothing here requests bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Set

from streamedge.cache.storage.extent import EXTENT_BYTES, Extent, Ready, quick_ready
from streamedge.cache.storage.inline_body import InlineBody
from streamedge.cache.storage.records import Asset, Record
from streamedge.cache.storage.store import Store, extent_identity
from streamedge.errors import CacheFullError
from streamedge.ops.metrics import Counts, Gauge
from streamedge.spans import Span

CLOSE_DELAY_S = 0.01  # so that bytes reported as ready are sent first

AnyExtent = Extent | InlineBody


class ObjectFiles:
    """The open files of a version of ``asset``; ``record`` is its present record.

    ``opened`` is called after each file that is opened.
    """

    __slots__ = ("_asset", "_counts", "_extents", "_memory", "_opened", "_store", "record")

    def __init__(
        self,
        store: Store,
        counts: Counts,
        asset: Asset,
        record: Record,
        opened: Callable[[], None],
    ) -> None:
        self.record = record
        self._store = store
        self._counts = counts
        self._asset = asset
        self._opened = opened
        self._extents: dict[int, AnyExtent] = {}
        self._memory: dict[int, Extent] = {}

    @property
    def count(self) -> int:
        """Number of open extents, in files and in memory."""
        return len(self._extents) + len(self._memory)

    @property
    def is_inline(self) -> bool:
        """Whether the body was stored in the file of its record."""
        return self.record.body_crc is not None

    @property
    def in_memory(self) -> bool:
        """Whether any extent is in memory, which is freed as soon as possible."""
        return bool(self._memory)

    @property
    def evicted(self) -> bool:
        """Whether any file has been unlinked, so that new readers have to open the object again."""
        return any(extent.evicted for extent in self._extents.values())

    def ready(self, position: int, end: int) -> Ready | None:
        """The bytes from ``position`` on that can be sent without waiting, within one extent."""
        index = position // EXTENT_BYTES
        within = position - index * EXTENT_BYTES
        extent = self._extents.get(index) or self._find(index)
        if extent is not None:
            if extent.complete:
                size, left = end - position, extent.body_bytes - within
                if size > left:  # noqa: PLR1730 - for every hit: a third of the time of min()
                    size = left
                if size <= 0:
                    return None
                return quick_ready((extent.fd, extent.start + within, size))
            ready = extent.ready(within, within + end - position)
            if ready is not None:
                return ready
        memory = self._memory.get(index)
        return memory.ready(within, within + end - position) if memory is not None else None

    def has(self, position: int) -> bool:
        """Whether the byte at ``position`` is ready."""
        return self.ready(position, position + 1) is not None

    def ready_end(self, position: int, end: int) -> int:
        """The end of the bytes from ``position`` on that are known to be ready (at most ``end``),
        across extents. Only a few chunks that need a CRC check are checked, so there may be more.
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
        """Copies bytes that the caller knows to be there; fewer if a file was truncated."""
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
                break
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def inline_body(self) -> bytes | None:
        """A copy of the body, if it is in the file of its record; None: it is not, or damaged."""
        if not self.is_inline and not isinstance(self._extents.get(0), InlineBody):
            return None  # without a look at the disk
        if self.ready(0, 1) is None or not isinstance(self._extents.get(0), InlineBody):
            return None
        size_bytes = self.record.head.version.size_bytes
        body = self.copy(Span(0, size_bytes))
        return body if len(body) == size_bytes else None

    def find(self, position: int) -> AnyExtent | None:
        """The open file of a byte, or None."""
        return self._extents.get(position // EXTENT_BYTES)

    def to_fill(self, index: int, in_use: Callable[[], Set[int]]) -> Extent:
        """The extent that a fill writes to, created if needed. Raises CacheFullError.

        ``in_use`` returns the indexes of extents that are read or written now.
        """
        memory = self._memory.get(index)
        if memory is not None:
            return memory
        extent = self._extents.get(index)
        if not isinstance(extent, Extent):  # an inline body is whole, and never written again
            self._drop_memory(in_use())
            extent = self._store.make_extent(*self._identity(index))
            self._keep(index, extent)
        return extent

    def in_memory_instead(
        self, index: int, refused: Extent, exc: OSError, in_use: Callable[[], Set[int]]
    ) -> Extent:
        """A memory extent instead of one whose write failed with ``exc``. Raises CacheFullError."""
        if not refused.path:
            raise CacheFullError(f"cannot store: {exc}") from exc
        if index in self._memory:
            return self._memory[index]
        self._store.note_disk_failure(exc)
        self._drop_memory(in_use())
        memory = self._store.make_memory_extent(*self._identity(index))
        self._keep(index, memory)
        return memory

    def use_body(self, body: InlineBody) -> None:
        """Reads from the file of its record from now on, unless an extent is open."""
        if isinstance(self._extents.get(0), Extent):
            body.close()
        else:
            self._keep(0, body)

    def touch(self) -> None:
        """Marks the files as used now."""
        for key in (self._asset.key, *self._asset.parent_keys):
            self._store.touch_record(key)
        for extent in self._extents.values():
            if isinstance(extent, Extent):  # an inline body is in its record's file
                self._store.touch(extent.path)

    def drop(self, position: int) -> None:
        """Removes the file of a byte that should be in it but is missing."""
        extent = self._extents.pop(position // EXTENT_BYTES, None)
        if isinstance(extent, Extent):
            self._store.drop_extent(extent)
        elif extent is not None:
            self._store.drop_body(extent)
        if extent is not None:
            self._close_later(extent)

    def close_some(
        self,
        count: int,
        is_in_use: Callable[[int, AnyExtent], bool],
        *,
        only_evicted: bool,
    ) -> int:
        """Closes up to ``count`` files that are not in use, oldest first; returns how many.

        Not to be called in an iteration of the event loop that called ``ready``: its result may be
        sent at the end of that iteration.
        """
        closed = 0
        for index, extent in list(self._extents.items()):
            if closed == count:
                break
            if (only_evicted and not extent.evicted) or is_in_use(index, extent):
                continue
            del self._extents[index]
            self._close(extent)
            closed += 1
        self._counts.gauges[Gauge.OPEN_EXTENTS] -= closed
        return closed

    def close(self) -> None:
        """Closes all files."""
        for extent in (*self._extents.values(), *self._memory.values()):
            self._close(extent)
        self._counts.gauges[Gauge.OPEN_EXTENTS] -= self.count
        self._extents.clear()
        self._memory.clear()

    def _find(self, index: int) -> AnyExtent | None:
        if self.record.body_crc is not None:
            body = self._store.find_body(self.record)
            if body is not None:
                self._keep(index, body)
                return body
        digest, body_bytes = self._identity(index)
        extent = self._store.find_extent(digest, body_bytes)
        if extent is not None:
            extent.settle()
            self._keep(index, extent)
        return extent

    def _keep(self, index: int, extent: AnyExtent) -> None:
        if extent.path:
            replaced = self._extents.get(index)
            if replaced is not None:
                self._close_later(replaced)
            self._extents[index] = extent
        elif isinstance(extent, Extent):
            self._memory[index] = extent
        self._counts.gauges[Gauge.OPEN_EXTENTS] += 1
        self._opened()

    def _close_later(self, extent: AnyExtent) -> None:
        """Closes a file; not at once, because bytes reported as ready may be about to be sent."""
        self._counts.gauges[Gauge.OPEN_EXTENTS] -= 1
        asyncio.get_running_loop().call_later(CLOSE_DELAY_S, self._close, extent)

    def _close(self, extent: AnyExtent) -> None:
        if isinstance(extent, Extent):
            self._store.close_extent(extent)
        else:
            extent.close()

    def _drop_memory(self, in_use: Set[int]) -> None:
        """Frees the memory extents that are not in use."""
        for index in self._memory.keys() - in_use:
            self._store.close_extent(self._memory.pop(index))
            self._counts.gauges[Gauge.OPEN_EXTENTS] -= 1

    def _identity(self, index: int) -> tuple[bytes, int]:
        return extent_identity(self._asset.key, self.record.head.version, index)
