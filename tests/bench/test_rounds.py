from __future__ import annotations

import pytest

from bench import rounds
from bench.loads.load import LoadResult
from bench.rounds import ratio_figures, rounds_of
from bench.servers.edge import STREAMEDGE
from bench.servers.server import BenchError, Failure, Server

PEER = "nginx"
OURS = Server(STREAMEDGE, 1)
THEIRS = Server(PEER, 2)


def result(requests: int, cpu_s: float) -> LoadResult:
    return LoadResult(requests, seconds=2.0, server_cpu_s=cpu_s, load_cpu_s=0.5)


def test_figures_have_rates_cpu_per_request_and_both_ratios() -> None:
    results: dict[str, list[LoadResult] | Failure] = {
        STREAMEDGE: [result(1000, 0.01), result(2000, 0.02), result(4000, 0.04)],
        PEER: [result(2000, 0.01), result(4000, 0.02), result(6000, 0.03)],
    }
    rate, cpu, load, rate_ratio, cpu_ratio = ratio_figures("304", results, PEER, 0.6)
    assert rate.values == {STREAMEDGE: 1000.0, PEER: 2000.0}
    assert cpu.values == pytest.approx({STREAMEDGE: 10.0, PEER: 5.0})
    assert load.values == {STREAMEDGE: 25.0, PEER: 25.0}
    assert rate_ratio.values == {STREAMEDGE: 0.5}
    assert cpu_ratio.values == pytest.approx({STREAMEDGE: 0.5})
    assert [figure.verdict for figure in (rate, cpu, load)] == ["", "", ""]
    assert [figure.verdict for figure in (rate_ratio, cpu_ratio)] == ["no", "no"]


def test_ratio_of_cpu_is_above_1_where_streamedge_takes_less() -> None:
    results: dict[str, list[LoadResult] | Failure] = {
        STREAMEDGE: [result(1000, 0.01)],
        PEER: [result(1000, 0.02)],
    }
    *_, rate_ratio, cpu_ratio = ratio_figures("hit", results, PEER, 1.5)
    assert cpu_ratio.values == pytest.approx({STREAMEDGE: 2.0})
    assert (rate_ratio.verdict, cpu_ratio.verdict) == ("no", "yes")


def test_failed_server_has_no_ratio_and_misses_the_target() -> None:
    results: dict[str, list[LoadResult] | Failure] = {
        STREAMEDGE: Failure("no h2"),
        PEER: [result(1000, 0.02)],
    }
    figures = ratio_figures("1 KB", results, PEER, 0.5)
    assert figures[0].values == {STREAMEDGE: Failure("no h2"), PEER: 500.0}
    assert [figure.values for figure in figures[3:]] == [{}, {}]
    assert [figure.verdict for figure in figures[3:]] == ["no", "no"]


def test_rounds_with_least_steal_count(monkeypatch: pytest.MonkeyPatch) -> None:
    class Steal:
        shares = iter([0.5, 0.0, 0.3, 0.0])

        def __init__(self) -> None:
            self.share = next(self.shares)

    monkeypatch.setattr(rounds, "Steal", Steal)
    measured: list[str] = []

    def measure(server: Server) -> LoadResult:
        measured.append(server.name)
        return result(len(measured), 0.01)

    results = rounds_of({STREAMEDGE: OURS, PEER: THEIRS}, measure, rounds=2, rounds_max=9)
    assert measured == [STREAMEDGE, PEER, PEER, STREAMEDGE] * 2
    ours = results[STREAMEDGE]
    assert not isinstance(ours, Failure)
    assert [one.requests for one in ours] == [4, 8]


def test_server_that_failed_is_not_measured_again() -> None:
    measured: list[str] = []

    def measure(server: Server) -> LoadResult:
        measured.append(server.name)
        if server is OURS:
            raise BenchError("closed")
        return result(1, 0.01)

    results = rounds_of({STREAMEDGE: OURS, PEER: THEIRS}, measure, rounds=1, rounds_max=3)
    assert results[STREAMEDGE] == Failure("closed")
    assert isinstance(results[PEER], list)
    assert measured.count(STREAMEDGE) == 1
