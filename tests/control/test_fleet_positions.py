"""Positions are translated between two logs so that an object never seems newer than it is."""

from __future__ import annotations

import os
import tempfile
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamedge.control.database import ControlDatabase
from streamedge.control.fleet_positions import FleetPositions, read_placements
from streamedge.control.invalidation_index import InvalidationIndex
from streamedge.control.log import ControlLog
from streamedge.control.position import UNKNOWN_POSITION, epoch_of
from streamedge.control.replica import Documents, Replica
from streamedge.fleet.entries import Entry, EntryKind, PlacedEntry
from streamedge.fleet.position import START, position_at
from streamedge.ops.log import open_log

EMPTY = Documents({}, START, {})
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
FIRST = position_at(1, 0)


def entry(number: int, kind: EntryKind, edge: str = "other") -> Entry:
    body = {"items": [f"/{number}"], "soft": False, "revoke": False}
    return Entry(f"id-{number}", kind, edge, 0.0, "E", body)


class Edge:
    """A replica, and when each of its entries was applied and placed."""

    def __init__(self, folder: Path, steps_kept: int) -> None:
        self.database = ControlDatabase(folder)
        self.replica = Replica(self.database, "own", lambda *_keys: None)
        self.control_log = ControlLog(self.database, edge="own")
        self.replica.join(EMPTY, FIRST, "line", is_first=True)
        self.positions = FleetPositions(
            partial(read_placements, self.database), steps_kept=steps_kept
        )
        self.placed: list[Entry] = []
        self.epochs: dict[str, int] = {}  # of rows, by id of their entry

    def head(self) -> int:
        return epoch_of(self.replica.local_position())

    def invalidate(self) -> None:
        self.control_log.invalidate("E", ["/own"])
        self.epochs[self.replica.unpublished(-1)[-1].id] = self.head()

    def follow(self, *entries: Entry) -> None:
        """The shared log goes on with these entries."""
        position = FIRST + len(self.placed) + 1
        for number, one in enumerate(entries):
            before = self.head()
            self.replica.apply([PlacedEntry(position + number, one.id, one)])
            if self.head() > before:
                self.epochs[one.id] = self.head()
        self.placed += entries


STEPS = st.lists(
    st.sampled_from(("own", "publish", "invalidation", "written", "read")), max_size=30
)


@given(steps=STEPS, steps_kept=st.sampled_from((4, 1000)))
@settings(max_examples=60, deadline=None)
def test_translations_are_never_newer_than_the_truth(steps: list[str], steps_kept: int) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        edge = Edge(Path(folder), steps_kept)
        edge.follow(Entry("member", EntryKind.MEMBER, "own", 0.0))
        for number, step in enumerate(steps):
            waiting = edge.replica.unpublished(1)
            if step == "own":
                edge.invalidate()
            elif step == "publish" and waiting:
                edge.follow(waiting[0])
            elif step == "invalidation":
                edge.follow(entry(number, EntryKind.INVALIDATION))
            elif step == "written":
                edge.follow(entry(number, EntryKind.WRITTEN))
            elif step == "read":
                edge.positions.refresh()
        edge.positions.refresh()
        order = [one.id for one in edge.placed]
        waiting_ids = {one.id for one in edge.replica.unpublished(-1)}
        for epoch in range(edge.head() + 2):
            as_of = edge.positions.as_of(epoch)
            up_to = order[: max(0, as_of - FIRST)]
            assert all(edge.epochs.get(id_, 0) <= epoch for id_ in up_to)
        for count in range(len(order) + 1):
            local = edge.positions.local_epoch(FIRST + count)
            rows = {id_ for id_, epoch in edge.epochs.items() if epoch <= local}
            assert rows <= set(order[:count])
            assert not rows & waiting_ids
        if steps_kept > len(steps):
            # And no older than needed: a request sent now is newer than all entries.
            assert edge.positions.as_of(edge.head()) == FIRST + len(order)
            if not waiting_ids:
                assert edge.positions.local_epoch(FIRST + len(order)) == edge.head()
        edge.database.close()


