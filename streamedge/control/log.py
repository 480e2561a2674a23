"""The control log: invalidations and config changes, as rows in one order.

The tables are ``log``, ``folded`` and ``log_id``. A row's number is its epoch. The epoch and the id
of the log are a ``position``; readers request the rows after a position. The process that appends a
row announces it afterwards.

A row that cannot be read (written by another version, or damaged on disk) does not hide later rows
and is not ignored: it counts as an invalidation of everything in its scope.

The newest rows are kept one by one, up to ITEMS_KEPT items in all. Older invalidations are
compacted to one row for each distribution, which invalidates everything in it as of the newest of
them. So a reader that was away for long never misses an invalidation, in bounded time.
Configuration rows only announce a new configuration; old ones are deleted.

In a fleet an invalidation is also an entry of the shared log (see ``fleet_entries``): one of this
edge is a row first and is published afterwards, one of another edge becomes a row when it is read.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, NamedTuple

from streamedge.control.database import ControlDatabase, ControlError
from streamedge.control.fleet_entries import add_entry, find_place
from streamedge.control.invalidations import EVERYTHING, Invalidation, ItemError, parse_item
from streamedge.control.position import epoch_of, log_of, new_log_id, position_at
from streamedge.fleet.entries import Entry, EntryKind, new_entry_id
from streamedge.keys import join_key, key_bytes
from streamedge.sqlite import insert

ITEMS_KEPT = 10_000  # invalidated items, in the log and in the index of each process
CONFIGURATIONS_KEPT = 1000  # rows; of these only the newest matters
LISTED_MAX = 1000
ITEMS_MAX = 3000  # CloudFront's limit on files in one invalidation
REFERENCE_CHARACTERS_MAX = 1024
_ID_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
_ID_CHARACTERS = 13
_COLUMNS = "epoch, kind, scope, id, caller_reference, made_s, body"
_LAST_EPOCH_QUERY = (
    "SELECT MAX(IFNULL((SELECT MAX(seq) FROM sqlite_sequence WHERE name = 'log'), 0),"
    " IFNULL((SELECT MAX(epoch) FROM log), 0))"
)


class RowKind(Enum):
    """The kind of a row."""

    INVALIDATION = "invalidation"  # its body: items, soft, revoke
    CONFIGURATION = "configuration"  # resources of the API have changed
    EVERYTHING = "everything"  # this edge may have missed invalidations of its fleet
    UNREADABLE = "unreadable"  # its content is unknown


class CallerReferenceError(ControlError):
    """The caller reference belongs to another invalidation of the same distribution."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row. ``scope`` is a distribution's id or "", ``created_s`` in seconds since 1970.

    ``id`` and ``caller_reference`` are "" unless the row is an invalidation with them. An
    UNREADABLE row with the scope "" applies to all distributions.
    """

    epoch: int
    kind: RowKind
    scope: str
    created_s: float
    body: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""
    caller_reference: str = ""

    @property
    def invalidation(self) -> Invalidation:
        """The invalidation of a row; an UNREADABLE row invalidates everything in its scope, and so
        does one of the kind EVERYTHING.

        Raises KeyError or TypeError for a body that is not an invalidation.
        """
        if self.kind in {RowKind.UNREADABLE, RowKind.EVERYTHING}:
            return Invalidation((EVERYTHING,), soft=False, revoke=False, at_s=self.created_s)
        return Invalidation(
            tuple(str(item) for item in self.body["items"]),
            soft=bool(self.body["soft"]),
            revoke=bool(self.body["revoke"]),
            at_s=float(self.body.get("applied_s", self.created_s)),
        )


class NewRows(NamedTuple):
    """Rows, oldest first, and the position up to which they have been read."""

    position: int
    rows: list[Row]


class ControlLog:
    """The log in a database. Raises ControlError.

    ``edge``: the name of this edge in a fleet, whose invalidations are published; "" in a fleet of
    one.
    """

    def __init__(
        self,
        database: ControlDatabase,
        *,
        items_kept: int = ITEMS_KEPT,
        clock: Callable[[], float] = time.time,
        edge: str = "",
    ) -> None:
        self._database = database
        self._items_kept = items_kept
        self._clock = clock
        self._edge = edge

    def append(self, kind: RowKind, scope: str, body: Mapping[str, Any]) -> int:
        """Adds a row and returns its epoch."""
        with self._database.transaction() as connection:
            return self.append_within(connection, kind, scope, body)

    def append_within(
        self, connection: sqlite3.Connection, kind: RowKind, scope: str, body: Mapping[str, Any]
    ) -> int:
        """As ``append``, within a transaction of the database that changes other tables too."""
        return self._insert(connection, Row(0, kind, scope, self._clock(), body)).epoch

    def invalidate(
        self,
        scope: str,
        items: Sequence[str],
        *,
        soft: bool = False,
        revoke: bool = False,
        caller_reference: str = "",
        announce: Callable[[int], None] = lambda _position: None,
    ) -> Row:
        """Adds an invalidation; returns the earlier row if it had the same caller reference.

        ``announce`` is called with the position of the log when other processes can read the row:
        it puts the row into effect while the disk is synced, so that nothing waits for the disk but
        the caller. The row is on disk when this returns.

        Raises ItemError for an invalid item, CallerReferenceError if the reference belongs to
        another invalidation.
        """
        for item in items:
            parse_item(item)
        body = {"items": list(items), "soft": soft, "revoke": revoke}
        with self._database.transaction(synced=False) as connection:
            row = self._invalidate(connection, scope, body, caller_reference)
            position = control_head(connection)
        try:
            announce(position)
        finally:
            self._database.sync()
        return row

    def _invalidate(
        self,
        connection: sqlite3.Connection,
        scope: str,
        body: Mapping[str, Any],
        caller_reference: str,
    ) -> Row:
        if caller_reference:
            earlier = _with_reference(connection, scope, caller_reference)
            if earlier is not None:
                if {name: earlier.body.get(name) for name in body} != body:
                    raise CallerReferenceError(
                        f"the caller reference {caller_reference!a} belongs to"
                        f" the invalidation {earlier.id}, which has other items or options"
                    )
                return earlier
        if not self._edge:
            row = Row(0, RowKind.INVALIDATION, scope, self._clock(), body, new_row_id())
            return self._insert(connection, replace(row, caller_reference=caller_reference))
        entry = self._entry(connection, scope, body, caller_reference)
        row = self._insert(connection, _row_of(entry, entry.created_s))
        add_entry(connection, entry, epoch=row.epoch, has_row=True, applied_s=entry.created_s)
        return row

    def add_from_fleet(self, connection: sqlite3.Connection, entry: Entry) -> int:
        """Adds the row of an INVALIDATION entry of the shared log; returns its epoch.

        If another invalidation has its caller reference, because two edges took them at the same
        time, both stay in effect and this row goes without it.
        """
        row = _row_of(entry, self._clock())
        if row.caller_reference and _with_reference(connection, row.scope, row.caller_reference):
            row = replace(row, caller_reference="")
        return self._insert(connection, row).epoch

    def last_epoch_within(self, connection: sqlite3.Connection) -> int:
        """The epoch of the newest row, within a transaction of the database."""
        return epoch_of(control_head(connection))

    def _entry(
        self,
        connection: sqlite3.Connection,
        scope: str,
        body: Mapping[str, Any],
        caller_reference: str,
    ) -> Entry:
        """The entry of a new invalidation of this edge.

        Equal ones with the same caller reference are the same entry on all edges.
        """
        entry_id, row_id = new_entry_id(), new_row_id()
        if caller_reference:
            digest = hashlib.sha256(
                key_bytes(join_key(scope, caller_reference, json.dumps(body, sort_keys=True)))
            ).digest()
            if find_place(connection, digest[:16].hex()) is None:
                entry_id = digest[:16].hex()
                row_id = (
                    "I"
                    + "".join(_ID_ALPHABET[byte % len(_ID_ALPHABET)] for byte in digest[16:])[
                        :_ID_CHARACTERS
                    ]
                )
        return Entry(
            entry_id,
            EntryKind.INVALIDATION,
            self._edge,
            self._clock(),
            scope,
            {**body, "id": row_id, "caller_reference": caller_reference},
        )

    def read_after(self, position: int) -> NewRows:
        """All rows after a position; all rows of the log if the position is in another log.

        Compacted rows are included in their compacted form.
        """
        with self._database.read() as connection:
            head = control_head(connection)
            epoch = epoch_of(position) if log_of(position) == log_of(head) else 0
            compacted = connection.execute(
                "SELECT epoch, scope, soft, made_s FROM folded WHERE epoch > ? ORDER BY epoch",
                (epoch,),
            ).fetchall()
            rows = _rows(connection, "epoch > ? ORDER BY epoch", (epoch,))
        return NewRows(head, [_compacted(*columns) for columns in compacted] + rows)

    def position(self, kind: RowKind | None = None) -> int:
        """The position of the newest row, or of the newest row of a kind."""
        with self._database.read() as connection:
            head = control_head(connection)
            if kind is None:
                return head
            newest = connection.execute(
                "SELECT MAX(epoch) FROM log WHERE kind = ?", (kind.value,)
            ).fetchone()
        return position_at(log_of(head), newest[0] or 0)

    def renew_if_older(self, seen: int) -> int:
        """Gives the log a new id if it has lost announced rows; returns its position.

        ``seen`` is a position that was announced in this cache folder. If the same log ends before
        it, the file is an older copy, and its next epochs would not be those of cached records.
        """
        with self._database.transaction() as connection:
            head = control_head(connection)
            if log_of(head) == log_of(seen) and head < seen:
                head = position_at(new_log_id(), epoch_of(head))
                connection.execute("UPDATE log_id SET id = ?", (log_of(head),))
        return head

    def invalidation(self, scope: str, id_: str) -> Row | None:
        """An invalidation of a distribution by its id, or None."""
        with self._database.read() as connection:
            return _one(
                connection,
                "id = ? AND scope = ? AND kind = ?",
                (id_, scope, RowKind.INVALIDATION.value),
            )

    def invalidations(
        self, scope: str, *, before_epoch: int | None = None, count: int = LISTED_MAX
    ) -> list[Row]:
        """The invalidations of a distribution, newest first; ``before_epoch`` continues a list."""
        before_epoch = (1 << 62) if before_epoch is None else before_epoch
        with self._database.read() as connection:
            return _rows(
                connection,
                "scope = ? AND kind = ? AND epoch < ? ORDER BY epoch DESC LIMIT ?",
                (scope, RowKind.INVALIDATION.value, before_epoch, count),
            )

    def _insert(self, connection: sqlite3.Connection, row: Row) -> Row:
        last = connection.execute("SELECT MAX(items_to_here) FROM log").fetchone()[0] or 0
        items = row.body.get("items")
        items_to_here = last + (len(items) if isinstance(items, list) else 1)
        epoch = insert(
            connection,
            f"INSERT INTO log ({_COLUMNS}, items_to_here) VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
            (
                row.kind.value,
                row.scope,
                row.id,
                row.caller_reference,
                row.created_s,
                json.dumps(row.body),
                items_to_here,
            ),
        )
        if row.kind is RowKind.INVALIDATION:
            if items_to_here > self._items_kept:
                _compact(connection, items_to_here - self._items_kept)
        else:
            connection.execute(
                "DELETE FROM log WHERE kind = ? AND epoch <= ?",
                (row.kind.value, epoch - CONFIGURATIONS_KEPT),
            )
        return replace(row, epoch=epoch)


def new_row_id() -> str:
    """An id of an invalidation in CloudFront's form."""
    return "I" + "".join(secrets.choice(_ID_ALPHABET) for _ in range(_ID_CHARACTERS))


