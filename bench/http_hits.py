"""HTTP hits against nginx with sendfile, one worker each, ranges of four sizes.

The servers alternate, round by round, and the median of the rounds' ratios counts: disturbances of
the machine affect both servers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from operator import itemgetter
from statistics import median

from bench.edge import STREAMEDGE, streamedge
from bench.http_load import CrowdPlan, HitsPlan, HitsResult, crowd, hit
from bench.machine import SERVER_CORE, Steal
from bench.options import Options
from bench.origin import origin
from bench.peers import SENDFILE, nginx_sendfile
from bench.report import Figure, Target
from bench.server import BenchError, Failure, Server, Value, pick
from bench.titles import MOOV_FIRST, titles

CONNECTIONS = 16
ROUNDS = 5
ROUNDS_MAX = 15
STEAL_MAX = 0.02
PATH = f"/{MOOV_FIRST}"
TARGETS = {1 << 10: 0.5, 256 << 10: 1.0, 1 << 20: 0.95, 8 << 20: 0.95}
"""Bytes of a range, and the minimum ratio of StreamEdge's throughput to nginx's."""


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
            ) -> HitsResult:
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


def rounds_of(
    servers: Mapping[str, Server | Failure], measure: Callable[[Server], HitsResult]
) -> dict[str, list[HitsResult] | Failure]:
    """The servers' results, one per round; a server that failed once is not measured again.

    When the machine's host gives processor time to other guests, more rounds are run, at most
    ``ROUNDS_MAX``. The rounds with the least such time count.
    """
    failures = {name: server for name, server in servers.items() if isinstance(server, Failure)}
    rounds: list[tuple[float, dict[str, HitsResult]]] = []
    for number in range(ROUNDS_MAX):
        steal, results = Steal(), {}
        for name in sorted(servers, reverse=number % 2 == 1):  # the first server alternates
            server = servers[name]
            if isinstance(server, Failure) or name in failures:
                continue
            try:
                results[name] = measure(server)
            except BenchError as error:
                failures[name] = Failure(str(error))
        rounds.append((steal.share, results))
        if sum(share <= STEAL_MAX for share, _results in rounds) == ROUNDS:
            break
    counted = sorted(rounds, key=itemgetter(0))[:ROUNDS]
    return {
        name: failures.get(name) or [results[name] for _share, results in counted]
        for name in servers
    }


def ratio_figures(
    label: str,
    results: Mapping[str, list[HitsResult] | Failure],
    peer: str,
    target: float,
    peer_word: str = "nginx",
) -> list[Figure]:
    """Medians of the rounds, and the median of their ratios to the peer's."""
    ours, theirs = results[STREAMEDGE], results[peer]
    ratios: dict[str, Value] = {}
    if not isinstance(ours, Failure) and not isinstance(theirs, Failure):
        pairs = zip(ours, theirs, strict=True)
        ratios[STREAMEDGE] = median(_rate(one) / _rate(other) for one, other in pairs)
    return [
        Figure(label, "requests/s", pick(results, lambda rounds: median(map(_rate, rounds)))),
        Figure(
            f"{label}: load generator CPU",
            "% of its core",
            pick(results, lambda rounds: 100 * median(r.load_cpu_s / r.seconds for r in rounds)),
        ),
        Figure(f"{label}: ratio to {peer_word}", "", ratios, Target(target, at_least=True)),
    ]


def _rate(result: HitsResult) -> float:
    return result.requests / result.seconds
