"""What this edge knows about its fleet: how far it has applied the shared log, and the members.

Any process of the edge reads it from the control database; workers read it again when they are
woken. In a fleet of one the view is empty.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from streamedge.control.database import ControlDatabase, ControlError
from streamedge.control.fleet_entries import count_unpublished, unpublished
from streamedge.fleet.entries import Entry, decode_entry
from streamedge.fleet.members import Member, Role, member_of
from streamedge.fleet.position import START

# The kind is a literal, so that the index of these few entries is used: see ``database``.
_MEMBER_ENTRIES_QUERY = (
    "SELECT position, applied_s, entry FROM fleet_entries"
    " WHERE kind = 'member' AND position IS NOT NULL ORDER BY position"
)
_MEMBERS_QUERY = "SELECT name, body, first_position FROM fleet_members ORDER BY name"
WAITING_READ = 8  # entries, on an event loop: the longest ones take a millisecond each


@dataclass(frozen=True, slots=True)
class FleetView:
    """The fleet as of one transaction.

    ``position``: this edge has applied the shared log up to here; START before it has joined.
    ``line``: the line that entries are appended to. ``members``: by name, those with the role
    REMOVED included. ``unpublished``: entries of this edge that the shared log does not have yet.
    ``is_engine_up``: the engine answered when it was last called.
    """

    position: int = START
    line: int = 0
    members: Mapping[str, Member] = field(default_factory=dict)
    unpublished: int = 0
    is_engine_up: bool = False


@dataclass(frozen=True, slots=True)
class MembersBefore:
    """The members before recent changes, the last of which was applied here at ``changed_s``."""

    members: Mapping[str, Member]
    changed_s: float


def members_before(
    connection: sqlite3.Connection, now: Mapping[str, Member], since_s: float
) -> MembersBefore:
    """The members before the changes that were applied after ``since_s``; empty without any.

    ``now``: the present members. A member whose earlier description is no longer here is taken to
    have served.
    """
    rows = connection.execute(_MEMBER_ENTRIES_QUERY).fetchall()
    before: dict[str, Member] = {}
    changed: dict[str, int] = {}  # the position of the first recent description
    changed_s = 0.0
    for position, applied_s, text in rows:
        entry = decode_entry(text)
        member = None if entry is None else member_of(entry.body, int(position))
        if member is None:
            continue
        if applied_s < since_s:
            before[member.name] = member
        else:
            changed.setdefault(member.name, int(position))
            changed_s = max(changed_s, applied_s)
    if not changed:
        return MembersBefore({}, 0.0)
    result = {name: member for name, member in now.items() if name not in changed}
    for name, position in changed.items():
        member = before.get(name) or now.get(name)
        if member is not None and (name in before or member.order != position):
            result[name] = member if name in before else replace(member, role=Role.SERVING)
    return MembersBefore(result, changed_s)


def few_waiting_entries(database: ControlDatabase) -> Sequence[Entry] | None:
    """The entries of this edge that wait to be published, if these are few; None: more wait, or
    the database cannot be read."""
    try:
        with database.read() as connection:
            waiting = unpublished(connection, WAITING_READ + 1)
    except ControlError:
        return None
    return waiting if len(waiting) <= WAITING_READ else None


class MembersReader:
    """Reads the members again and again; parses them only when they have changed."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, str, int]] = []
        self._members: dict[str, Member] = {}
        self._is_read = False

    def forget(self) -> None:
        """The members may be others: the next ``read`` reads them."""
        self._is_read = False

    def read(
        self, connection: sqlite3.Connection, *, is_changed: bool = True
    ) -> Mapping[str, Member]:
        """The members by name, within a transaction; rows that cannot be read are left out.

        ``is_changed``: False if no other transaction can have changed them since the last call.
        """
        if self._is_read and not is_changed:
            return self._members
        self._is_read = True
        rows = connection.execute(_MEMBERS_QUERY).fetchall()
        if rows != self._rows:
            self._rows, self._members = rows, _members_of(rows)
        return self._members


def fleet_view(connection: sqlite3.Connection, reader: MembersReader | None = None) -> FleetView:
    """The view now, within a transaction."""
    state = connection.execute("SELECT position, line, is_engine_up FROM fleet_state").fetchone()
    if state is None:
        return FleetView(unpublished=count_unpublished(connection))
    position, line, is_engine_up = state
    here = members(connection) if reader is None else reader.read(connection)
    return FleetView(position, line, here, count_unpublished(connection), bool(is_engine_up))


def members(connection: sqlite3.Connection) -> dict[str, Member]:
    """The members by name; rows that cannot be read are left out."""
    return _members_of(connection.execute(_MEMBERS_QUERY).fetchall())


def _members_of(rows: Iterable[tuple[str, str, int]]) -> dict[str, Member]:
    result: dict[str, Member] = {}
    for name, body, first_position in rows:
        try:
            member = member_of(json.loads(body), int(first_position))
        except (ValueError, TypeError, RecursionError):
            continue
        if member is not None and member.name == name:
            result[name] = member
    return result
