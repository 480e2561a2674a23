"""Hits over HTTP/2 beside nginx, measured by h2load."""

from __future__ import annotations

from dataclasses import dataclass

from bench.http.requests import ROUNDS, ROUNDS_MAX, ROUNDS_PER_MEASUREMENT
from bench.loads.h2load import H2LoadPlan, h2load
from bench.loads.load import LoadResult
from bench.options import Options
from bench.report import Figure
from bench.rounds import ratio_figures, rounds_of
from bench.servers.peers import SITE
from bench.servers.server import BenchError, Server
from bench.servers.site import (
    ARCHIVE,
    ARCHIVE_BYTES,
    PAGE,
    PAGE_BYTES,
    PHOTO,
    PHOTO_BYTES,
    probe,
    site,
)

CONNECTIONS = 16


@dataclass(frozen=True, slots=True)
class Streams:
    """An object, and how many streams of each connection request it at a time."""

    label: str
    file: str
    file_bytes: int
    streams: int
    target: float


ROWS = [
    Streams("1 KB, 8 streams", PAGE, PAGE_BYTES, 8, 0.5),
    Streams("1 KB, 1 stream", PAGE, PAGE_BYTES, 1, 0.4),
    Streams("256 KB, 1 stream", PHOTO, PHOTO_BYTES, 1, 0.9),
    Streams("8 MB, 1 stream", ARCHIVE, ARCHIVE_BYTES, 1, 0.85),
]


def hits(options: Options) -> list[Figure]:
    """Rates and CPU time per request, and their ratios to nginx's."""
    figures = []
    with site() as here:
        for row in ROWS:

            def measure(server: Server, row: Streams = row) -> LoadResult:
                path = f"/{row.file}"
                response = probe(server, "GET", path, {}, secure=True)
                if response.status != 200 or response.body_bytes != row.file_bytes:
                    raise BenchError(f"{path}: {response.status}, {response.body_bytes} bytes")
                seconds = options.seconds / ROUNDS_PER_MEASUREMENT
                return h2load(
                    H2LoadPlan(server.https_port, path, CONNECTIONS, row.streams, seconds),
                    server.pid,
                )

            results = rounds_of(here.servers, measure, rounds=ROUNDS, rounds_max=ROUNDS_MAX)
            figures += ratio_figures(row.label, results, SITE, row.target)
    return figures
