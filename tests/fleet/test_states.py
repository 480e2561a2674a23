"""The states of an edge: every transition of the table, and who gets viewers."""

from __future__ import annotations

import pytest

from streamedge.fleet.states import EdgeState, StateEvent, state_after, takes_viewers

JOINING, UP, LOST, DRAINING = EdgeState
EVENTS = (StateEvent.CAUGHT_UP, StateEvent.LEASE_OVER, StateEvent.DRAIN, StateEvent.UNDRAIN)


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (JOINING, (UP, JOINING, DRAINING, JOINING)),
        (UP, (UP, LOST, DRAINING, UP)),
        (LOST, (UP, LOST, DRAINING, LOST)),
        (DRAINING, (DRAINING, DRAINING, DRAINING, JOINING)),
    ],
)
def test_state_follows_from_the_event(state: EdgeState, expected: tuple[EdgeState, ...]) -> None:
    assert tuple(state_after(state, event) for event in EVENTS) == expected


def test_viewers_should_come_to_an_edge_that_is_up_alone() -> None:
    assert [state for state in EdgeState if takes_viewers(state)] == [UP]
