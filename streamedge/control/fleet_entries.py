"""The entries of a fleet's shared log that this edge has applied: the table ``fleet_entries``.

An entry without a position waits to be published (the *outbox*), in the order of ``number``. When
the follower reads it in the shared log, it gets its position. Each entry is applied once, however
often it is read, because its id is unique here.

``epoch`` is the newest row of the control log when the entry was applied, and ``has_row`` is 1 if
that is the entry's own row. ``made_position``: how far the shared log was applied then. The two
orders, of rows here and of entries in the shared log, are translated by them (see
``fleet_positions``).

The newest ENTRIES_KEPT entries are kept, or fewer if they are long; those that wait are always
kept. The functions run inside a transaction of the control database.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from streamedge.fleet.entries import Entry, EntryKind, decode_entry, encode_entry
from streamedge.sqlite import insert

ENTRIES_KEPT = 100_000
TEXT_BYTES_KEPT = 64 << 20
_PRUNED_AT_ONCE = 1000  # at least, so that most transactions prune none
# Without its name SQLite uses the index of positions, where entries that were given up are, too.
_WAITING = (
    "fleet_entries INDEXED BY fleet_entries_unpublished WHERE position IS NULL AND is_given_up = 0"
)


@dataclass(frozen=True, slots=True)
class EntryPlace:
    """Where an entry is. ``position`` None: not in the shared log, as far as this edge knows."""

    id: str
    kind: str
    position: int | None
    epoch: int
    has_row: int
    applied_s: float
    made_position: int


def add_entry(
    connection: sqlite3.Connection,
    entry: Entry,
    *,
    epoch: int,
    has_row: bool,
    applied_s: float,
    position: int | None = None,
) -> None:
    """Notes that an entry is applied; without a position it waits to be published."""
    text = encode_entry(entry)
    (last_bytes,) = connection.execute(
        "SELECT IFNULL((SELECT bytes_to_here FROM fleet_entries ORDER BY number DESC LIMIT 1), 0)"
    ).fetchone()
    insert(
        connection,
        "INSERT INTO fleet_entries (id, kind, position, is_given_up, epoch, has_row, applied_s,"
        " made_position, entry, bytes_to_here) VALUES (?, ?, ?, 0, ?, ?, ?,"
        " IFNULL((SELECT position FROM fleet_state), 0), ?, ?)",
        (
            entry.id,
            entry.kind.value,
            position,
            epoch,
            has_row,
            applied_s,
            text,
            last_bytes + len(text),
        ),
    )


def find_place(connection: sqlite3.Connection, entry_id: str) -> EntryPlace | None:
    """Where an entry is; None for an unknown id."""
    row = connection.execute(
        "SELECT id, kind, position, epoch, has_row, applied_s, made_position FROM fleet_entries"
        " WHERE id = ?",
        (entry_id,),
    ).fetchone()
    return None if row is None else EntryPlace(*row)


def place_of_row(connection: sqlite3.Connection, epoch: int) -> EntryPlace | None:
    """Where the entry of a row of the control log is.

    None: the row has none, was made long ago, or counts as applied everywhere.
    """
    row = connection.execute(
        "SELECT id, kind, position, epoch, has_row, applied_s, made_position FROM fleet_entries"
        " WHERE epoch = ? AND has_row = 1 AND (position IS NOT NULL OR is_given_up = 0)",
        (epoch,),
    ).fetchone()
    return None if row is None else EntryPlace(*row)


def place_entry(connection: sqlite3.Connection, entry_id: str, position: int) -> None:
    """Notes the position of an entry that is here."""
    connection.execute(
        "UPDATE fleet_entries SET position = ?, is_given_up = 0 WHERE id = ?", (position, entry_id)
    )


def replace_waiting(connection: sqlite3.Connection, entry_id: str, new: Entry) -> None:
    """Replaces an entry that waits by another one, at the same place."""
    connection.execute(
        "UPDATE fleet_entries SET id = ?, entry = ? WHERE id = ? AND position IS NULL",
        (new.id, encode_entry(new), entry_id),
    )


def unpublished(
    connection: sqlite3.Connection, count: int, kind: EntryKind | None = None
) -> list[Entry]:
    """Up to ``count`` entries that wait to be published, in local order; -1: all of them."""
    waiting, values = _waiting(kind)
    rows = connection.execute(
        f"SELECT entry FROM {waiting} ORDER BY number LIMIT ?",  # noqa: S608
        (*values, count),
    )
    entries = (decode_entry(text) for (text,) in rows)
    return [entry for entry in entries if entry is not None]


def count_unpublished(connection: sqlite3.Connection, kind: EntryKind | None = None) -> int:
    """How many entries wait to be published, of one kind or of all."""
    waiting, values = _waiting(kind)
    query = f"SELECT COUNT(*) FROM {waiting}"  # noqa: S608
    return int(connection.execute(query, values).fetchone()[0])


def _waiting(kind: EntryKind | None) -> tuple[str, tuple[str, ...]]:
    return (_WAITING, ()) if kind is None else (f"{_WAITING} AND kind = ?", (kind.value,))


def newest_placed(connection: sqlite3.Connection, up_to: int, count: int) -> list[tuple[int, str]]:
    """Positions and ids of entries up to a position, the newest first."""
    return connection.execute(
        "SELECT position, id FROM fleet_entries WHERE position <= ? ORDER BY position DESC LIMIT ?",
        (up_to, count),
    ).fetchall()


def unplace_after(
    connection: sqlite3.Connection, position: int, *, republished: Sequence[str]
) -> None:
    """Removes the positions after ``position``: the shared log has lost these entries.

    Those with an id in ``republished`` are published again, the others count as applied by all.
    """
    connection.execute(
        "UPDATE fleet_entries SET position = NULL, is_given_up = 1 WHERE position > ?", (position,)
    )
    connection.executemany(
        "UPDATE fleet_entries SET is_given_up = 0 WHERE id = ?", [(one,) for one in republished]
    )


def unplace_invalidations_of(connection: sqlite3.Connection, edge: str, since_s: float) -> None:
    """Lets an edge's invalidations that were applied here since then be published again.

    An entry that the shared log still has keeps its position there.
    """
    rows = connection.execute(
        "SELECT id, entry FROM fleet_entries WHERE kind = ? AND applied_s >= ?"
        " AND position IS NOT NULL",
        (EntryKind.INVALIDATION.value, since_s),
    )
    entries = ((id_, decode_entry(text)) for id_, text in rows)
    own = [(id_,) for id_, entry in entries if entry is not None and entry.edge == edge]
    connection.executemany(
        "UPDATE fleet_entries SET position = NULL, is_given_up = 0 WHERE id = ?", own
    )


def placed_after(connection: sqlite3.Connection, position: int) -> list[EntryPlace]:
    """The entries after a position, in the order of the shared log."""
    rows = connection.execute(
        "SELECT id, kind, position, epoch, has_row, applied_s, made_position FROM fleet_entries"
        " WHERE position > ? ORDER BY position",
        (position,),
    )
    return [EntryPlace(*row) for row in rows]


def first_waiting_epoch(connection: sqlite3.Connection) -> int | None:
    """The epoch before the oldest row that waits to be published; None if none waits."""
    # Later entries have later epochs.
    row = connection.execute(
        f"SELECT epoch FROM {_WAITING} AND has_row = 1 ORDER BY number LIMIT 1"  # noqa: S608
    ).fetchone()
    return None if row is None else int(row[0]) - 1


def prune_entries(
    connection: sqlite3.Connection,
    *,
    entries_kept: int = ENTRIES_KEPT,
    text_bytes_kept: int = TEXT_BYTES_KEPT,
    at_once: int = _PRUNED_AT_ONCE,
) -> tuple[int, int] | None:
    """Deletes old entries that are in the shared log, once there are ``at_once`` too many.

    Returns the highest position and the highest epoch of those deleted, or None.
    """
    ends = [  # MIN and MAX in one query would read all entries
        connection.execute(
            f"SELECT number, bytes_to_here FROM fleet_entries ORDER BY number {order} LIMIT 1"  # noqa: S608
        ).fetchone()
        for order in ("ASC", "DESC")
    ]
    if None in ends:
        return None
    (first, first_bytes), (last, last_bytes) = ends
    is_long = last_bytes - first_bytes > text_bytes_kept
    if last - first < entries_kept + at_once and not is_long:
        return None
    # Reads those that are deleted for their bytes, and one more.
    first_kept = connection.execute(
        "SELECT number FROM fleet_entries WHERE number > ? AND bytes_to_here > ?"
        " ORDER BY number LIMIT 1",
        (last - entries_kept, last_bytes - text_bytes_kept),
    ).fetchone()
    where = "number < ? AND (position IS NOT NULL OR is_given_up = 1)"
    values = (last,) if first_kept is None else first_kept
    position, epoch = connection.execute(
        f"SELECT MAX(position), MAX(epoch) FROM fleet_entries WHERE {where}",  # noqa: S608
        values,
    ).fetchone()
    connection.execute(f"DELETE FROM fleet_entries WHERE {where}", values)  # noqa: S608
    return None if position is None else (position, epoch)
