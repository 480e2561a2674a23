"""HTTP from a cold cache with a slow origin: a seek, a seek beside a download, and many readers.

The same reader first requests the same range from the origin directly. The difference is the time
that the server adds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from statistics import median

from bench.loads.http_load import CrowdPlan, CrowdResult, crowd
from bench.machine import SERVER_CORE
from bench.options import Options
from bench.report import Figure, Target
from bench.servers.edge import STREAMEDGE, streamedge
from bench.servers.origin import Origin, origin
from bench.servers.peers import PROXY_CACHE, SLICE, nginx_cache
from bench.servers.server import Server, Start, measure_each, pick
from bench.servers.titles import MOOV_FIRST, titles

FIRST_BYTE_S = 0.03
BYTES_PER_S = 10_000_000
SEEK_BYTES = 1 << 20
SEEK_TO = 0.9
SEEKS = 5
BESIDE_BYTES = 100_000
BESIDE_AFTER_S = 1.0  # the download has been running for so long
CROWD_READERS = 200
CROWD_BYTES = 60_000_000
CROWD_OBJECT = f"synthetic-{CROWD_BYTES}.mp4"
MB = 1e6


@dataclass(frozen=True, slots=True)
class _Measurement:
    """The result of readers through a server, and the bytes that the origin sent meanwhile."""

    result: CrowdResult
    origin_bytes: int


def seek(options: Options) -> list[Figure]:
    """1 MiB at 90 % of a cold object of 300 MB."""
    films = titles()
    first = int(films.moov_first.stat().st_size * SEEK_TO)
    with origin(films.folder, first_byte_s=FIRST_BYTE_S, bytes_per_s=BYTES_PER_S) as source:

        def request(port: int, copy: str) -> CrowdResult:
            path = f"/{copy}/{MOOV_FIRST}"
            return crowd(CrowdPlan(port, path, 1, first, first + SEEK_BYTES - 1))

        def measure(server: Server) -> list[_Measurement]:
            # A cache that first fetches all bytes before takes half a minute; one seek is enough.
            count = 1 if server.name == PROXY_CACHE else SEEKS
            return [
                _measure_crowd(source, partial(request, server.http_port, f"seek-{n}"))
                for n in range(count)
            ]

        alone_s = median(request(source.port, f"alone-{n}").first_byte_s[0] for n in range(SEEKS))
        results = measure_each(_starts(source, workers=1, core=SERVER_CORE), measure)
    added_ms = pick(
        results,
        lambda sample: 1000 * (median(one.result.first_byte_s[0] for one in sample) - alone_s),
    )
    fetched_mb = pick(results, lambda sample: median(one.origin_bytes for one in sample) / MB)
    limit_mb = (SEEK_BYTES + (2 << 20)) / MB
    return [
        Figure(
            f"first byte, beyond the origin's own {1000 * alone_s:.0f} ms",
            "ms",
            added_ms,
            Target(15),
        ),
        Figure("fetched from the origin for 1 MiB", "MB", fetched_mb, Target(limit_mb)),
    ]


def seek_beside(options: Options) -> list[Figure]:
    """100 KB at 90 % of an object while another reader downloads all of it; two workers."""
    first = int(CROWD_BYTES * SEEK_TO)
    path = f"/beside/{CROWD_OBJECT}"
    with origin(titles().folder, first_byte_s=FIRST_BYTE_S, bytes_per_s=BYTES_PER_S) as source:

        def measure(server: Server) -> _Measurement:
            source.reset()
            whole = CrowdPlan(server.http_port, path, 1)
            part = CrowdPlan(server.http_port, path, 1, first, first + BESIDE_BYTES - 1)
            with ThreadPoolExecutor(1) as beside:
                download = beside.submit(crowd, whole, core=None)
                time.sleep(BESIDE_AFTER_S)
                result = crowd(part, core=None)
                download.result()
            return _Measurement(result, source.stats().body_bytes)

        results = measure_each(_starts(source, workers=2, core=None), measure)
    return [
        Figure(
            "last byte of the range, after the request",
            "ms",
            pick(results, lambda sample: 1000 * sample.result.whole_s[0]),
            Target(250),
        ),
        Figure(
            "origin bytes over the object's",
            "",
            pick(results, lambda sample: sample.origin_bytes / CROWD_BYTES),
            Target(1.02),
        ),
    ]


def readers(options: Options) -> list[Figure]:
    """200 readers request one object at the same moment; two workers."""
    films = titles()
    with origin(films.folder, first_byte_s=FIRST_BYTE_S, bytes_per_s=BYTES_PER_S) as source:
        path = f"/crowd/{CROWD_OBJECT}"
        alone = crowd(CrowdPlan(source.port, path, 1), core=None)

        def measure(server: Server) -> _Measurement:
            plan = CrowdPlan(server.http_port, path, CROWD_READERS)
            return _measure_crowd(source, lambda: crowd(plan, core=None))

        results = measure_each(_starts(source, workers=2, core=None), measure)
    own_first_s, own_whole_s = alone.first_byte_s[0], alone.whole_s[0]
    return [
        Figure(
            "origin bytes over the object's",
            "",
            pick(results, lambda sample: sample.origin_bytes / CROWD_BYTES),
            Target(1.01),
        ),
        Figure(
            f"slowest first byte, beyond the origin's own {1000 * own_first_s:.0f} ms",
            "ms",
            pick(results, lambda sample: 1000 * (max(sample.result.first_byte_s) - own_first_s)),
            Target(60),
        ),
        Figure(
            f"slowest whole object over the origin's time of {own_whole_s:.2f} s",
            "",
            pick(results, lambda sample: max(sample.result.whole_s) / own_whole_s),
            Target(1.1),
        ),
        Figure(
            "readers without the object",
            "",
            pick(results, lambda sample: _failed(sample.result)),
            Target(0),
        ),
    ]


def _starts(source: Origin, *, workers: int, core: int | None) -> dict[str, Start]:
    def cache(slices: bool) -> Start:
        return lambda: nginx_cache(source.port, slices=slices, workers=workers, core=core)

    return {
        STREAMEDGE: lambda: streamedge(source.port, workers=workers, core=core),
        SLICE: cache(slices=True),
        PROXY_CACHE: cache(slices=False),
    }


def _measure_crowd(source: Origin, request: Callable[[], CrowdResult]) -> _Measurement:
    source.reset()
    result = request()
    return _Measurement(result, source.stats().body_bytes)


def _failed(result: CrowdResult) -> float | str:
    """The number of failed readers, and the first one's reason."""
    if not result.failures:
        return 0
    return f"{len(result.failures)}: {result.failures[0]}"
