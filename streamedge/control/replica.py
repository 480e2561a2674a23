"""An edge's replica of the shared log of its fleet, in the control database.

Applying an entry makes a row of the control log (an invalidation), changes documents (resources) or
members, or reports written keys; see ``fleet.entries``. Rows, documents and the new position are
one transaction, so after a crash the follower goes on where it was. Workers read the control log
as in a fleet of one.

All methods block and may be called from any thread. They raise ControlError.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from streamedge.control import fleet_entries, pending_writes
from streamedge.control.database import ControlDatabase, ControlError
from streamedge.control.fleet_view import FleetView, MembersReader, fleet_view, members
from streamedge.control.log import ITEMS_KEPT, ControlLog, RowKind, control_head
from streamedge.control.resources import ResourceStore, decode_resource, encode_resource
from streamedge.fleet.entries import Entry, EntryKind, PlacedEntry, new_entry_id
from streamedge.fleet.history import REPUBLISHED_S, AppliedEntry, to_republish
from streamedge.fleet.members import Member, Role, member_of
from streamedge.fleet.pending import PendingState
from streamedge.fleet.position import START, line_of

PRUNED_EVERY = 16  # entries: looking for old ones costs as much as applying one
_OF_PENDING = frozenset({EntryKind.MEMBER, EntryKind.PENDING})
_STATE_COLUMNS = (
    "position, entry_id, line, resources_position, is_reconciled, settled_position,"
    " pruned_position, pruned_epoch"
)


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """How far the shared log has been applied.

    ``position`` and ``entry_id``: of the last entry; START and "" if the log has none of ours.
    ``line``: the newest line that this edge knows. ``resources_position``: the documents are as of
    this entry. ``is_reconciled``: False after lost history, until they were compared with the
    engine's. ``settled_position``: rows of the control log that are older than the fleet are older
    than the request of any answer as of this position; None: not known yet. ``pruned_position``
    and ``pruned_epoch``: the highest of the entries that are no longer here. ``is_engine_up``: as
    ``note_engine`` noted it.
    """

    position: int = START
    entry_id: str = ""
    line: int = 0
    resources_position: int = START
    is_reconciled: bool = True
    settled_position: int | None = None
    pruned_position: int = START
    pruned_epoch: int = 0
    is_engine_up: bool = False


@dataclass(frozen=True, slots=True)
class AppliedEntries:
    """What the application of entries left, as of its transaction.

    ``local_position``: of the newest row of the control log.
    """

    state: ReplicaState
    local_position: int
    view: FleetView


@dataclass(frozen=True, slots=True)
class Documents:
    """Resources by "KIND/ID" as JSON, and members by name: their order, and their body as JSON."""

    resources: Mapping[str, str]
    resources_position: int
    members: Mapping[str, tuple[int, str]]


class Replica:
    """The replica of the edge ``edge``.

    ``loop_database``: a connection of the event loop, which does not wait for locks; None: there is
    none. ``on_written`` is called with keys that were written through other edges, before the entry
    counts as applied; it must make older cached data of these keys invalid in all workers.
    """

    def __init__(
        self,
        database: ControlDatabase,
        edge: str,
        on_written: Callable[..., None],
        *,
        items_kept: int = ITEMS_KEPT,
        clock: Callable[[], float] = time.time,
        loop_database: ControlDatabase | None = None,
    ) -> None:
        self.edge = edge
        self.database = database
        self._loop_database = loop_database
        self._on_written = on_written
        self._clock = clock
        self._log = ControlLog(database, items_kept=items_kept, clock=clock)
        self._resources = ResourceStore(database)
        self._members = MembersReader()

    # What is here

    def state(self) -> ReplicaState | None:
        """The state; None before the edge has joined a fleet."""
        with self.database.read() as connection:
            return replica_state(connection)

    def view(self) -> FleetView:
        with self.database.read() as connection:
            return fleet_view(connection, self._members)

    def local_position(self) -> int:
        """The position of the newest row of the control log."""
        return self._log.position()

    def documents(self) -> Documents:
        """The documents here, for an engine that has none."""
        with self.database.read() as connection:
            state = replica_state(connection) or ReplicaState()
            return Documents(
                self._resource_texts(connection),
                state.resources_position,
                {
                    name: (member.order, json.dumps(member.body()))
                    for name, member in members(connection).items()
                },
            )

    def unpublished(self, count: int) -> list[Entry]:
        """The oldest entries that wait to be published."""
        with self.database.read() as connection:
            return fleet_entries.unpublished(connection, count)

    def has_unpublished(self, kind: EntryKind) -> bool:
        with self.database.read() as connection:
            return fleet_entries.count_unpublished(connection, kind) > 0

    def has_waiting_member(self, name: str) -> bool:
        """Whether a description of an edge waits to be published."""
        with self.database.read() as connection:
            waiting = fleet_entries.unpublished(connection, -1, EntryKind.MEMBER)
        return any(entry.body.get("name") == name for entry in waiting)

    def newest_placed(self, up_to: int, count: int) -> list[tuple[int, str]]:
        """Positions and ids of applied entries up to a position, the newest first."""
        with self.database.read() as connection:
            return fleet_entries.newest_placed(connection, up_to, count)

    def place_of(self, entry_id: str) -> fleet_entries.EntryPlace | None:
        with self.database.read() as connection:
            return fleet_entries.find_place(connection, entry_id)

    def place_of_row(self, epoch: int) -> fleet_entries.EntryPlace | None:
        """Where the entry of a row of the control log is; None: it is applied everywhere."""
        with self.database.read() as connection:
            return fleet_entries.place_of_row(connection, epoch)

    # Own entries

    def add_own(self, entry: Entry) -> None:
        """Keeps an entry of this edge until it is published. Invalidations: see ``ControlLog``.

        A member takes effect here when the follower reads it; written keys have done so already.
        """
        with self.database.transaction() as connection:
            if fleet_entries.find_place(connection, entry.id) is None:
                fleet_entries.add_entry(
                    connection,
                    entry,
                    epoch=self._log.last_epoch_within(connection),
                    has_row=False,
                    applied_s=self._clock(),
                )

    def give_up(self, entry_id: str) -> None:
        """Ends the attempts to publish an entry."""
        with self.database.transaction() as connection:
            connection.execute(
                "UPDATE fleet_entries SET is_given_up = 1 WHERE id = ? AND position IS NULL",
                (entry_id,),
            )

    def place(self, entry_id: str, position: int) -> None:
        """Notes the position of a waiting entry that the follower has passed without reading it."""
        with self.database.transaction() as connection:
            fleet_entries.place_entry(connection, entry_id, position)

    def renew_id(self, entry: Entry, new: Entry) -> None:
        """Replaces an entry that waits by an equal one with another id."""
        with self.database.transaction() as connection:
            fleet_entries.replace_waiting(connection, entry.id, new)

    def note_engine(self, *, is_up: bool) -> None:
        """Notes for other processes whether the engine answers."""
        with self.database.transaction() as connection:
            connection.execute("UPDATE fleet_state SET is_engine_up = ?", (is_up,))

    # Following

    def join(self, snapshot: Documents, position: int, entry_id: str, *, is_first: bool) -> bool:
        """Begins to follow after ``position``, whose entry has ``entry_id``.

        Takes the snapshot's documents; returns whether resources here were replaced. Everything
        cached is invalid afterwards, unless this edge is the first one: other edges may have
        invalidated it before.
        """
        with self.database.transaction() as connection:
            is_replaced = self._take_documents(connection, snapshot)
            connection.execute("DELETE FROM fleet_state")
            connection.execute(
                f"INSERT INTO fleet_state ({_STATE_COLUMNS}, is_engine_up)"  # noqa: S608
                " VALUES (?, ?, ?, ?, 1, NULL, ?, ?, 1)",
                (
                    position,
                    entry_id,
                    line_of(position),
                    snapshot.resources_position,
                    START,
                    0,
                ),
            )
            if not is_first:
                self._log.append_within(connection, RowKind.EVERYTHING, "", {})
                # This edge's MEMBER entry makes the holders publish their queued writes again.
                pending_writes.forget_all(connection)
        if not is_first:
            self._on_written(pending_writes.SIGNAL_KEY)
        return is_replaced

    def rejoin(self, snapshot: Documents, position: int, entry_id: str) -> bool:
        """As ``join``, because entries between were trimmed before this edge has read them.

        The log may have lost entries before it was trimmed, and nothing shows that any more. So
        this edge publishes its own invalidations of the last hour again: others may lack them.
        """
        with self.database.transaction() as connection:
            since_s = self._clock() - REPUBLISHED_S
            fleet_entries.unplace_invalidations_of(connection, self.edge, since_s)
            is_replaced = self._take_documents(connection, snapshot)
            self._log.append_within(connection, RowKind.EVERYTHING, "", {})
            connection.execute(
                "UPDATE fleet_state SET position = ?, entry_id = ?, line = ?,"
                " resources_position = ?, is_reconciled = 1, settled_position ="
                " CASE WHEN settled_position IS NULL THEN NULL ELSE ? END",
                (position, entry_id, line_of(position), snapshot.resources_position, position),
            )
            self._request_pending(connection)
        self._on_written(pending_writes.SIGNAL_KEY)
        return is_replaced

    def apply(self, entries: Sequence[PlacedEntry]) -> AppliedEntries:
        """Applies one or more entries that follow the applied position.

        Not synced to the disk: after a power failure the entries, and with them the position, are
        read again from the shared log, and what was cached before is validated anyway.
        """
        return self._apply(self.database, entries)

    def apply_now(self, entries: Sequence[PlacedEntry]) -> AppliedEntries | None:
        """As ``apply``, on the event loop, which saves two changes of threads.

        None: nothing is applied, because another process uses the database just now, or it fails.
        """
        if self._loop_database is None:
            return None
        try:
            return self._apply(self._loop_database, entries)
        except ControlError:
            return None

    def _apply(self, database: ControlDatabase, entries: Sequence[PlacedEntry]) -> AppliedEntries:
        written: set[str] = set()
        try:
            applied = self._apply_within(database, entries, written)
        except BaseException:
            self._members.forget()  # they may be those of a transaction that was rolled back
            raise
        if any(entry is not None and entry.kind in _OF_PENDING for _p, _id, entry in entries):
            # Once more: a worker may have read the origin before the rows were committed.
            self._on_written(pending_writes.SIGNAL_KEY, *written)
        return applied

    def _apply_within(
        self, database: ControlDatabase, entries: Sequence[PlacedEntry], written: set[str]
    ) -> AppliedEntries:
        with database.transaction(synced=False) as connection:
            state = replica_state(connection)
            if state is None or entries[0].position <= state.position:
                raise ValueError("these entries do not follow the applied ones")
            resources_position, settled = state.resources_position, state.settled_position
            for position, entry_id, entry in entries:
                if entry is None:
                    self._apply_unreadable(connection, position, entry_id)
                    continue
                place = fleet_entries.find_place(connection, entry.id)
                is_resources = entry.kind is EntryKind.RESOURCES
                if is_resources and position > resources_position:
                    self._apply_resources(connection, entry)
                    resources_position = position
                if place is not None:
                    fleet_entries.place_entry(connection, entry.id, position)
                else:
                    self._apply_new(connection, entry, position)
                if entry.kind is EntryKind.MEMBER:
                    if entry.edge != self.edge:
                        pending_writes.mark_outdated(connection, self.edge)
                    written.update(_apply_member(connection, entry, position))
                if entry.kind is EntryKind.PENDING:
                    key = pending_writes.apply_pending(connection, entry, position, self.edge)
                    written.update(() if key is None else (key,))
                if entry.kind is EntryKind.WRITTEN:
                    written.update(_written_keys(entry))
                if settled is None and entry.edge == self.edge:
                    settled = position
            state = replace(
                state,
                position=entries[-1].position,
                entry_id=entries[-1].id,
                line=line_of(entries[-1].position),
                resources_position=resources_position,
                settled_position=settled,
            )
            if any(one.position % PRUNED_EVERY == 0 for one in entries):
                state = _pruned(connection, state)
            _put_position(connection, state)
            return AppliedEntries(
                state, control_head(connection), self._view_within(connection, state, entries)
            )

    def _view_within(
        self,
        connection: sqlite3.Connection,
        state: ReplicaState,
        entries: Sequence[PlacedEntry],
    ) -> FleetView:
        """As ``view`` when entries have led to ``state``; reads members only if these changed."""
        kinds = {entry.kind for _position, _id, entry in entries if entry is not None}
        return FleetView(
            state.position,
            state.line,
            self._members.read(connection, is_changed=EntryKind.MEMBER in kinds),
            fleet_entries.count_unpublished(connection),
            state.is_engine_up,
        )

    def rewind(self, position: int, entry_id: str, line: int) -> int:
        """Goes back to the last entry that the shared log still has; returns how many it has lost.

        Lost entries stay applied here and wait to be published again (see ``to_republish``).
        ``line``: the line that was begun after the loss.
        """
        with self.database.transaction() as connection:
            lost = fleet_entries.placed_after(connection, position)
            ids = to_republish(
                (AppliedEntry(one.id, one.kind, one.applied_s) for one in lost), self._clock()
            )
            fleet_entries.unplace_after(connection, position, republished=ids)
            connection.execute(
                "UPDATE fleet_state SET position = ?, entry_id = ?, line = ?, is_reconciled = 0,"
                " resources_position = MIN(resources_position, ?)",
                (position, entry_id, line, position),
            )
        return len(lost)

    def reconcile(self, snapshot: Documents) -> bool:
        """Takes the engine's documents after lost history; returns whether any was replaced."""
        with self.database.transaction() as connection:
            is_replaced = self._take_documents(connection, snapshot)
            connection.execute(
                "UPDATE fleet_state SET is_reconciled = 1, resources_position = ?",
                (snapshot.resources_position,),
            )
        return is_replaced

    def held_writes(self) -> dict[str, int]:
        """How many objects each edge of the fleet holds queued writes of."""
        with self.database.read() as connection:
            return pending_writes.count_held(connection)

    def announce_pending(self) -> None:
        """Refuses what was cached of objects with queued writes: a process may have died between
        the commit of their rows and the end of ``apply``.
        """
        with self.database.read() as connection:
            keys = pending_writes.all_writes(connection)
        self._on_written(pending_writes.SIGNAL_KEY, *keys)

    # Applying

    def _request_pending(self, connection: sqlite3.Connection) -> None:
        """The entries of queued writes may be older than those that this edge will read."""
        pending_writes.forget_all(connection)
        body = {"state": PendingState.REQUESTED.value}
        fleet_entries.add_entry(
            connection,
            Entry(new_entry_id(), EntryKind.PENDING, self.edge, self._clock(), "", body),
            epoch=self._log.last_epoch_within(connection),
            has_row=False,
            applied_s=self._clock(),
        )

    def _apply_new(self, connection: sqlite3.Connection, entry: Entry, position: int) -> None:
        has_row = entry.kind is EntryKind.INVALIDATION
        if has_row:
            epoch = self._log.add_from_fleet(connection, entry)
        else:
            epoch = self._log.last_epoch_within(connection)
        if entry.kind is EntryKind.WRITTEN and entry.edge != self.edge:
            self._on_written(*_written_keys(entry))
        fleet_entries.add_entry(
            connection,
            entry,
            epoch=epoch,
            has_row=has_row,
            applied_s=self._clock(),
            position=position,
        )

    def _apply_unreadable(
        self, connection: sqlite3.Connection, position: int, entry_id: str
    ) -> None:
        """Everything counts as invalidated, once."""
        if fleet_entries.find_place(connection, entry_id) is not None:
            fleet_entries.place_entry(connection, entry_id, position)
            return
        epoch = self._log.append_within(connection, RowKind.EVERYTHING, "", {})
        entry = Entry(entry_id, EntryKind.LINE, "", self._clock())  # never published again
        fleet_entries.add_entry(
            connection,
            entry,
            epoch=epoch,
            has_row=True,
            applied_s=self._clock(),
            position=position,
        )

    def _apply_resources(self, connection: sqlite3.Connection, entry: Entry) -> None:
        changes = entry.body.get("resources")
        if not isinstance(changes, dict):
            return
        for key, change in changes.items():
            after = change.get("after") if isinstance(change, dict) else None
            self._put_document(connection, key, None if after is None else json.dumps(after))

    def _take_documents(self, connection: sqlite3.Connection, snapshot: Documents) -> bool:
        """Makes resources and members those of a snapshot; returns whether resources changed."""
        before = self._resource_texts(connection)
        is_changed = False
        for key in before.keys() - snapshot.resources.keys():
            self._put_document(connection, key, None)
            is_changed = True
        for key, text in snapshot.resources.items():
            if decode_resource(text) != decode_resource(before.get(key, "")):
                self._put_document(connection, key, text)
                is_changed = True
        connection.execute("DELETE FROM fleet_members")
        self._members.forget()
        for order, text in snapshot.members.values():
            try:
                member = member_of(json.loads(text), order)
            except (ValueError, RecursionError):
                continue
            if member is not None:
                _put_member(connection, member)
        return is_changed

    def _put_document(self, connection: sqlite3.Connection, key: str, text: str | None) -> None:
        """Puts or removes a document; a row of the log makes all processes read it."""
        kind, _slash, identifier = key.partition("/")
        resource = None if text is None else decode_resource(text)
        if resource is not None and (resource.kind, resource.id) == (kind, identifier):
            self._resources.put_within(connection, resource)
        else:
            self._resources.remove_within(connection, kind, identifier)
        self._log.append_within(connection, RowKind.CONFIGURATION, identifier, {})

    def _resource_texts(self, connection: sqlite3.Connection) -> dict[str, str]:
        return {
            f"{one.kind.value}/{one.id}": json.dumps(encode_resource(one))
            for one in self._resources.resources_within(connection)
        }


