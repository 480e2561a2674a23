"""The transition tables of a connection and of an exchange."""

from __future__ import annotations

import itertools

import pytest

from streamedge.delivery.http.http1.states import (
    EXCHANGE_TRANSITIONS,
    TRANSITIONS,
    Cause,
    ExchangeState,
    Input,
)


def reachable(start: Input) -> set[Input]:
    states = {start}
    while True:
        more = {after for (before, _cause), after in TRANSITIONS.items() if before in states}
        if more <= states:
            return states
        states |= more


def test_every_input_state_is_reachable() -> None:
    assert reachable(Input.BETWEEN) == set(Input)


def test_every_cause_has_a_transition() -> None:
    assert {cause for _state, cause in TRANSITIONS} == set(Cause)


@pytest.mark.parametrize("state", [state for state in Input if state is not Input.LOST])
def test_connection_can_be_lost_in_every_state(state: Input) -> None:
    assert TRANSITIONS[state, Cause.CONNECTION_LOST] is Input.LOST


def test_refused_input_is_never_read_again() -> None:
    assert reachable(Input.REFUSED) == {Input.REFUSED, Input.LOST}


def test_exchange_ends_complete_or_cut() -> None:
    ends = {ExchangeState.COMPLETE, ExchangeState.CUT}
    assert not any(before in ends for before, _after in EXCHANGE_TRANSITIONS)
    for state, end in itertools.product(set(ExchangeState) - ends, [ExchangeState.CUT]):
        assert (state, end) in EXCHANGE_TRANSITIONS
