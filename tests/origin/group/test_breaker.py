"""The circuit breaker's table, row by row, and its invariants."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.origin.group.breaker import (
    BACK_OFF_MAX_S,
    BACK_OFF_MIN_S,
    FAILURES_MAX,
    WINDOW_S,
    Breaker,
    BreakerEvent,
    BreakerState,
)

SENT, ANSWERED = BreakerEvent.SENT, BreakerEvent.ANSWERED
FAILED, ABANDONED = BreakerEvent.FAILED, BreakerEvent.ABANDONED
CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN


def after(*events: tuple[BreakerEvent, float]) -> Breaker:
    breaker = Breaker()
    for event, now_s in events:
        breaker = breaker.after(event, now_s)
    return breaker


def opened(at_s: float = 100.0) -> Breaker:
    return after(*[(FAILED, at_s)] * FAILURES_MAX)


def test_new_breaker_is_closed() -> None:
    assert Breaker().state is CLOSED
    assert Breaker().admits(0)
    assert Breaker().after(SENT, 0).after(ABANDONED, 0) == Breaker()


def test_breaker_opens_at_the_third_failure_in_a_row() -> None:
    assert after((FAILED, 1), (FAILED, 2)).state is CLOSED
    breaker = after((FAILED, 1), (FAILED, 2), (FAILED, 3))
    assert breaker.state is OPEN
    assert not breaker.admits(3)
    assert not breaker.admits(3 + BACK_OFF_MIN_S - 0.001)
    assert breaker.admits(3 + BACK_OFF_MIN_S)


def test_response_resets_the_failure_count() -> None:
    assert after((FAILED, 1), (FAILED, 2), (ANSWERED, 2), (FAILED, 3), (FAILED, 4)).state is CLOSED


def test_failures_far_apart_do_not_open_the_breaker() -> None:
    breaker = after((FAILED, 0), (FAILED, 1), (FAILED, WINDOW_S + 0.1))
    assert (breaker.state, breaker.failures) == (CLOSED, 1)
    assert breaker.after(FAILED, WINDOW_S + 1).after(FAILED, WINDOW_S + 2).state is OPEN


def test_half_open_breaker_allows_one_trial() -> None:
    breaker = opened(100).after(SENT, 101)
    assert breaker.state is HALF_OPEN
    assert not breaker.admits(101)
    assert not breaker.admits(1_000)
    assert breaker.after(ANSWERED, 102) == Breaker()


def test_request_before_the_back_off_ends_is_no_trial() -> None:
    """For example if all breakers of a group are open, and requests are sent anyway."""
    assert opened(100).after(SENT, 100.5) == opened(100)
    assert opened(100).after(FAILED, 100.5) == opened(100)
    assert opened(100).after(ANSWERED, 100.5) == Breaker()


def test_back_off_doubles_after_each_failed_trial() -> None:
    breaker, now_s = opened(0), 0.0
    waits = []
    for _trial in range(9):
        waits.append(breaker.until_s - now_s)
        now_s = breaker.until_s
        breaker = breaker.after(SENT, now_s).after(FAILED, now_s)
        assert breaker.state is OPEN
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_abandoned_trial_allows_another_trial() -> None:
    breaker = opened(100).after(SENT, 101).after(ABANDONED, 105)
    assert breaker.state is OPEN
    assert breaker.admits(105)
    assert breaker.after(SENT, 105).after(FAILED, 105).until_s == 105 + 2 * BACK_OFF_MIN_S


@pytest.mark.parametrize("state", list(BreakerState))
def test_response_closes_the_breaker(state: BreakerState) -> None:
    assert Breaker(state, 5, 1, 2, 3).after(ANSWERED, 1) == Breaker()


@given(st.lists(st.tuples(st.sampled_from(BreakerEvent), st.floats(0, 100)), max_size=50))
def test_breaker_always_allows_a_request_in_time(steps: list[tuple[BreakerEvent, float]]) -> None:
    breaker, now_s = Breaker(), 0.0
    for event, time_s in steps:
        now_s += time_s
        breaker = breaker.after(event, now_s)
        if breaker.state is HALF_OPEN:  # its trial ends somehow
            assert {breaker.after(end, now_s).state for end in (ANSWERED, FAILED, ABANDONED)} == {
                CLOSED,
                OPEN,
            }
        else:
            assert breaker.admits(now_s + BACK_OFF_MAX_S)
