"""The health of an origin, from the results of its requests."""

from __future__ import annotations

import pytest

from streamedge.errors import OriginFailure
from streamedge.ops.metrics import Counter, Counts, SharedMetrics, State, pair
from streamedge.origin.health import DOWN, UP, OriginHealth


class Bench:
    """An origin's health, at a time that the test sets, and what it publishes."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.counts = Counts()
        self.health = OriginHealth("main", self.counts, lambda: self.now_s)

    def state(self) -> int | None:
        shared = SharedMetrics(1)
        self.counts.publish_in(shared.part(0))
        self.counts.flush()
        states = shared.values().states.get(State.ORIGIN.metric, {})
        shared.close()
        return states.get("main")

    def count(self, result: str) -> int:
        return self.counts.gathered(Counter.ORIGIN_REQUESTS, pair("main", result))


def test_origin_is_unknown_before_its_first_request() -> None:
    assert Bench().state() is None


def test_origin_is_up_after_a_response() -> None:
    bench = Bench()
    bench.health.answered(404)
    assert bench.count("answered") == 1
    assert bench.state() == UP


@pytest.mark.parametrize("failure", [OriginFailure.REFUSED, OriginFailure.TIMEOUT])
def test_origin_is_down_after_three_failures_in_a_row(failure: OriginFailure) -> None:
    bench = Bench()
    bench.health.answered(200)
    for _failure in range(2):
        bench.health.failed(failure)
    bench.health.answered(200)
    for _failure in range(2):
        bench.health.failed(failure)
    assert bench.count(failure.value) == 4
    assert bench.state() == UP
    bench.health.failed(failure)
    assert bench.state() == DOWN


def test_origin_is_up_again_with_the_next_response() -> None:
    bench = Bench()
    for _failure in range(4):
        bench.health.answered(503)
    bench.health.answered(429)
    assert bench.count("error_status") == 5
    assert bench.state() == DOWN
    bench.health.answered(200)
    assert bench.state() == UP


def test_responses_after_a_failure_are_counted_and_end_its_row() -> None:
    bench = Bench()
    for _turn in range(4):
        for _response in range(3):
            bench.health.answered(200)
        bench.health.failed(OriginFailure.BROKEN)
        bench.health.answered(503)
    assert bench.count("answered") == 12
    assert bench.count("error_status") == 4
    assert bench.state() == UP


def test_failures_far_apart_do_not_count() -> None:
    bench = Bench()
    bench.health.answered(200)
    for _failure in range(9):
        bench.health.failed(OriginFailure.BROKEN)
        bench.now_s += 40
    assert bench.state() == UP
