"""Hits of a distribution with an access log beside those of one without."""

from __future__ import annotations

from contextlib import ExitStack

from bench.http.http_hits import CONNECTIONS, PATH
from bench.loads.http_load import CrowdPlan, HitsPlan, crowd, hit
from bench.loads.load import LoadResult
from bench.machine import SERVER_CORE
from bench.options import Options
from bench.report import Figure
from bench.rounds import SHORT_ROUNDS, SHORT_ROUNDS_MAX, ratio_figures, rounds_of
from bench.servers.edge import STREAMEDGE, streamedge
from bench.servers.origin import origin
from bench.servers.server import Failure, Server, scratch_folder
from bench.servers.titles import titles

WITHOUT_LOG = f"{STREAMEDGE}, no access log"
SIZES_BYTES = (1 << 10, 256 << 10)
RATIO_MIN = 0.95


def logged_hits(options: Options) -> list[Figure]:
    """Throughput of hits with and without an access log, and their ratio."""
    films = titles()
    figures = []
    with ExitStack() as stack:
        source = stack.enter_context(origin(films.folder))
        folder = stack.enter_context(scratch_folder())
        plain = stack.enter_context(streamedge(source.port, core=SERVER_CORE))
        logged = stack.enter_context(
            streamedge(
                source.port,
                core=SERVER_CORE,
                web='log = { origin = "logs", interval = "5s" }',
                tables=f'[origins.logs]\ntype = "directory"\npath = "{folder}"\n',
            )
        )
        servers: dict[str, Server | Failure] = {WITHOUT_LOG: plain, STREAMEDGE: logged}
        for server in (plain, logged):
            crowd(CrowdPlan(server.http_port, PATH, readers=1))
        for size_bytes in SIZES_BYTES:

            def measure(server: Server, size_bytes: int = size_bytes) -> LoadResult:
                return hit(
                    HitsPlan(
                        port=server.http_port,
                        path=PATH,
                        object_bytes=films.moov_first.stat().st_size,
                        range_bytes=size_bytes,
                        connections=CONNECTIONS,
                        seconds=options.seconds / len(SIZES_BYTES) / SHORT_ROUNDS,
                        server_pid=server.pid,
                    )
                )

            results = rounds_of(servers, measure, rounds=SHORT_ROUNDS, rounds_max=SHORT_ROUNDS_MAX)
            label = f"{size_bytes >> 10} KiB"
            figures += ratio_figures(label, results, WITHOUT_LOG, RATIO_MIN, peer_word="no log")
    return figures