@pytest.fixture
def edge(tmp_path: Path) -> Edge:
    return Edge(tmp_path, 1000)


def test_rows_from_before_the_fleet_are_older_than_no_answer_until_an_own_entry_follows(
    tmp_path: Path,
) -> None:
    database = ControlDatabase(tmp_path)
    ControlLog(database).invalidate("E", ["/a"])
    replica = Replica(database, "own", lambda *_keys: None)
    replica.join(EMPTY, FIRST, "line", is_first=True)
    positions = FleetPositions(partial(read_placements, database))
    positions.refresh()
    assert (positions.position, positions.local_epoch(FIRST)) == (FIRST, 0)
    replica.apply([PlacedEntry(FIRST + 1, "other", entry(1, EntryKind.WRITTEN))])
    own = Entry("own", EntryKind.MEMBER, "own", 0.0)
    replica.apply([PlacedEntry(FIRST + 2, "own", own)])
    positions.refresh()
    assert positions.local_epoch(FIRST + 1) == 0
    assert positions.local_epoch(FIRST + 2) == 1


def test_lost_history_is_read_again(edge: Edge) -> None:
    edge.follow(Entry("member", EntryKind.MEMBER, "own", 0.0))
    edge.follow(entry(1, EntryKind.INVALIDATION), entry(2, EntryKind.INVALIDATION))
    edge.positions.refresh()
    assert edge.positions.as_of(edge.head()) == FIRST + 3
    edge.replica.rewind(FIRST + 2, "id-1", 1)
    line = Entry("line-2", EntryKind.LINE, "other", 0.0)
    edge.replica.apply([PlacedEntry(position_at(2, 0), "line-2", line)])
    edge.positions.refresh()
    # The row of the lost entry waits to be published again.
    assert edge.positions.local_epoch(position_at(2, 0)) == 1
    lost = entry(2, EntryKind.INVALIDATION)
    edge.replica.apply([PlacedEntry(position_at(2, 1), lost.id, lost)])
    edge.positions.refresh()
    assert edge.positions.local_epoch(position_at(2, 0)) == 1
    assert edge.positions.local_epoch(position_at(2, 1)) == 2
    assert edge.positions.as_of(2) == position_at(2, 1)


def test_answer_in_a_line_that_has_not_come_here_is_newer_than_no_row(edge: Edge) -> None:
    """The entries of the rows may be those that the engine had lost when the line began."""
    edge.follow(Entry("member", EntryKind.MEMBER, "own", 0.0), entry(1, EntryKind.INVALIDATION))
    edge.positions.refresh()
    assert edge.positions.local_epoch(FIRST + 2) == edge.head() > 0
    assert edge.positions.local_epoch(position_at(2, 7)) == 0


def test_index_translates_positions_of_its_own_log(edge: Edge) -> None:
    edge.follow(Entry("member", EntryKind.MEMBER, "own", 0.0), entry(1, EntryKind.INVALIDATION))
    log = open_log(os.devnull, "test")
    index = InvalidationIndex(edge.control_log, log, fleet=edge.positions)
    assert index.fleet_position == START
    assert index.refresh(edge.replica.local_position())
    assert index.fleet_position == FIRST + 2
    head = edge.replica.local_position()
    assert index.as_of(head) == FIRST + 2
    assert index.as_of(head - 1) == FIRST + 1
    assert index.as_of(UNKNOWN_POSITION) == START
    assert index.local_position(FIRST + 2) == head
    assert index.local_position(FIRST + 1) == head - 1


def test_index_of_a_fleet_of_one_translates_nothing(tmp_path: Path) -> None:
    control_log = ControlLog(ControlDatabase(tmp_path))
    control_log.invalidate("E", ["/a"])
    index = InvalidationIndex(control_log, open_log(os.devnull, "test"))
    assert index.refresh(control_log.position())
    assert index.fleet_position == index.as_of(control_log.position()) == START
    assert index.local_position(FIRST) == UNKNOWN_POSITION
