"""An object of 1 GB from a fast origin through a cold cache, beside nginx proxy_cache."""

from __future__ import annotations

import itertools
from statistics import median

from bench.http.requests import ROUNDS
from bench.loads.http_load import CrowdPlan, crowd
from bench.loads.load import LoadResult, ended_children_cpu_s
from bench.machine import cpu_s
from bench.options import Options
from bench.report import Figure, Target
from bench.rounds import cpu_per_request_s, rate, rounds_of, rounds_ratio
from bench.servers.peers import SITE
from bench.servers.server import BenchError, Server, pick
from bench.servers.site import DISC, DISC_BYTES, probe, site

CPU_RATIO_MAX = 1.3


def throughput(options: Options) -> list[Figure]:
    """Bytes per second, and the server's CPU-seconds per GB."""
    numbers = itertools.count()
    with site() as here:
        probe(here.origin, "GET", f"/{DISC}", {})  # into the page cache

        def measure(server: Server) -> LoadResult:
            path = f"/copies/{DISC}/{next(numbers)}"
            server_s = cpu_s(server.pid)
            load_s = cpu_s(here.origin.pid) + ended_children_cpu_s()
            result = crowd(CrowdPlan(server.http_port, path, readers=1))
            if result.failures:
                raise BenchError(result.failures[0])
            return LoadResult(
                requests=1,
                seconds=result.whole_s[0],
                server_cpu_s=cpu_s(server.pid) - server_s,
                load_cpu_s=cpu_s(here.origin.pid) + ended_children_cpu_s() - load_s,
            )

        results = rounds_of(here.servers, measure, rounds=ROUNDS, rounds_max=ROUNDS)
    gigabytes = DISC_BYTES / 1e9
    return [
        Figure(
            "throughput",
            "MB/s",
            pick(results, lambda rounds: 1000 * gigabytes * median(map(rate, rounds))),
        ),
        Figure(
            "server CPU per GB",
            "s",
            pick(results, lambda rounds: median(map(cpu_per_request_s, rounds)) / gigabytes),
        ),
        Figure(
            "load generator and origin CPU per GB",
            "s",
            pick(results, lambda rounds: median(r.load_cpu_s for r in rounds) / gigabytes),
        ),
        Figure(
            "CPU per GB, StreamEdge's over nginx's",
            "",
            rounds_ratio(results, SITE, cpu_per_request_s),
            Target(CPU_RATIO_MAX),
        ),
    ]
