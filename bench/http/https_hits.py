"""HTTPS hits against nginx with the same certificate, one worker each, ranges of two sizes."""

from __future__ import annotations

from contextlib import ExitStack

from bench.http.http_hits import CONNECTIONS, PATH
from bench.loads.http_load import CrowdPlan, crowd
from bench.loads.https_load import SecureHitsPlan, secure_hit
from bench.loads.load import LoadResult
from bench.machine import SERVER_CORE
from bench.options import Options
from bench.report import Figure
from bench.rounds import ROUNDS, ratio_figures, rounds_of
from bench.servers.certificate import make_pair
from bench.servers.edge import STREAMEDGE, streamedge
from bench.servers.origin import origin
from bench.servers.peers import TLS, nginx_tls
from bench.servers.server import BenchError, Failure, Server, scratch_folder
from bench.servers.titles import titles

TARGETS = {1 << 20: 0.95, 8 << 20: 0.95}
"""Bytes of a range, and the minimum of both ratios to nginx: of rates and of CPU per request."""


def hits(options: Options) -> list[Figure]:
    """Throughput of each size, and its ratio to nginx's."""
    films = titles()
    with ExitStack() as stack:
        pair = make_pair(stack.enter_context(scratch_folder()))
        servers: dict[str, Server | Failure] = {
            TLS: stack.enter_context(nginx_tls(films.folder, pair, core=SERVER_CORE))
        }
        try:
            source = stack.enter_context(origin(films.folder))
            edge = stack.enter_context(streamedge(source.port, core=SERVER_CORE, pair=pair))
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
                return secure_hit(
                    SecureHitsPlan(
                        port=server.https_port,
                        path=PATH,
                        object_bytes=object_bytes,
                        range_bytes=size_bytes,
                        connections=CONNECTIONS,
                        seconds=seconds,
                        server_pid=server.pid,
                        trusted=str(pair.certificate),
                    )
                )

            results = rounds_of(servers, measure)
            figures += ratio_figures(f"{size_bytes >> 10} KiB", results, TLS, target)
    return figures
