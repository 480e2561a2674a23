"""From the start of the process to the first hit, with 20,000 objects in the cache.

It fills a cache over HTTP from an origin of small objects, stops the server, starts it again with
the same folder, and requests an object until it is a hit.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

from bench.machine import SERVER_CORE
from bench.options import Options
from bench.report import Figure, Target
from bench.servers.edge import STREAMEDGE, streamedge
from bench.servers.origin import Origin, origin
from bench.servers.peers import PROXY_CACHE, nginx_cache
from bench.servers.server import LOOPBACK, BenchError, Failure, Server, pick, scratch_folder

EXTENTS = 20_000
OBJECT = "synthetic-1024.bin"
FILLERS = 8
TIMEOUT_S = 30.0
POLL_S = 0.002

StartOver = Callable[[Path, bool], AbstractContextManager[Server]]
"""Starts a server with a cache folder; the flag: wait until it is ready."""


def restart(options: Options) -> list[Figure]:
    """Seconds from the start of the process to a hit's last byte."""
    results: dict[str, float | Failure] = {}
    with scratch_folder() as empty, origin(empty) as source:
        starts: dict[str, StartOver] = {
            STREAMEDGE: lambda cache, waits: streamedge(
                source.port, core=SERVER_CORE, cache=cache, waits=waits
            ),
            PROXY_CACHE: lambda cache, _waits: nginx_cache(
                source.port, slices=False, workers=1, core=SERVER_CORE, cache=cache
            ),
        }
        for name, start in starts.items():
            try:
                with scratch_folder() as cache:
                    results[name] = _measure(start, source, cache)
            except BenchError as error:
                results[name] = Failure(str(error))
    return [
        Figure("first hit after start", "s", pick(results, lambda seconds: seconds), Target(1.0))
    ]


def _measure(start: StartOver, source: Origin, cache: Path) -> float:
    with start(cache, True) as server, ThreadPoolExecutor(FILLERS) as pool:
        parts = [range(first, EXTENTS, FILLERS) for first in range(FILLERS)]
        for is_filled in pool.map(lambda part: _fetch(server.http_port, part), parts):
            if not is_filled:
                raise BenchError("the cache could not be filled")
    source.reset()
    began_s = time.monotonic()
    with start(cache, False) as server:
        while not _fetch(server.http_port, range(EXTENTS // 2, EXTENTS // 2 + 1)):
            if time.monotonic() > began_s + TIMEOUT_S:
                raise BenchError(f"no response in {TIMEOUT_S:.0f} s")
            time.sleep(POLL_S)
        ready_s = time.monotonic() - began_s
    if source.stats().body_bytes:
        raise BenchError("the response was not a hit: the origin received a request")
    return ready_s


def _fetch(port: int, numbers: range) -> bool:
    """Fetches objects over one connection; returns False when one fails."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=TIMEOUT_S)
    try:
        for number in numbers:
            connection.request("GET", f"/extent-{number}/{OBJECT}")
            response = connection.getresponse()
            response.read()
            if response.status != http.client.OK:
                return False
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True
