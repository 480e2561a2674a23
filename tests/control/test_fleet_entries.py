"""Which entries of a fleet's shared log are kept, and which of them wait."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from streamedge.control import fleet_entries
from streamedge.control.database import ControlDatabase
from streamedge.control.fleet_entries import prune_entries
from streamedge.fleet.entries import Entry, EntryKind, new_entry_id


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(ControlDatabase(tmp_path)) as database, database.transaction() as connection:
        yield connection


def add(connection: sqlite3.Connection, number: int, *, is_placed: bool = True) -> None:
    """Adds an entry with a row; all have texts of the same length."""
    fleet_entries.add_entry(
        connection,
        Entry(new_entry_id(), EntryKind.INVALIDATION, "one", 1.0),
        epoch=100 + number,
        has_row=True,
        applied_s=1.0,
        position=number if is_placed else None,
    )


def remaining(connection: sqlite3.Connection) -> list[int]:
    return [epoch - 100 for (epoch,) in connection.execute("SELECT epoch FROM fleet_entries")]


def entry_bytes(connection: sqlite3.Connection) -> int:
    query = "SELECT bytes_to_here FROM fleet_entries ORDER BY number LIMIT 1"
    return int(connection.execute(query).fetchone()[0])


def test_oldest_entries_are_deleted_by_their_number(connection: sqlite3.Connection) -> None:
    assert prune_entries(connection) is None
    for number in range(1, 8):
        add(connection, number, is_placed=number != 2)
    assert prune_entries(connection, entries_kept=3, at_once=4) is None
    assert prune_entries(connection, entries_kept=3, at_once=3) == (4, 104)
    assert sorted(remaining(connection)) == [2, 5, 6, 7]  # the second one waits


def test_oldest_entries_are_deleted_by_their_bytes(connection: sqlite3.Connection) -> None:
    for number in range(1, 8):
        add(connection, number)
    size = entry_bytes(connection)
    assert prune_entries(connection, text_bytes_kept=6 * size) is None
    assert prune_entries(connection, text_bytes_kept=2 * size) == (5, 105)
    assert remaining(connection) == [6, 7]
    assert prune_entries(connection, text_bytes_kept=0) == (6, 106)
    assert remaining(connection) == [7]  # the newest one stays


def test_first_epoch_that_waits_is_that_of_the_oldest_row(connection: sqlite3.Connection) -> None:
    assert fleet_entries.first_waiting_epoch(connection) is None
    for number in range(1, 5):
        add(connection, number, is_placed=number < 3)
    assert fleet_entries.first_waiting_epoch(connection) == 102
    fleet_entries.unplace_after(connection, 0, republished=[])
    assert fleet_entries.count_unpublished(connection) == 2  # the others were given up
    assert fleet_entries.first_waiting_epoch(connection) == 102
