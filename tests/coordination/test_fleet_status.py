"""The state of an edge in its fleet, in shared memory."""

from __future__ import annotations

import os

from streamedge.coordination.fleet_status import FleetStatus, lease_clock_s
from streamedge.fleet.states import EdgeState


def test_edge_joins_at_first_and_does_not_hear_its_fleet() -> None:
    status = FleetStatus()
    assert (status.state, status.hears_fleet(), status.is_stopping) == (
        EdgeState.JOINING,
        False,
        False,
    )


def test_state_of_a_control_process_that_has_ended_is_lost_after_the_lease() -> None:
    status = FleetStatus()
    child = os.fork()
    if child == 0:
        try:
            status.note(EdgeState.UP, lease_clock_s() + 1000)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert (status.state, status.hears_fleet()) == (EdgeState.UP, True)
    status.note(EdgeState.UP, lease_clock_s() - 0.001)
    assert (status.state, status.hears_fleet()) == (EdgeState.LOST, False)
    status.note(EdgeState.DRAINING, 0.0)
    assert (status.state, status.hears_fleet()) == (EdgeState.DRAINING, False)


def test_supervisor_notes_that_the_edge_stops() -> None:
    status = FleetStatus()
    status.note_stopping()
    assert status.is_stopping
