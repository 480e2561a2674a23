"""From the start of the process to the first hit, with 20,000 objects in the cache.

Owns this measurement: it fills a cache through HTTP from an origin of small objects, stops the
server, starts it again over the same folder and asks until a hit comes.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

from bench.edge import STREAMEDGE, streamedge
from bench.machine import SERVER_CORE
from bench.options import Options
from bench.origin import Origin, origin
from bench.peers import PROXY_CACHE, nginx_cache
from bench.report import Figure, Target
from bench.server import LOOPBACK, BenchError, Failure, Server, pick, scratch_folder

EXTENTS = 20_000
OBJECT = "synthetic-1024.bin"
FILLERS = 8
TIMEOUT_S = 30.0
POLL_S = 0.002

StartOver = Callable[[Path, bool], AbstractContextManager[Server]]
"""From a cache folder, and whether to wait until all is up, to a server."""


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
        for done in pool.map(lambda part: _fetch(server.http_port, part), parts):
            if not done:
                raise BenchError("the cache could not be filled")
    source.reset()
    began_s = time.monotonic()
    with start(cache, False) as server:
        while not _fetch(server.http_port, range(EXTENTS // 2, EXTENTS // 2 + 1)):
            if time.monotonic() > began_s + TIMEOUT_S:
                raise BenchError(f"no answer in {TIMEOUT_S:.0f} s")
            time.sleep(POLL_S)
        ready_s = time.monotonic() - began_s
    if source.stats().body_bytes:
        raise BenchError("the answer was no hit: the origin was asked")
    return ready_s


def _fetch(port: int, numbers: range) -> bool:
    """Reads these objects over one connection; False when one could not be had."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=TIMEOUT_S)
    try:
        for number in numbers:
            connection.request("GET", f"/extent-{number}/{OBJECT}")
            answer = connection.getresponse()
            answer.read()
            if answer.status != http.client.OK:
                return False
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True
