"""Queued writes of all edges of a fleet, in the control database: the table ``fleet_pending``.

One row for each object and holder. The follower changes the rows as PENDING entries say, and each
change has a number, so that a worker reads only what has changed. The rows of this edge are here,
too: they have the place of its writes among those of others.

Rows of other edges are limited to ROWS_MAX; beyond, the oldest are dropped, and their objects are
read from the origin. The functions run inside a transaction of the control database.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from streamedge import sqlite
from streamedge.fleet.entries import Entry
from streamedge.fleet.pending import HeldWrite, PendingState, held_write_of, state_of
from streamedge.sqlite import insert

ROWS_MAX = 10_000
CHANGES_MAX = 10_000  # a reader that missed more reads all rows
SIGNAL_KEY = "pending writes of the fleet"
"""The key of the change counter that moves after each change of the rows."""
EVERY_KEY = ""
"""In the changes: all rows may have changed."""
_CHANGES = "fleet_pending_changes"
_COLUMNS = "holder, since, is_overtaken, body"


@dataclass(frozen=True, slots=True)
class OwnWrite:
    """What the fleet knows of an edge's newest queued write of an object.

    ``is_outdated``: another edge may not know it; it is to be published again.
    """

    serial: int
    since: int
    is_outdated: bool


def apply_pending(
    connection: sqlite3.Connection, entry: Entry, position: int, edge: str
) -> str | None:
    """Applies a PENDING entry on the edge ``edge``; returns the key whose readers it concerns."""
    state, key = state_of(entry.body), entry.body.get("key")
    if state is PendingState.REQUESTED:
        if entry.edge != edge:
            mark_outdated(connection, edge)
        return None
    if state is PendingState.QUEUED:
        write = held_write_of(entry.body, entry.edge, position)
        if write is None:
            return None
        _put(connection, write)
        _drop_oldest(connection, edge)
    elif state is PendingState.OVERTAKES:
        connection.execute(
            "UPDATE fleet_pending SET is_overtaken = 1 WHERE key = ? AND since < (SELECT since"
            " FROM fleet_pending own WHERE own.key = ? AND own.holder = ?)",
            (key, key, entry.edge),
        )
    else:
        connection.execute(
            "DELETE FROM fleet_pending WHERE key = ? AND holder = ? AND serial <= ?",
            (key, entry.edge, entry.body.get("serial")),
        )
    _note_change(connection, str(key))
    return str(key)


def mark_outdated(connection: sqlite3.Connection, edge: str) -> None:
    """Another edge may not have read the entries of this edge's queued writes: they are to be
    published again.
    """
    connection.execute("UPDATE fleet_pending SET is_outdated = 1 WHERE holder = ?", (edge,))
    _note_change(connection, EVERY_KEY)


def count_held(connection: sqlite3.Connection) -> dict[str, int]:
    """How many objects each edge holds queued writes of."""
    query = "SELECT holder, amount FROM fleet_pending_counts WHERE amount > 0"
    return {str(holder): int(count) for holder, count in connection.execute(query)}


def forget_holder(connection: sqlite3.Connection, holder: str) -> list[str]:
    """Removes the rows of an edge that has left the fleet; returns their keys."""
    query = "SELECT key FROM fleet_pending WHERE holder = ?"
    keys = [str(key) for (key,) in connection.execute(query, (holder,))]
    connection.execute("DELETE FROM fleet_pending WHERE holder = ?", (holder,))
    for key in keys:
        _note_change(connection, key)
    return keys


def forget_all(connection: sqlite3.Connection) -> None:
    """Removes all rows: this edge begins to follow a log whose earlier entries it has not read."""
    connection.execute("DELETE FROM fleet_pending")
    _note_change(connection, EVERY_KEY)


def writes_of(connection: sqlite3.Connection, key: str) -> tuple[HeldWrite, ...]:
    """The queued writes of an object, the newest first."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM fleet_pending WHERE key = ? ORDER BY since DESC",  # noqa: S608
        (key,),
    )
    return tuple(_writes(rows))


