"""Who is up, as every process sees it."""

from __future__ import annotations

import os

from streamedge.coordination.shared_state import Roster


def test_all_are_up_when_each_is() -> None:
    roster = Roster(2)
    assert (roster.workers_up, roster.all_up) == (0, False)
    roster.up(1)
    roster.up(1)
    assert (roster.workers_up, roster.all_up) == (1, False)
    roster.up(0)
    assert (roster.workers_up, roster.all_up) == (2, True)
    roster.down(0)
    assert (roster.workers_up, roster.all_up) == (1, False)


def test_an_edge_without_workers_has_all_up() -> None:
    assert Roster(0).all_up


def test_what_a_child_says_its_parent_sees() -> None:
    roster = Roster(1)
    child = os.fork()
    if child == 0:
        roster.up(0)
        os._exit(0)
    os.waitpid(child, 0)
    assert roster.all_up


def test_those_who_are_up_have_applied_what_they_noted() -> None:
    roster = Roster(3)
    assert roster.have_applied(7)
    roster.up(0)
    roster.up(1)
    roster.apply(0, 7)
    assert not roster.have_applied(7)
    assert roster.have_applied(0)
    roster.apply(1, 9)
    assert roster.have_applied(7)
    assert not roster.have_applied(8)
    roster.down(0)
    assert roster.have_applied(8)
