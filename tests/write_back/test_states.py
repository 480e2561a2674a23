"""The state after an origin's response, and the retry delay."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.errors import OriginError, OriginFailure
from streamedge.origin.writing import WriteResponse, refuse
from streamedge.write_back.states import (
    BACK_OFF_MAX_S,
    State,
    back_off_s,
    may_follow,
    state_after,
    state_without_response,
)


@pytest.mark.parametrize(
    ("method", "status", "state"),
    [
        ("PUT", 200, State.DONE),
        ("PUT", 201, State.DONE),
        ("DELETE", 204, State.DONE),
        ("DELETE", 404, State.DONE),
        ("DELETE", 410, State.DONE),
        ("PUT", 404, State.FAILED),
        ("PUT", 409, State.CONFLICT),
        ("PUT", 412, State.CONFLICT),
        ("DELETE", 412, State.CONFLICT),
        ("PUT", 301, State.FAILED),
        ("PUT", 400, State.FAILED),
        ("PUT", 403, State.FAILED),
        ("PUT", 408, State.QUEUED),
        ("PUT", 429, State.QUEUED),
        ("PUT", 500, State.QUEUED),
        ("PUT", 507, State.QUEUED),
    ],
)
def test_status_decides_the_next_state(method: str, status: int, state: State) -> None:
    assert state_after(method, WriteResponse(status)) is state
    assert may_follow(State.SENDING, state)


def test_transient_refusals_are_retried() -> None:
    for code, state in (("RequestTimeout", State.QUEUED), ("AccessDenied", State.FAILED)):
        assert state_after("PUT", refuse(400, code, "").response) is state


@pytest.mark.parametrize("failure", list(OriginFailure))
def test_failure_without_a_response_decides_the_next_state(failure: OriginFailure) -> None:
    lasting = {OriginFailure.NOT_FOUND, OriginFailure.CHANGED, OriginFailure.RANGE_OUTSIDE}
    state = state_without_response(OriginError(failure, ""))
    assert state is (State.FAILED if failure in lasting else State.QUEUED)


def test_done_is_final_and_dead_letters_can_be_requeued() -> None:
    assert not any(may_follow(State.DONE, state) for state in State)
    for state in (State.CONFLICT, State.FAILED):
        assert [after for after in State if may_follow(state, after)] == [State.QUEUED]
    assert not may_follow(State.QUEUED, State.DONE)


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_back_off_grows_to_its_limit(attempts: int, chance: float) -> None:
    wait_s = back_off_s(attempts, chance)
    assert min(2.0 ** min(attempts - 1, 20), BACK_OFF_MAX_S) / 2 <= wait_s <= BACK_OFF_MAX_S
    assert wait_s <= back_off_s(attempts + 1, chance)