def replica_state(connection: sqlite3.Connection) -> ReplicaState | None:
    """As ``Replica.state``, within a transaction."""
    row: tuple[Any, ...] | None = connection.execute(
        f"SELECT {_STATE_COLUMNS}, is_engine_up FROM fleet_state"  # noqa: S608
    ).fetchone()
    if row is None:
        return None
    position, entry_id, line, resources, is_reconciled, settled, pruned, epoch, is_up = row
    return ReplicaState(
        position,
        entry_id,
        line,
        resources,
        bool(is_reconciled),
        settled,
        pruned,
        epoch,
        bool(is_up),
    )


def _put_position(connection: sqlite3.Connection, state: ReplicaState) -> None:
    """Notes how far entries are applied."""
    connection.execute(
        "UPDATE fleet_state SET position = ?, entry_id = ?, line = ?, resources_position = ?,"
        " settled_position = ?, pruned_position = ?, pruned_epoch = ?",
        (
            state.position,
            state.entry_id,
            state.line,
            state.resources_position,
            state.settled_position,
            state.pruned_position,
            state.pruned_epoch,
        ),
    )


def _pruned(connection: sqlite3.Connection, state: ReplicaState) -> ReplicaState:
    """The state after old entries were deleted, if there are too many."""
    pruned = fleet_entries.prune_entries(connection)
    if pruned is None:
        return state
    position, epoch = pruned
    return replace(state, pruned_position=position, pruned_epoch=epoch)


def _apply_member(connection: sqlite3.Connection, entry: Entry, position: int) -> list[str]:
    """Returns the keys of queued writes that no edge holds any more."""
    member = member_of(entry.body, position)
    if member is None:
        return []
    _put_member(connection, member)
    if member.role is not Role.REMOVED:
        return []
    return pending_writes.forget_holder(connection, member.name)


def _written_keys(entry: Entry) -> list[str]:
    keys = entry.body.get("keys")
    return [str(key) for key in keys] if isinstance(keys, list) else []


def _put_member(connection: sqlite3.Connection, member: Member) -> None:
    """Creates or replaces a member; its order stays."""
    connection.execute(
        "INSERT INTO fleet_members (name, body, first_position) VALUES (?, ?, ?)"
        " ON CONFLICT (name) DO UPDATE SET body = excluded.body",
        (member.name, json.dumps(member.body()), member.order),
    )