def _row_of(entry: Entry, applied_s: float) -> Row:
    """The row of an INVALIDATION entry; what is no invalidation is read as UNREADABLE later."""
    body = dict(entry.body)
    row_id, reference = str(body.pop("id", "")), str(body.pop("caller_reference", ""))
    body["applied_s"] = applied_s  # by the clock of this edge
    return Row(0, RowKind.INVALIDATION, entry.scope, entry.created_s, body, row_id, reference)


def _with_reference(
    connection: sqlite3.Connection, scope: str, caller_reference: str
) -> Row | None:
    return _one(
        connection,
        # The last term lets SQLite use the index, which has no empty references.
        "scope = ? AND kind = ? AND caller_reference = ? AND caller_reference <> ''",
        (scope, RowKind.INVALIDATION.value, caller_reference),
    )


def control_head(connection: sqlite3.Connection) -> int:
    """The position of the newest row, within a transaction."""
    (log_id,) = connection.execute("SELECT id FROM log_id").fetchone() or (0,)
    (epoch,) = connection.execute(_LAST_EPOCH_QUERY).fetchone()
    return position_at(int(log_id), int(epoch))


def _compact(connection: sqlite3.Connection, items_to_here: int) -> None:
    """Compacts rows up to a number of items to one for each distribution and strength."""
    old = _rows(connection, "items_to_here <= ?", (items_to_here,))
    for row in old:
        if row.kind is not RowKind.CONFIGURATION:
            connection.execute(
                "INSERT INTO folded (scope, soft, epoch, made_s) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (scope, soft) DO UPDATE SET epoch = MAX(epoch, excluded.epoch),"
                " made_s = MAX(made_s, excluded.made_s)",
                (row.scope, row.invalidation.soft, row.epoch, row.created_s),
            )
    if old:
        connection.execute("DELETE FROM log WHERE items_to_here <= ?", (items_to_here,))


