"""HTTP hits against nginx with sendfile, one worker each, ranges of four sizes."""

from __future__ import annotations

from contextlib import ExitStack

from bench.loads.http_load import CrowdPlan, HitsPlan, crowd, hit
from bench.loads.load import LoadResult
from bench.machine import SERVER_CORE
from bench.options import Options
from bench.report import Figure
from bench.rounds import ROUNDS, ratio_figures, rounds_of
from bench.servers.edge import STREAMEDGE, streamedge
from bench.servers.origin import origin
from bench.servers.peers import SENDFILE, nginx_sendfile
from bench.servers.server import BenchError, Failure, Server
from bench.servers.titles import MOOV_FIRST, titles

CONNECTIONS = 16
PATH = f"/{MOOV_FIRST}"
TARGETS = {1 << 10: 0.65, 256 << 10: 1.15, 1 << 20: 1.0, 8 << 20: 1.0}
"""Bytes of a range, and the minimum of both ratios to nginx: of rates and of CPU per request."""


def hits(options: Options) -> list[Figure]:
    """Throughput of each size, and its ratio to nginx's."""
    films = titles()
    with ExitStack() as stack:
        servers: dict[str, Server | Failure] = {
            SENDFILE: stack.enter_context(nginx_sendfile(films.folder, core=SERVER_CORE))
        }
        try:
            source = stack.enter_context(origin(films.folder))
            edge = stack.enter_context(streamedge(source.port, core=SERVER_CORE))
            crowd(CrowdPlan(edge.http_port, PATH, readers=1))
            servers[STREAMEDGE] = edge
        except BenchError as error:
            servers[STREAMEDGE] = Failure(str(error))
        figures = []
        for size_bytes, target in TARGETS.items():
            seconds = options.seconds / len(TARGETS) / ROUNDS
            object_bytes = films.moov_first.stat().st_size

            def measure(
                server: Server,
                size_bytes: int = size_bytes,
                object_bytes: int = object_bytes,
                seconds: float = seconds,
            ) -> LoadResult:
                return hit(
                    HitsPlan(
                        port=server.http_port,
                        path=PATH,
                        object_bytes=object_bytes,
                        range_bytes=size_bytes,
                        connections=CONNECTIONS,
                        seconds=seconds,
                        server_pid=server.pid,
                    )
                )

            results = rounds_of(servers, measure)
            figures += ratio_figures(f"{size_bytes >> 10} KiB", results, SENDFILE, target)
    return figures
