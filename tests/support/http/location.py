"""One edge location's cache for tests: a scripted origin, and workers that share a folder.

    async with run_location(cache_root) as location:
        location.server.put("film", FILM)
        worker = location.worker()
        assert await fetch(worker, location.asset("film"), Span(0, 10)) == FILM.read(Span(0, 10))

Each worker has its own descriptors, like a process; tests that need real processes are in
``test_workers.py``.
"""

from __future__ import annotations

import asyncio
import json
import os
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from streamedge.cache.objects import Cache
from streamedge.cache.rfc9111.freshness import TtlRules
from streamedge.cache.storage.changes import ChangeCounter
from streamedge.cache.storage.extent import EXTENT_BYTES, Extent
from streamedge.cache.storage.records import Asset, key_hash, version_digest
from streamedge.cache.storage.store import Store
from streamedge.control.announced_head import AnnouncedHead
from streamedge.control.database import ControlDatabase
from streamedge.control.invalidation_index import InvalidationIndex
from streamedge.control.log import ControlLog
from streamedge.ops.log import open_log
from streamedge.ops.metrics import Counter, Counts
from streamedge.origin import Version
from streamedge.origin.http.origin import HttpOrigin
from streamedge.spans import Span
from tests.support.origins.scripted_origin import ScriptedOrigin
from tests.support.patience import PATIENCE_S

_TABLE_ROW = struct.Struct("=III")  # valid bytes, CRC, era of a chunk, from byte 1024 on
LAST_MODIFIED_S = 1_700_000_000  # ScriptedOrigin's own


class Location:
    """The folder ``root``, the scripted ``server`` and the workers started so far."""

    def __init__(self, root: Path, server: ScriptedOrigin, origin: HttpOrigin) -> None:
        self.root = root
        self.server = server
        self.origin = origin
        self.workers: list[Cache] = []
        self._log_path = root.parent / "events"
        self._databases: list[ControlDatabase] = []
        self._control_log: ControlLog | None = None

    def asset(self, name: str = "film", *, default_ttl_s: float = 3600.0) -> Asset:
        """An object of the server."""
        return Asset(
            f"origin/{name}", name, self.origin, "main", TtlRules(default_ttl_s=default_ttl_s)
        )

    def worker(
        self, *, retries: int = 2, open_extents: int = 2048, records_bytes: int = 1 << 25
    ) -> Cache:
        """Starts another worker."""
        slot = len(self.workers)
        log = open_log(str(self._log_path), f"worker-{slot}")
        store = Store(self.root, slot, log)
        invalidation_index = InvalidationIndex(ControlLog(self.control()), log)
        cache = Cache(
            store,
            log,
            Counts(),
            open_extents=open_extents,
            retries=retries,
            records_bytes=records_bytes,
            invalidation_index=invalidation_index,
        )
        self.workers.append(cache)
        return cache

    def control(self) -> ControlDatabase:
        """Opens another connection to the control database."""
        self._databases.append(ControlDatabase(self.root))
        return self._databases[-1]

    def invalidate(self, *items: str, scope: str = "E", soft: bool = False) -> None:
        """Invalidates as the control process does."""
        if self._control_log is None:
            self._control_log = ControlLog(self.control())
        self._control_log.invalidate(scope, items, soft=soft)
        AnnouncedHead(self.root).publish(self._control_log.position())
        ChangeCounter(self.root).announce_invalidation()

    def close(self) -> None:
        for database in self._databases:
            database.close()

    def events(self, event: str) -> list[dict[str, Any]]:
        """The log lines of an event of all workers."""
        for worker in self.workers:
            worker.log.flush()
        lines = [json.loads(line) for line in self._log_path.read_text().splitlines()]
        return [line for line in lines if line["event"] == event]

    def bytes_requested(self) -> int:
        """Body bytes that the workers have read from the server."""
        return sum(worker.counts.gathered(Counter.ORIGIN_BYTES, "main") for worker in self.workers)

    def extent_path(self, size_bytes: int, *, etag: str = '"1"', index: int = 0) -> Path:
        """The path of an extent of the object "film"."""
        version = Version(etag, size_bytes, LAST_MODIFIED_S)
        digest = version_digest(self.asset().key, version, index).hex()
        return self.root / "extents" / digest[:2] / digest

    def record_path(self) -> Path:
        """The path of the record of the object "film"."""
        digest = key_hash(self.asset().key).digest
        return self.root / "assets" / digest[:2] / digest

    def extent(self, size_bytes: int, *, etag: str = '"1"', index: int = 0) -> Extent | None:
        """An extent of "film", opened as a worker opens it; the caller closes it."""
        worker = self.workers[0]
        version = Version(etag, size_bytes, LAST_MODIFIED_S)
        body_bytes = min(EXTENT_BYTES, size_bytes - index * EXTENT_BYTES)
        digest = version_digest(self.asset().key, version, index)
        return worker.store.find_extent(digest, body_bytes)


@asynccontextmanager
async def run_location(root: Path, *, read_timeout_s: float = 15.0) -> AsyncIterator[Location]:
    """A location without workers; closes its workers at the end."""
    async with ScriptedOrigin() as server:
        origin = HttpOrigin(server.url, read_timeout_s=read_timeout_s)
        location = Location(root, server, origin)
        try:
            yield location
        finally:
            for worker in location.workers:
                await worker.close()
            await origin.close()
            location.close()


async def fetch(worker: Cache, asset: Asset, span: Span) -> bytes:
    """Reads ``span`` of an asset through a worker."""
    reader = await worker.open(asset, span)
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await reader.read(span)
    finally:
        reader.close()


async def fills_ended(worker: Cache) -> None:
    """Waits until no fill is running."""
    async with asyncio.timeout(PATIENCE_S):
        while worker.running_tasks:
            await asyncio.gather(*worker.running_tasks)


def words_of(extent: Extent, chunk: int) -> tuple[int, int, int]:
    """A chunk's row in the table of the extent: valid bytes, CRC, era."""
    return _TABLE_ROW.unpack(os.pread(extent.fd, _TABLE_ROW.size, _row_offset(chunk)))


def set_word(extent: Extent, chunk: int, word: int, value: int) -> None:
    """Overwrites a word in a chunk's row of the table."""
    os.pwrite(extent.fd, value.to_bytes(4, sys.byteorder), _row_offset(chunk) + word * 4)


def _row_offset(chunk: int) -> int:
    return 1024 + chunk * _TABLE_ROW.size
