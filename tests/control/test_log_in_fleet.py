"""The control log of an edge in a fleet: rows that are entries of the shared log."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from streamedge.control.database import ControlDatabase
from streamedge.control.log import CallerReferenceError, ControlLog, RowKind
from streamedge.control.replica import Documents, Replica
from streamedge.control.resources import Kind, ResourceStore, encode_resource
from streamedge.fleet.entries import Entry, EntryKind, PlacedEntry
from streamedge.fleet.position import START, position_at
from tests.support.fleet.replica_edge import resource

FIRST = position_at(1, 0)


class Edge:
    def __init__(self, folder: Path, name: str, items_kept: int = 100) -> None:
        folder.mkdir()
        self.database = ControlDatabase(folder)
        self.log = ControlLog(self.database, edge=name, items_kept=items_kept)
        self.written: list[str] = []
        self.replica = Replica(
            self.database, name, lambda *keys: self.written.extend(keys), items_kept=items_kept
        )
        self.replica.join(Documents({}, START, {}), FIRST, "line", is_first=True)

    def waiting(self) -> list[Entry]:
        return self.replica.unpublished(100)

    def follow(self, *entries: Entry, after: int = FIRST) -> None:
        placed = [PlacedEntry(after + 1 + n, one.id, one) for n, one in enumerate(entries)]
        self.replica.apply(placed)


@pytest.fixture
def edges(tmp_path: Path) -> Iterator[list[Edge]]:
    both = [Edge(tmp_path / name, name) for name in ("one", "two")]
    yield both
    for edge in both:
        edge.database.close()


def test_own_invalidation_is_a_row_at_once_and_an_entry_that_waits(edges: list[Edge]) -> None:
    one, two = edges
    row = one.log.invalidate("E", ["/a", "#tag"], soft=True, revoke=True)
    (entry,) = one.waiting()
    assert (entry.kind, entry.edge, entry.scope) == (EntryKind.INVALIDATION, "one", "E")
    two.follow(entry)
    (copy,) = two.log.read_after(0).rows
    assert (copy.id, copy.created_s, copy.scope) == (row.id, row.created_s, "E")
    copied, own = copy.invalidation, row.invalidation
    assert (copied.items, copied.soft, copied.revoke) == (own.items, own.soft, own.revoke)
    one.follow(entry)
    assert one.waiting() == []
    assert len(one.log.read_after(0).rows) == 1
    assert one.replica.place_of(entry.id) is not None


def test_fleet_of_one_keeps_no_entries(tmp_path: Path) -> None:
    database = ControlDatabase(tmp_path)
    ControlLog(database).invalidate("E", ["/a"])
    assert Replica(database, "", lambda *_keys: None).unpublished(10) == []
    database.close()


def test_equal_invalidations_with_one_caller_reference_are_one_on_all_edges(
    edges: list[Edge],
) -> None:
    one, two = edges
    rows = [edge.log.invalidate("E", ["/a"], caller_reference="r") for edge in edges]
    assert rows[0].id == rows[1].id
    assert [entry.id for entry in one.waiting()] == [entry.id for entry in two.waiting()]
    two.follow(*one.waiting())
    assert two.waiting() == []
    assert one.log.invalidate("E", ["/a"], caller_reference="r").id == rows[0].id
    assert len(one.waiting()) == 1


def test_caller_reference_of_another_edge_is_refused_for_other_items(edges: list[Edge]) -> None:
    one, two = edges
    one.log.invalidate("E", ["/a"], caller_reference="r")
    two.follow(*one.waiting())
    with pytest.raises(CallerReferenceError):
        two.log.invalidate("E", ["/b"], caller_reference="r")
    assert two.waiting() == []


def test_caller_reference_used_twice_at_the_same_time_loses_no_invalidation(
    edges: list[Edge],
) -> None:
    one, two = edges
    one.log.invalidate("E", ["/a"], caller_reference="r")
    two.log.invalidate("E", ["/b"], caller_reference="r")
    both = one.waiting() + two.waiting()
    for edge in edges:
        edge.follow(*both)
        items = [row.invalidation.items for row in edge.log.read_after(0).rows]
        assert sorted(items) == [("/a",), ("/b",)]


def test_compaction_drops_no_entry_that_waits(tmp_path: Path) -> None:
    edge = Edge(tmp_path / "one", "one", items_kept=2)
    for number in range(5):
        edge.log.invalidate("E", [f"/{number}"])
    assert len(edge.log.read_after(0).rows) == 3  # one of them compacted
    assert len(edge.waiting()) == 5
    edge.database.close()


def test_body_of_another_version_is_an_invalidation_of_its_distribution(
    edges: list[Edge],
) -> None:
    one, _two = edges
    one.follow(Entry("odd", EntryKind.INVALIDATION, "two", 1.0, "E", {"items": 5}))
    (row,) = one.log.read_after(0).rows
    assert (row.kind, row.scope) == (RowKind.UNREADABLE, "E")


def test_written_keys_of_other_edges_are_reported(edges: list[Edge]) -> None:
    one, _two = edges
    own = Entry("own", EntryKind.WRITTEN, "one", 1.0, "", {"keys": ["mine"]})
    other = Entry("other", EntryKind.WRITTEN, "two", 1.0, "", {"keys": ["a", "b"]})
    one.replica.add_own(own)
    one.follow(own, other)
    assert one.written == ["a", "b"]


def test_later_resource_takes_the_name_of_an_earlier_one(edges: list[Edge]) -> None:
    one, _two = edges

    def change(identifier: str) -> Entry:
        after = encode_resource(resource(identifier, "E1", name="name"))
        key = f"{Kind.PUBLIC_KEY.value}/{identifier}"
        body = {"resources": {key: {"before": None, "after": after}}}
        return Entry(identifier, EntryKind.RESOURCES, "two", 1.0, "", body)

    one.follow(change("a"), change("b"))
    assert [each.id for each in ResourceStore(one.database).resources()] == ["b"]
