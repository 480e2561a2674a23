"""HTTP and HTTPS hits against nginx, one worker each, ranges of some sizes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack

from bench.loads.http_load import CrowdPlan, HitsPlan, crowd, hit
from bench.loads.https_load import secure_hit
from bench.loads.load import LoadResult
from bench.machine import SERVER_CORE
from bench.options import Options
from bench.report import Figure
from bench.rounds import ROUNDS, ratio_figures, rounds_of
from bench.servers.certificate import Pair, make_pair
from bench.servers.edge import STREAMEDGE, streamedge
from bench.servers.origin import origin
from bench.servers.peers import nginx_sendfile, nginx_tls
from bench.servers.server import BenchError, Failure, Server, scratch_folder
from bench.servers.titles import MOOV_FIRST, titles

CONNECTIONS = 16
PATH = f"/{MOOV_FIRST}"
TARGETS = {1 << 10: 0.65, 256 << 10: 1.15, 1 << 20: 1.0, 8 << 20: 1.0}
"""Bytes of a range, and the minimum of both ratios to nginx: of rates and of CPU per request."""
SECURE_TARGETS = {1 << 20: 0.95, 8 << 20: 0.95}
"""The same over TLS."""


def hits(options: Options) -> list[Figure]:
    """Throughput of each size, and its ratio to nginx's with sendfile."""
    with ExitStack() as stack:
        nginx = stack.enter_context(nginx_sendfile(titles().folder, core=SERVER_CORE))
        return _beside(nginx, None, TARGETS, options)


def secure_hits(options: Options) -> list[Figure]:
    """The same over TLS, with one certificate for both."""
    with ExitStack() as stack:
        pair = make_pair(stack.enter_context(scratch_folder()))
        nginx = stack.enter_context(nginx_tls(titles().folder, pair, core=SERVER_CORE))
        return _beside(nginx, pair, SECURE_TARGETS, options)


def _beside(
    nginx: Server, pair: Pair | None, targets: Mapping[int, float], options: Options
) -> list[Figure]:
    """The figures of all sizes beside ``nginx``; over TLS if there is a ``pair``."""
    films = titles()
    servers: dict[str, Server | Failure] = {nginx.name: nginx}
    with ExitStack() as stack:
        try:
            source = stack.enter_context(origin(films.folder))
            edge = stack.enter_context(streamedge(source.port, core=SERVER_CORE, pair=pair))
            crowd(CrowdPlan(edge.http_port, PATH, readers=1))
            servers[STREAMEDGE] = edge
        except BenchError as error:
            servers[STREAMEDGE] = Failure(str(error))
        figures = []
        for size_bytes, target in targets.items():

            def measure(server: Server, size_bytes: int = size_bytes) -> LoadResult:
                plan = HitsPlan(
                    port=server.http_port if pair is None else server.https_port,
                    path=PATH,
                    object_bytes=films.moov_first.stat().st_size,
                    range_bytes=size_bytes,
                    connections=CONNECTIONS,
                    seconds=options.seconds / len(targets) / ROUNDS,
                    server_pid=server.pid,
                    trusted="" if pair is None else str(pair.certificate),
                )
                return hit(plan) if pair is None else secure_hit(plan)

            results = rounds_of(servers, measure)
            figures += ratio_figures(f"{size_bytes >> 10} KiB", results, nginx.name, target)
    return figures
