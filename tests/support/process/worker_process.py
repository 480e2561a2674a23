"""The cache of a worker, as a process: a program for ``test_workers.py``.

    worker_process.py ROOT SLOT URL FILE_LIMIT_BYTES [POSITION …]

It reads the object "film" from start to end and prints each POSITION when it is reached. At the end
it prints, as JSON, what it has read; with a full cache, what could be read. With a limit other than
0 the kernel lets no file grow beyond it (EFBIG), nor memory in its place.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import resource
import sys
from pathlib import Path

from streamedge.cache.objects import Cache
from streamedge.cache.rfc9111.freshness import TtlRules
from streamedge.cache.storage.records import Asset
from streamedge.cache.storage.store import Store
from streamedge.errors import CacheFullError
from streamedge.ops.log import open_log
from streamedge.ops.metrics import Counter, Counts
from streamedge.origin.http.origin import HttpOrigin
from streamedge.spans import Span


async def work(root: Path, slot: int, url: str, positions: list[int]) -> None:
    """Runs the worker; the object's key is that of ``Location.asset``."""
    counts = Counts()
    log = open_log(os.devnull, f"worker-{slot}")
    cache = Cache(Store(root, slot, log), log, counts, open_extents=64, retries=4)
    origin = HttpOrigin(url)
    asset = Asset("origin/film", "film", origin, "main", TtlRules())
    reader = await cache.open(asset, Span(0, 1 << 40))
    reader.prefetch(Span(0, reader.size_bytes))
    for position in positions:
        await reader.wait(Span(position - 1, position), eager=True)
        report(position)
    try:
        data = await reader.read(Span(0, reader.size_bytes))
    except CacheFullError:
        size_bytes = reader.ready_end(0, reader.size_bytes)
        data = await reader.read(Span(0, size_bytes))
    reader.close()
    await cache.close()
    await origin.close()
    report(
        {
            "size_bytes": len(data),
            "digest": hashlib.sha256(data).hexdigest(),
            "origin_bytes": counts.gathered(Counter.ORIGIN_BYTES, "main"),
        }
    )


def report(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def main() -> None:
    root, slot, url, file_limit_bytes, *positions = sys.argv[1:]
    if int(file_limit_bytes):
        limits = int(file_limit_bytes), int(file_limit_bytes)
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    asyncio.run(work(Path(root), int(slot), url, [int(position) for position in positions]))


if __name__ == "__main__":
    main()
