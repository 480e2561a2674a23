from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from streamedge.control.database import ControlDatabase
from streamedge.control.fleet_view import fleet_view, members_before
from streamedge.control.replica import Documents, Replica
from streamedge.fleet.entries import Entry, EntryKind, PlacedEntry, new_entry_id
from streamedge.fleet.members import Member, Role
from streamedge.fleet.position import position_at

FRA = Member("fra-1", peer_address="10.0.0.1:7443")
AMS = Member("ams-1", peer_address="10.0.0.2:7443")


class Log:
    """A replica that applies descriptions of members at given times."""

    def __init__(self, folder: Path) -> None:
        self.now_s = 0.0
        self.database = ControlDatabase(folder)
        self.replica = Replica(self.database, "lon-1", lambda *_: None, clock=lambda: self.now_s)
        self.replica.join(Documents({}, 0, {}), position_at(1, 0), "line", is_first=True)
        self._sequence = 0

    def apply(self, now_s: float, member: Member) -> None:
        self.now_s = now_s
        self._sequence += 1
        entry = Entry(new_entry_id(), EntryKind.MEMBER, member.name, 0.0, "", member.body())
        self.replica.apply([PlacedEntry(position_at(1, self._sequence), entry.id, entry)])

    def apply_invalidations(self, count: int) -> None:
        first = self._sequence + 1
        self._sequence += count
        entries = []
        for number in range(first, first + count):
            body = {"items": ["/a"], "soft": False, "revoke": False}
            entry = Entry(new_entry_id(), EntryKind.INVALIDATION, "fra-1", 0.0, "EWEB", body)
            entries.append(PlacedEntry(position_at(1, number), entry.id, entry))
        self.replica.apply(entries)

    def steps_of_an_invalidation(self) -> int:
        """The steps of SQLite's machine for one invalidation, in control process and worker."""
        steps = 0

        def count() -> int:
            nonlocal steps
            steps += 1
            return 0

        with self.database.read() as connection:
            connection.set_progress_handler(count, 10)
        self.apply_invalidations(1)
        self.replica.local_position()
        with self.database.read() as connection:
            members_before(connection, fleet_view(connection).members, 0.0)
            connection.set_progress_handler(None, 0)
        return steps

    def before(self, since_s: float) -> tuple[dict[str, Role], float]:
        with self.database.read() as connection:
            result = members_before(connection, fleet_view(connection).members, since_s)
        return {name: one.role for name, one in result.members.items()}, result.changed_s


def test_member_that_has_joined_recently_was_none_before(tmp_path: Path) -> None:
    log = Log(tmp_path)
    log.apply(100.0, FRA)
    log.apply(5000.0, AMS)
    assert log.before(4000.0) == ({"fra-1": Role.SERVING}, 5000.0)


def test_member_that_drains_since_recently_has_served_before(tmp_path: Path) -> None:
    log = Log(tmp_path)
    log.apply(100.0, FRA)
    log.apply(200.0, AMS)
    log.apply(5000.0, replace(AMS, role=Role.DRAINING))
    log.apply(5001.0, replace(AMS, role=Role.REMOVED))
    assert log.before(4000.0) == ({"fra-1": Role.SERVING, "ams-1": Role.SERVING}, 5001.0)


def test_without_recent_changes_there_is_nothing_before(tmp_path: Path) -> None:
    log = Log(tmp_path)
    log.apply(100.0, FRA)
    assert log.before(4000.0) == ({}, 0.0)


def test_first_members_of_a_fleet_have_none_before_them(tmp_path: Path) -> None:
    log = Log(tmp_path)
    log.apply(100.0, FRA)
    log.apply(110.0, AMS)
    assert log.before(0.0) == ({}, 110.0)


def test_applying_and_reading_cost_the_same_with_many_entries(tmp_path: Path) -> None:
    log = Log(tmp_path)
    log.apply(100.0, FRA)
    log.apply(200.0, AMS)
    steps = log.steps_of_an_invalidation()
    log.apply_invalidations(3000)
    assert log.steps_of_an_invalidation() < steps + 50
