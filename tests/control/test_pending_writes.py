"""Queued writes of a fleet's edges in the control database."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from streamedge.control import pending_writes
from streamedge.control.database import ControlDatabase
from streamedge.control.pending_writes import (
    OwnWrite,
    apply_pending,
    changes_after,
    writes_of,
)
from streamedge.fleet.entries import Entry, EntryKind, new_entry_id
from streamedge.fleet.pending import HeldWrite, PendingState, end_body


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    database = ControlDatabase(tmp_path)
    with database.transaction() as connection:
        yield connection
    database.close()


def entry(edge: str, body: dict[str, Any]) -> Entry:
    return Entry(new_entry_id(), EntryKind.PENDING, edge, 1.0, "", body)


def put(
    connection: sqlite3.Connection,
    edge: str,
    serial: int,
    position: int,
    key: str = "key",
    since: int = 0,
) -> None:
    write = HeldWrite(key, edge, serial, "main", key, False, '"e"', 3, 1.5, (), since)
    apply_pending(connection, entry(edge, write.body()), position, "one")


def end(
    connection: sqlite3.Connection, edge: str, serial: int, state: PendingState, key: str = "key"
) -> None:
    apply_pending(connection, entry(edge, end_body(key, serial, state)), 99, "one")


def holders(connection: sqlite3.Connection) -> list[tuple[str, int, bool]]:
    writes = writes_of(connection, "key")
    return [(write.holder, write.serial, write.is_overtaken) for write in writes]


def test_newest_write_in_the_shared_log_is_first(connection: sqlite3.Connection) -> None:
    put(connection, "one", 1, 10)
    put(connection, "two", 1, 20)
    assert holders(connection) == [("two", 1, False), ("one", 1, False)]
    put(connection, "one", 2, 30)
    assert holders(connection) == [("one", 2, False), ("two", 1, False)]


def test_end_of_an_older_write_leaves_the_newer_one(connection: sqlite3.Connection) -> None:
    put(connection, "one", 1, 10)
    put(connection, "one", 2, 20)
    end(connection, "one", 1, PendingState.SENT)
    assert holders(connection) == [("one", 2, False)]
    end(connection, "one", 2, PendingState.FAILED)
    assert holders(connection) == []


def test_write_that_is_published_again_keeps_its_place(connection: sqlite3.Connection) -> None:
    put(connection, "one", 1, 10)
    put(connection, "two", 1, 20)
    put(connection, "one", 1, 30, since=10)
    assert holders(connection) == [("two", 1, False), ("one", 1, False)]


def test_only_earlier_writes_are_overtaken(connection: sqlite3.Connection) -> None:
    for position, edge in enumerate(("one", "two", "three"), start=1):
        put(connection, edge, 1, position)
    end(connection, "two", 1, PendingState.OVERTAKES)
    assert holders(connection) == [("three", 1, False), ("two", 1, False), ("one", 1, True)]
    put(connection, "one", 1, 50, since=1)  # published again
    assert holders(connection)[-1] == ("one", 1, True)
    put(connection, "one", 2, 60)
    assert holders(connection)[0] == ("one", 2, False)


def test_edge_that_joins_makes_holders_publish_again(connection: sqlite3.Connection) -> None:
    put(connection, "one", 1, 10)
    body = {"state": PendingState.REQUESTED.value}
    apply_pending(connection, entry("one", body), 20, "one")
    assert own(connection) == {"key": OwnWrite(1, 10, is_outdated=False)}
    before, _keys = changes_after(connection, 0)
    apply_pending(connection, entry("two", body), 30, "one")
    assert own(connection) == {"key": OwnWrite(1, 10, is_outdated=True)}
    assert changes_after(connection, before) == (before + 1, None)


def own(connection: sqlite3.Connection) -> dict[str, OwnWrite]:
    return pending_writes.serials_of(connection, "one", ["key", "unknown"])


def test_keys_of_an_edge_are_read_in_parts(connection: sqlite3.Connection) -> None:
    for position, key in enumerate("badc", start=1):
        put(connection, "one", position, position, key)
        put(connection, "two", position, 10 + position, key)
    end(connection, "one", 2, PendingState.SENT, "a")
    assert pending_writes.keys_held_by(connection, "one", "", 2) == ["b", "c"]
    assert pending_writes.keys_held_by(connection, "one", "c", 2) == ["d"]


def test_rows_of_other_edges_are_limited(connection: sqlite3.Connection) -> None:
    with patch.object(pending_writes, "ROWS_MAX", 2):
        put(connection, "one", 1, 1, "own")
        for position in range(2, 6):
            put(connection, "two", position, position, f"key-{position}")
    assert set(pending_writes.all_writes(connection)) == {"own", "key-4", "key-5"}


def test_changes_name_the_keys_or_everything(connection: sqlite3.Connection) -> None:
    number, keys = changes_after(connection, 0)
    assert (number, keys) == (0, [])
    put(connection, "one", 1, 10, "a")
    put(connection, "one", 2, 20, "b")
    assert changes_after(connection, 0) == (2, ["a", "b"])
    assert changes_after(connection, 1) == (2, ["b"])
    with patch.object(pending_writes, "CHANGES_MAX", 1):
        put(connection, "one", 3, 30, "c")
    assert changes_after(connection, 1) == (3, None)
    pending_writes.forget_all(connection)
    assert changes_after(connection, 3) == (4, None)
    assert changes_after(connection, 9) == (4, None)  # of another database, which this one replaced


def test_entries_that_are_no_writes_change_nothing(connection: sqlite3.Connection) -> None:
    for body in ({}, {"state": "later"}, {"state": "queued", "key": "key"}):
        apply_pending(connection, entry("two", body), 5, "one")
    assert pending_writes.all_writes(connection) == {}
