"""Rounds of a load on several servers, and the figures of two servers side by side.

The servers alternate, round by round, and the median of the rounds' ratios counts: disturbances of
the machine affect both servers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import itemgetter
from statistics import median

from bench.loads.load import LoadResult
from bench.machine import Steal
from bench.report import Figure, Target
from bench.servers.edge import STREAMEDGE
from bench.servers.server import BenchError, Failure, Server, Value, pick

ROUNDS = 5
ROUNDS_MAX = 15
SHORT_ROUNDS = 15
"""Of ratios within a few percent of 1: the median of many short rounds is steadier than that of few
long ones."""
SHORT_ROUNDS_MAX = 25
STEAL_MAX = 0.02


def rounds_of(
    servers: Mapping[str, Server | Failure],
    measure: Callable[[Server], LoadResult],
    *,
    rounds: int = ROUNDS,
    rounds_max: int = ROUNDS_MAX,
) -> dict[str, list[LoadResult] | Failure]:
    """The servers' results, one per round; a server that failed once is not measured again.

    When the machine's host gives processor time to other guests, more rounds are run, at most
    ``rounds_max``. The rounds with the least such time count.
    """
    failures = {name: server for name, server in servers.items() if isinstance(server, Failure)}
    run: list[tuple[float, dict[str, LoadResult]]] = []
    for number in range(rounds_max):
        steal, results = Steal(), {}
        for name in sorted(servers, reverse=number % 2 == 1):  # the first server alternates
            server = servers[name]
            if isinstance(server, Failure) or name in failures:
                continue
            try:
                results[name] = measure(server)
            except BenchError as error:
                failures[name] = Failure(str(error))
        run.append((steal.share, results))
        if sum(share <= STEAL_MAX for share, _results in run) == rounds:
            break
    counted = sorted(run, key=itemgetter(0))[:rounds]
    return {
        name: failures.get(name) or [results[name] for _share, results in counted]
        for name in servers
    }


def ratio_figures(
    label: str,
    results: Mapping[str, list[LoadResult] | Failure],
    peer: str,
    target: float,
    peer_word: str = "nginx",
) -> list[Figure]:
    """Medians of the rounds, and the medians of their ratios to the peer's.

    A ratio above 1 is in StreamEdge's favor. That of the CPU time per request is steadier than that
    of the rates, and it is right, too, where a load generator is busier than the server.
    """
    limit = Target(target, at_least=True)
    return [
        Figure(label, "requests/s", pick(results, lambda rounds: median(map(rate, rounds)))),
        Figure(
            f"{label}: server CPU per request",
            "µs",
            pick(results, lambda rounds: 1e6 * median(map(cpu_per_request_s, rounds))),
        ),
        Figure(
            f"{label}: load generator CPU",
            "% of its core",
            pick(results, lambda rounds: 100 * median(r.load_cpu_s / r.seconds for r in rounds)),
        ),
        Figure(
            f"{label}: rate, ratio to {peer_word}", "", rounds_ratio(results, peer, rate), limit
        ),
        Figure(
            f"{label}: CPU per request, ratio to {peer_word}",
            "",
            rounds_ratio(results, peer, lambda result: 1 / cpu_per_request_s(result)),
            limit,
        ),
    ]


def rounds_ratio(
    results: Mapping[str, list[LoadResult] | Failure],
    peer: str,
    read: Callable[[LoadResult], float],
) -> dict[str, Value]:
    """The median of the rounds' ratios to the peer's value; empty after a failure."""
    ours, theirs = results[STREAMEDGE], results[peer]
    if isinstance(ours, Failure) or isinstance(theirs, Failure):
        return {}
    pairs = zip(ours, theirs, strict=True)
    return {STREAMEDGE: median(read(one) / read(other) for one, other in pairs)}


def rate(result: LoadResult) -> float:
    """Responses per second."""
    return result.requests / result.seconds


def cpu_per_request_s(result: LoadResult) -> float:
    """CPU-seconds of the server for one response."""
    return result.server_cpu_s / result.requests
