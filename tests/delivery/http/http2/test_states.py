"""The transition table of an HTTP/2 connection."""

from __future__ import annotations

from streamedge.delivery.http.http2.states import TRANSITIONS, Cause, Phase


def test_phases_follow_each_other() -> None:
    order = list(Phase)
    for (before, _cause), after in TRANSITIONS.items():
        assert order.index(after) > order.index(before)


def test_every_cause_has_a_transition() -> None:
    assert {cause for _phase, cause in TRANSITIONS} == set(Cause)


def test_connection_can_be_lost_in_every_phase_once() -> None:
    lost = {phase for (phase, cause) in TRANSITIONS if cause is Cause.CONNECTION_LOST}
    assert lost == set(Phase) - {Phase.LOST}