def _compacted(epoch: Any, scope: Any, soft: Any, created_s: Any) -> Row:
    """A compacted row from its columns, which may hold anything; hard unless ``soft`` is 1."""
    scope = scope if isinstance(scope, str) else ""
    created_s = created_s if isinstance(created_s, float) else 0.0
    body = {"items": [EVERYTHING], "soft": soft == 1, "revoke": False}
    kind = RowKind.INVALIDATION if scope else RowKind.UNREADABLE  # applies to all distributions
    return Row(epoch, kind, scope, created_s, body)


def _rows(connection: sqlite3.Connection, where: str, values: Sequence[object]) -> list[Row]:
    rows = connection.execute(f"SELECT {_COLUMNS} FROM log WHERE {where}", values)  # noqa: S608
    return [_row(*columns) for columns in rows]


def _row(
    epoch: int, kind: Any, scope: Any, id_: Any, caller_reference: Any, created_s: Any, body: Any
) -> Row:
    """A row from its columns, which may hold anything."""
    try:
        row = Row(
            epoch,
            RowKind(kind),
            str(scope),
            float(created_s),
            json.loads(body),
            str(id_),
            str(caller_reference),
        )
        if row.kind is RowKind.INVALIDATION:
            for item in row.invalidation.items:
                parse_item(item)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, ItemError):
        scope = scope if isinstance(scope, str) else ""
        created_s = created_s if isinstance(created_s, float) else 0.0
        return Row(epoch, RowKind.UNREADABLE, scope, created_s, id=str(id_))
    return row


def _one(connection: sqlite3.Connection, where: str, values: Sequence[object]) -> Row | None:
    rows = _rows(connection, f"{where} LIMIT 1", values)
    return rows[0] if rows else None
