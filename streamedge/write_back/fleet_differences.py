"""What a fleet does not know of an edge's queue, or knows wrongly: PENDING entries to publish.

Both sides number their changes. So a comparison reads the objects that have changed since the last
one, and those that were different then. At the start, and after more changes than are kept, all
objects are compared: some of them at each call, in the order of their keys.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from itertools import islice
from typing import Any

from streamedge.control import pending_writes
from streamedge.control.database import ControlDatabase, ControlError
from streamedge.control.fleet_entries import count_unpublished
from streamedge.control.fleet_view import fleet_view
from streamedge.fleet.entries import EntryKind
from streamedge.fleet.members import Role
from streamedge.fleet.pending import HeldWrite, PendingState, end_body
from streamedge.write_back.fleet_writes import body_fields
from streamedge.write_back.rows import Row, Rows, WriteQueueError

COMPARED_AT_ONCE = 10_000
PUBLISHED_AT_ONCE = 1000


class FleetDifferences:
    """The differences between the queue ``rows`` of the edge ``edge`` and the shared log."""

    def __init__(
        self, edge: str, database: ControlDatabase, rows: Rows, clock: Callable[[], float]
    ) -> None:
        self._edge = edge
        self._database = database
        self._rows = rows
        self._clock = clock
        self._log_change = 0  # the numbers of the changes that were read
        self._queue_change = 0
        self._keys: dict[str, None] = {}  # changed since, or different in the last comparison
        self._has_missed_changes = True
        self._compared_to: str | None = None  # a key; None: not all objects are being compared

    def bodies(self) -> list[dict[str, Any]]:
        """The bodies of up to PUBLISHED_AT_ONCE entries. Blocks. Raises ControlError,
        WriteQueueError: the next call begins to compare all objects.
        """
        try:
            return self._bodies()
        except (ControlError, WriteQueueError):
            self._has_missed_changes = True  # those that were read and not compared
            raise

    def _bodies(self) -> list[dict[str, Any]]:
        with self._database.read() as connection:
            if count_unpublished(connection, EntryKind.PENDING):
                return []  # decided again when these have their places
            members = fleet_view(connection).members
            if self._edge in members and members[self._edge].role is Role.REMOVED:
                return []
            self._read_changes(connection)
            keys = dict.fromkeys(islice(self._keys, COMPARED_AT_ONCE))
            keys |= self._next_of_all(connection)
            published = pending_writes.serials_of(connection, self._edge, keys)
        # Read after ``published``: a write that ends meanwhile is published as ended twice.
        waiting = self._rows.newest_of(keys)
        held = self._rows.held_keys(self._clock())
        bodies = []
        for key in keys:
            row, own = waiting.get(key), published.get(key)
            self._keys.pop(key, None)
            if not _is_different(row, own):
                continue
            self._keys[key] = None
            if row is not None:
                is_placed = own is not None and own.serial >= row.serial
                since = own.since if own is not None and is_placed else 0
                bodies.append(queued_body(row, self._edge, since))
            elif own is not None and key not in held:
                bodies.append(end_body(key, own.serial, PendingState.SENT))
        return bodies[:PUBLISHED_AT_ONCE]

    def _read_changes(self, connection: sqlite3.Connection) -> None:
        self._log_change, of_log = pending_writes.changes_after(connection, self._log_change)
        self._queue_change, of_queue = self._rows.changes_after(self._queue_change)
        for keys in (of_log, of_queue):
            if keys is None:
                self._has_missed_changes = True
            else:
                self._keys |= dict.fromkeys(keys)

    def _next_of_all(self, connection: sqlite3.Connection) -> dict[str, None]:
        """The next objects while all of them are being compared."""
        if self._compared_to is None:
            if not self._has_missed_changes:
                return {}
            self._has_missed_changes, self._compared_to = False, ""
        after, count = self._compared_to, COMPARED_AT_ONCE
        parts = (
            self._rows.waiting_keys(after, count),
            pending_writes.keys_held_by(connection, self._edge, after, count),
        )
        self._compared_to = to = min(
            (part[-1] for part in parts if len(part) == count), default=None
        )
        return dict.fromkeys(key for part in parts for key in part if to is None or key <= to)


def _is_different(row: Row | None, own: pending_writes.OwnWrite | None) -> bool:
    if row is None:
        return own is not None
    return own is None or own.serial < row.serial or own.is_outdated


def queued_body(row: Row, holder: str, since: int = 0) -> dict[str, Any]:
    """The body of the QUEUED entry of a row. ``since``: its place, if it had one before."""
    fields = body_fields({name.lower(): value for name, value in row.fields})
    return HeldWrite(
        row.asset_key,
        holder,
        row.serial,
        row.origin_name,
        row.name,
        row.method == "DELETE",
        row.etag,
        row.size_bytes,
        row.queued_s,
        fields,
        since,
    ).body()
