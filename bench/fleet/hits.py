"""Hits of an edge in a fleet beside those of an edge alone, and the start of both."""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack

from bench.loads.http_load import CrowdPlan, HitsPlan, crowd, hit
from bench.loads.load import LoadResult
from bench.machine import SERVER_CORE, cpu_s, descendants
from bench.options import Options
from bench.report import Figure, Target
from bench.rounds import ROUNDS, cpu_per_request_s, rate, rounds_of, rounds_ratio
from bench.servers.edge import STREAMEDGE, streamedge
from bench.servers.origin import Origin, origin
from bench.servers.server import Server, pick, scratch_folder
from tests.support.engine.redis_server import run_redis

ALONE = "alone"
OBJECT_BYTES = 8 << 20
PATH = f"/synthetic-{OBJECT_BYTES}.bin"
RANGES_BYTES = (1 << 10, 256 << 10)
CONNECTIONS = 16
CROWD_READERS = 50
SAME = 0.95
STARTS = 5


def hits(options: Options) -> list[Figure]:
    """Rates, CPU time per request, and times from start to ready."""
    with ExitStack() as stack:
        source = stack.enter_context(origin(stack.enter_context(scratch_folder())))
        redis = stack.enter_context(run_redis(stack.enter_context(scratch_folder())))
        fleet = f'[fleet]\nengine = "{redis.url}"\n'
        started = {ALONE: _start_s(source, ""), STREAMEDGE: _start_s(source, fleet)}
        servers = {
            ALONE: stack.enter_context(streamedge(source.port, core=SERVER_CORE)),
            STREAMEDGE: stack.enter_context(streamedge(source.port, core=SERVER_CORE, fleet=fleet)),
        }
        workers = {name: _worker(server) for name, server in servers.items()}
        figures = []
        for range_bytes in RANGES_BYTES:
            figures += _beside(servers, workers, range_bytes, options)
    return [*figures, Figure("from start to ready", "s", started)]


def _worker(server: Server) -> int:
    """The pid of the worker: a crowd costs it most. A fleet's control process is never idle."""
    crowd(CrowdPlan(server.http_port, PATH, readers=1))
    before = {pid: cpu_s(pid) for pid in descendants(server.pid) if pid != server.pid}
    crowd(CrowdPlan(server.http_port, PATH, readers=CROWD_READERS))
    return max(before, key=lambda pid: cpu_s(pid) - before[pid])


def _beside(
    servers: dict[str, Server], workers: dict[str, int], range_bytes: int, options: Options
) -> list[Figure]:
    pids = {servers[name].pid: pid for name, pid in workers.items()}

    def measure(server: Server) -> LoadResult:
        return hit(
            HitsPlan(
                port=server.http_port,
                path=PATH,
                object_bytes=OBJECT_BYTES,
                range_bytes=range_bytes,
                connections=CONNECTIONS,
                seconds=options.seconds / len(RANGES_BYTES) / ROUNDS / 2,
                server_pid=pids[server.pid],
            )
        )

    results = rounds_of(servers, measure, rounds_max=ROUNDS + 2)
    label = f"{range_bytes >> 10} KiB"
    return [
        Figure(label, "requests/s", pick(results, lambda runs: statistics.median(map(rate, runs)))),
        Figure(
            f"{label}: server CPU per request",
            "µs",
            pick(results, lambda runs: 1e6 * statistics.median(map(cpu_per_request_s, runs))),
        ),
        Figure(
            f"{label}: CPU per request, ratio to one alone",
            "",
            rounds_ratio(results, ALONE, lambda result: 1 / cpu_per_request_s(result)),
            Target(SAME, at_least=True),
        ),
    ]


def _start_s(source: Origin, fleet: str) -> float:
    """The median time from the start of an edge until it is ready."""
    times_s = []
    for _ in range(STARTS):
        began_s = time.monotonic()
        with streamedge(source.port, core=SERVER_CORE, fleet=fleet):
            times_s.append(time.monotonic() - began_s)
    return statistics.median(times_s)