def all_writes(connection: sqlite3.Connection) -> dict[str, tuple[HeldWrite, ...]]:
    """All queued writes by key, the newest first."""
    rows = connection.execute(f"SELECT {_COLUMNS} FROM fleet_pending ORDER BY key, since DESC")  # noqa: S608
    result: dict[str, list[HeldWrite]] = {}
    for write in _writes(rows):
        result.setdefault(write.key, []).append(write)
    return {key: tuple(writes) for key, writes in result.items()}


def serials_of(
    connection: sqlite3.Connection, edge: str, keys: Iterable[str]
) -> dict[str, OwnWrite]:
    """What the fleet knows of an edge's writes of these objects."""
    query = "SELECT serial, since, is_outdated FROM fleet_pending WHERE key = ? AND holder = ?"
    rows = ((key, connection.execute(query, (key, edge)).fetchone()) for key in keys)
    return {key: OwnWrite(row[0], row[1], bool(row[2])) for key, row in rows if row is not None}


def keys_held_by(connection: sqlite3.Connection, edge: str, after: str, count: int) -> list[str]:
    """The first keys of an edge's writes, in order, behind ``after``."""
    # The "+" makes SQLite use the index that has this order.
    query = "SELECT key FROM fleet_pending WHERE key > ? AND +holder = ? ORDER BY key LIMIT ?"
    return [str(key) for (key,) in connection.execute(query, (after, edge, count))]


def changes_after(connection: sqlite3.Connection, number: int) -> tuple[int, list[str] | None]:
    """The last change's number, and the keys changed after ``number``; None: all may be."""
    last, keys = sqlite.changes_after(connection, _CHANGES, "key", number)
    return last, None if keys is None or EVERY_KEY in keys else keys


def last_change(connection: sqlite3.Connection) -> int:
    """The number of the last change; 0 without one."""
    return sqlite.last_change(connection, _CHANGES)


def _writes(rows: Iterable[tuple[str, int, int, str]]) -> Iterator[HeldWrite]:
    for holder, since, is_overtaken, text in rows:
        write = held_write_of(json.loads(text), holder, since)
        if write is not None:
            yield replace(write, since=since, is_overtaken=bool(is_overtaken))


def _put(connection: sqlite3.Connection, write: HeldWrite) -> None:
    connection.execute(
        "INSERT INTO fleet_pending (key, holder, serial, since, body) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (key, holder) DO UPDATE SET serial = excluded.serial, is_outdated = 0,"
        " is_overtaken = CASE WHEN serial = excluded.serial THEN is_overtaken ELSE 0 END,"
        " since = CASE WHEN serial = excluded.serial THEN MIN(since, excluded.since)"
        " ELSE excluded.since END, body = excluded.body WHERE excluded.serial >= serial",
        (write.key, write.holder, write.serial, write.since, json.dumps(write.body())),
    )


def _drop_oldest(connection: sqlite3.Connection, edge: str) -> None:
    counts = count_held(connection)
    counts.pop(edge, None)
    excess = sum(counts.values()) - ROWS_MAX
    if excess <= 0:
        return
    oldest = [
        row
        for holder in counts
        for row in connection.execute(
            "SELECT since, key, holder FROM fleet_pending WHERE holder = ? ORDER BY since LIMIT ?",
            (holder, excess),
        )
    ]
    for _since, key, holder in sorted(oldest)[:excess]:
        query = "DELETE FROM fleet_pending WHERE key = ? AND holder = ?"
        connection.execute(query, (key, holder))
        _note_change(connection, str(key))


def _note_change(connection: sqlite3.Connection, key: str) -> None:
    number = insert(connection, "INSERT INTO fleet_pending_changes (key) VALUES (?)", (key,))
    query = "DELETE FROM fleet_pending_changes WHERE number <= ?"
    connection.execute(query, (number - CHANGES_MAX,))
