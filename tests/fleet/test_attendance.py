"""Which edges are here, and which have applied an entry."""

from __future__ import annotations

from streamedge.fleet.attendance import Attendance, StateChange
from streamedge.fleet.members import Presence
from streamedge.fleet.states import EdgeState

FRA, AMS = Presence("fra-1", EdgeState.UP, 7), Presence("ams-1", EdgeState.UP, 5)


def test_changes_of_state_are_reported_once() -> None:
    attendance = Attendance()
    assert attendance.update({"fra-1": FRA, "ams-1": AMS}, is_complete=True) == [
        StateChange("ams-1", "", "up"),
        StateChange("fra-1", "", "up"),
    ]
    moved = Presence("ams-1", EdgeState.UP, 6)
    assert attendance.update({"fra-1": FRA, "ams-1": moved}, is_complete=True) == []
    draining = Presence("fra-1", EdgeState.DRAINING, 7)
    assert attendance.update({"fra-1": draining}, is_complete=True) == [
        StateChange("ams-1", "up", "gone"),
        StateChange("fra-1", "up", "draining"),
    ]


def test_entry_is_completed_once_all_but_joining_edges_have_applied_it() -> None:
    joining = Presence("new-1", EdgeState.JOINING, 0)
    attendance = Attendance({"fra-1": FRA, "ams-1": AMS, "new-1": joining}, is_complete=True)
    assert attendance.completed(9) == 5
    assert attendance.completed(4) == 4
    assert attendance.behind(6) == ["ams-1"]
    assert attendance.applied(6) == {"fra-1"}
    assert attendance.applied(0) == {"ams-1", "fra-1"}
    assert attendance.behind(8) == ["ams-1", "fra-1"]


def test_nothing_is_completed_while_the_engine_may_have_lost_reports() -> None:
    assert Attendance({"fra-1": FRA}, is_complete=False).completed(7) == -1


def test_edges_are_counted_by_state() -> None:
    attendance = Attendance({"fra-1": FRA, "ams-1": AMS}, is_complete=True)
    counts = attendance.edges_by_state()
    assert counts == dict.fromkeys(EdgeState, 0) | {EdgeState.UP: 2}
