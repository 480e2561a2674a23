"""What a fleet does not know of a queue is found by the changes, and by comparing all in parts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from streamedge.control.database import ControlDatabase
from streamedge.control.replica import Documents, Replica
from streamedge.fleet.entries import Entry, EntryKind, PlacedEntry, new_entry_id
from streamedge.fleet.pending import PendingState, end_body
from streamedge.fleet.position import START, position_at
from streamedge.write_back import fleet_differences
from streamedge.write_back import rows as rows_module
from streamedge.write_back.fleet_differences import FleetDifferences, queued_body
from streamedge.write_back.rows import Row, Rows, WriteQueueError, prepare_rows
from streamedge.write_back.states import State
from tests.write_back.test_rows import LIMIT_BYTES, row

KEYS = "abcde"


class RecordingRows(Rows):
    """Records the objects that are compared."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.compared: list[str] = []

    def newest_of(self, asset_keys: Iterable[str]) -> dict[str, Row]:
        keys = list(asset_keys)
        self.compared += keys
        return super().newest_of(keys)


class Edge:
    """The edge "one" of a fleet, with its queue."""

    def __init__(self, rows: RecordingRows, database: ControlDatabase) -> None:
        self.rows = rows
        self.replica = Replica(database, "one", lambda *_keys: None)
        self.replica.join(Documents({}, START, {}), position_at(1, 0), "line", is_first=True)
        self.sequence = 0
        self.now_s = 10.0
        self.database = database
        self.differences = self.start()

    def start(self) -> FleetDifferences:
        self.differences = FleetDifferences("one", self.database, self.rows, lambda: self.now_s)
        return self.differences

    def follow(self, edge: str, *bodies: dict[str, Any]) -> None:
        for body in bodies:
            self.sequence += 1
            entry = Entry(new_entry_id(), EntryKind.PENDING, edge, 1.0, "", body)
            self.replica.apply([PlacedEntry(position_at(1, self.sequence), entry.id, entry)])

    def queue(self, *keys: str) -> list[Row]:
        return [self.rows.insert(row(key), LIMIT_BYTES) for key in keys]

    def finish(self, key: str, *, held_until_s: float = 0.0) -> Row:
        due = self.rows.take_due(1e6, 100)
        (sent,) = (one for one in due if one.asset_key == key)
        for other in due:
            if other is not sent:
                self.rows.put_back(other, 0.0)
        self.rows.finish_attempt(sent, State.DONE, etag='"1"', held_until_s=held_until_s)
        return sent

    def compare(self) -> tuple[str, str]:
        """Publishes the differences: the keys of QUEUED entries, and those of ends."""
        bodies = self.differences.bodies()
        self.follow("one", *bodies)
        queued = [body["key"] for body in bodies if body["state"] == PendingState.QUEUED.value]
        ended = [body["key"] for body in bodies if body["state"] != PendingState.QUEUED.value]
        return "".join(sorted(queued)), "".join(sorted(ended))

    def compared(self) -> str:
        keys, self.rows.compared = self.rows.compared, []
        return "".join(sorted(keys))


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Edge]:
    path = tmp_path / "journal.sqlite"
    prepare_rows(path)
    with closing(RecordingRows(path)) as rows, closing(ControlDatabase(tmp_path)) as database:
        yield Edge(rows, database)


def settle(edge: Edge) -> None:
    while edge.compare() != ("", ""):
        pass
    edge.compared()


def test_only_what_has_changed_is_compared_again(edge: Edge) -> None:
    edge.queue(*KEYS)
    assert edge.compare() == (KEYS, "")
    settle(edge)
    assert (edge.compare(), edge.compared()) == (("", ""), "")
    edge.finish("b")
    edge.queue("a", "f")
    assert (edge.compare(), edge.compared()) == (("af", "b"), "abf")
    settle(edge)
    edge.follow("one", end_body("c", 9, PendingState.FAILED))  # it waits here all the same
    assert (edge.compare(), edge.compared()) == (("c", ""), "c")


def test_all_objects_are_compared_in_parts_at_the_start(edge: Edge) -> None:
    edge.follow("one", *(queued_body(one, "one") for one in edge.queue(*KEYS)))
    edge.finish("a")
    edge.finish("d")
    with (
        patch.object(rows_module, "CHANGES_MAX", 0),
        patch.object(fleet_differences, "COMPARED_AT_ONCE", 2),
    ):
        edge.finish("e")  # so that the changes of the others are gone
        edge.queue("f")
        edge.start()
        results = [edge.compare() for _ in range(5)]
    assert results[0][1] == "a"
    assert "".join(ended for _queued, ended in results) == "ade"
    assert "".join(queued for queued, _ended in results) == "f"


@pytest.mark.parametrize("is_queue", [True, False])
def test_changes_that_are_not_kept_any_more_make_all_be_compared(
    edge: Edge, monkeypatch: pytest.MonkeyPatch, is_queue: bool
) -> None:
    edge.queue(*KEYS)
    settle(edge)
    if is_queue:
        monkeypatch.setattr(rows_module, "CHANGES_MAX", 1)
        edge.finish("a")
        edge.queue("g", "h")
        assert edge.compare() == ("gh", "a")
    else:
        edge.follow("two", {"state": PendingState.REQUESTED.value})
        assert edge.compare() == (KEYS, "")
    assert set(edge.compared()) >= set(KEYS)
    assert edge.compare() == ("", "")


def test_all_objects_are_compared_after_a_failure(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_self: Rows, _keys: Iterable[str]) -> dict[str, Row]:
        raise WriteQueueError("disk I/O error")

    monkeypatch.setattr(rows_module, "CHANGES_MAX", 0)
    edge.queue(*KEYS)
    with monkeypatch.context() as patched:
        patched.setattr(Rows, "newest_of", fail)
        with pytest.raises(WriteQueueError):
            edge.compare()
    assert edge.compare() == (KEYS, "")


def test_end_is_published_when_nothing_of_the_write_may_arrive_any_more(edge: Edge) -> None:
    edge.queue("a")
    settle(edge)
    edge.finish("a", held_until_s=20.0)
    assert edge.compare() == ("", "")
    assert edge.compare() == ("", "")
    edge.now_s = 21.0
    assert edge.compare() == ("", "a")


def test_some_entries_are_published_at_once_and_the_others_later(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_differences, "PUBLISHED_AT_ONCE", 2)
    edge.queue(*KEYS)
    results = [edge.compare()[0] for _ in range(4)]
    assert [len(keys) for keys in results] == [2, 2, 1, 0]
    assert "".join(sorted("".join(results))) == KEYS
