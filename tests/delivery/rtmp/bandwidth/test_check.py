"""streamedge/delivery/rtmp/bandwidth/check.py: its rate on simulated links, with given times."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamedge.delivery.rtmp.bandwidth.check import (
    CALL_BYTES,
    GROWTH_BYTES_MAX,
    GROWTH_S,
    LATENCY_CALLS,
    LIMIT_S,
    MEASURED_BYTES_MAX,
    TEXT_BYTES_MIN,
    WINDOW_MAX_BYTES,
    BandwidthCheck,
    Phase,
    Rate,
)

BEGIN_S = 100.0
QUEUE_PACKETS_BYTES = 4 * 1500  # a shorter queue would lose packets of any connection
SEEDS = st.integers(0, 1 << 32)


@dataclass
class Link:
    """A link of ``megabits`` per second behind a queue without end. Results come back after
    ``rtt_s`` and up to ``jitter_s`` more, in the order of the calls.
    """

    megabits: float
    rtt_s: float
    jitter_s: float = 0.0
    seed: int = 0
    on_way_max_bytes: int = 0
    queue_max_bytes: float = 0.0  # besides the call that is being sent

    def measure(self, check: BandwidthCheck, *, results_max: int = 1 << 30) -> Rate:
        """Runs a check to its end. The client stops giving results after ``results_max``."""
        results: deque[tuple[float, int]] = deque()
        random = Random(self.seed)
        now_s = free_s = result_s = BEGIN_S
        bytes_per_s = self.megabits * 1e6 / 8

        def send(sizes: list[int]) -> None:
            nonlocal free_s, result_s
            for size in sizes:
                queued_bytes = max(0.0, free_s - now_s) * bytes_per_s
                self.queue_max_bytes = max(self.queue_max_bytes, queued_bytes)
                free_s = max(now_s, free_s) + (size + CALL_BYTES) / bytes_per_s
                delay_s = self.rtt_s + self.jitter_s * random.random()
                result_s = max(result_s, free_s + delay_s)
                results.append((result_s, size + CALL_BYTES))
            on_way_bytes = sum(size for _, size in results)
            self.on_way_max_bytes = max(self.on_way_max_bytes, on_way_bytes)

        send(check.begin(now_s))
        while not check.is_over(now_s):
            if not results_max or not results or results[0][0] > BEGIN_S + LIMIT_S:
                now_s = BEGIN_S + LIMIT_S + 0.01
                break
            now_s, _ = results.popleft()
            results_max -= 1
            send(check.result(now_s))
        return check.rate(now_s)


@pytest.mark.parametrize("megabits", [1.0, 5.0, 20.0])
@pytest.mark.parametrize(
    ("rtt_s", "jitter_s"), [(0.0001, 0.0), (0.02, 0.01), (0.05, 0.03), (0.1, 0.05)]
)
@settings(max_examples=20)
@given(seed=SEEDS)
def test_rate_is_within_10_percent(
    megabits: float, rtt_s: float, jitter_s: float, seed: int
) -> None:
    rate = Link(megabits, rtt_s, jitter_s, seed).measure(BandwidthCheck())
    assert rate.kbit_per_s == pytest.approx(megabits * 1000, rel=0.1)


@settings(max_examples=200)
@given(
    st.floats(0.3, 50.0),
    st.floats(0.05, 0.4),
    st.floats(0.005, 0.15),
    st.floats(0.0, 0.01),
    SEEDS,
)
@example(0.3, 0.05, 0.005, 0.01, 0)
@example(1.0, 0.2, 0.005, 0.0, 0)
@example(20.0, 0.05, 0.15, 0.01, 0)
def test_check_fills_the_link_and_overflows_no_queue(
    megabits: float, queue_s: float, rtt_s: float, jitter_s: float, seed: int
) -> None:
    link = Link(megabits, rtt_s, jitter_s, seed)
    rate = link.measure(BandwidthCheck())
    bytes_per_s = megabits * 1e6 / 8
    assert link.queue_max_bytes <= max(queue_s * bytes_per_s, QUEUE_PACKETS_BYTES)
    if (rtt_s + jitter_s) * bytes_per_s < 0.9 * WINDOW_MAX_BYTES:
        assert rate.kbit_per_s == pytest.approx(megabits * 1000, rel=0.1)


@settings(max_examples=60)
@given(
    st.floats(0.1, 1000.0),
    st.floats(0.0001, 0.5),
    st.floats(0.0, 0.05),
    SEEDS,
)
@example(20.0, 0.3, 0.0, 0)
@example(100.0, 0.1, 0.0, 0)
def test_rate_of_any_link_is_its_own_or_what_fits_in_a_round_trip(
    megabits: float, rtt_s: float, jitter_s: float, seed: int
) -> None:
    link = Link(megabits, rtt_s, jitter_s, seed)
    check = BandwidthCheck()
    rate = link.measure(check)
    # A longer link holds more than the window of a check.
    round_s = rtt_s + jitter_s + 8 * TEXT_BYTES_MIN / (megabits * 1e6)
    fitting_kbit_per_s = 8 * WINDOW_MAX_BYTES / round_s / 1000
    assert rate.kbit_per_s <= 1.1 * megabits * 1000
    if (
        20 * round_s < GROWTH_S
    ):  # the window doubles with each round trip, then it grows more slowly
        assert rate.kbit_per_s >= min(0.75 * megabits * 1000, 0.5 * fitting_kbit_per_s)
    assert rate.elapsed_s <= LIMIT_S + 0.01
    assert link.on_way_max_bytes <= WINDOW_MAX_BYTES
    assert 1024 * rate.kilobytes <= GROWTH_BYTES_MAX + MEASURED_BYTES_MAX + WINDOW_MAX_BYTES
    assert check.phase is Phase.DONE


def test_latency_is_that_of_the_calls_without_text() -> None:
    rate = Link(8.0, 0.04).measure(BandwidthCheck())
    assert rate.latency_ms == pytest.approx(40, abs=0.1)


@pytest.mark.parametrize("results", [0, 1, LATENCY_CALLS])
def test_client_without_results_gets_a_rate_of_zero_after_the_limit(results: int) -> None:
    check = BandwidthCheck()
    rate = Link(5.0, 0.02).measure(check, results_max=results)
    assert rate.kbit_per_s == rate.kilobytes == 0.0
    assert rate.elapsed_s > LIMIT_S
    assert check.result(BEGIN_S + LIMIT_S + 0.2) == []


def test_client_that_stops_giving_results_gets_the_rate_until_then() -> None:
    rate = Link(5.0, 0.02).measure(BandwidthCheck(), results_max=200)
    assert rate.kbit_per_s == pytest.approx(5000, rel=0.1)


def test_slow_client_gets_the_rate_of_its_few_results() -> None:
    rate = Link(0.01, 0.1).measure(BandwidthCheck())
    assert rate.kbit_per_s == pytest.approx(10, rel=0.1)


@given(st.lists(st.floats(0.0, 10.0), max_size=80), st.integers(0, 80))
def test_any_results_give_a_finite_rate(delays_s: list[float], extra: int) -> None:
    check, now_s = BandwidthCheck(), BEGIN_S
    outstanding = len(check.begin(now_s))
    for delay_s in delays_s:
        now_s += delay_s
        calls = check.result(now_s)  # also more results than there were calls
        outstanding = max(0, outstanding - 1) + len(calls)
        assert outstanding * (TEXT_BYTES_MIN + CALL_BYTES) <= WINDOW_MAX_BYTES
    rate = check.rate(now_s)
    assert 0.0 <= rate.kbit_per_s < float("inf")
    assert [check.result(now_s) for _ in range(extra)] == [[]] * extra


def test_results_that_come_at_the_time_of_their_calls_give_a_finite_rate() -> None:
    """The clock of a loop may stand still between a call and its result: uvloop's has no less than
    a millisecond.
    """
    check, now_s = BandwidthCheck(), BEGIN_S
    outstanding = len(check.begin(now_s))
    for number in range(LATENCY_CALLS + 40):
        if number == LATENCY_CALLS + 2:
            now_s += 0.005  # a queue, so the window no longer doubles
        outstanding += len(check.result(now_s)) - 1
        assert outstanding > 0
    assert 0.0 <= check.rate(now_s).kbit_per_s < float("inf")
