"""What this edge knows about its fleet: how far it has applied the shared log, and the members.

Any process of the edge reads it from the control database; workers read it again when they are
woken. In a fleet of one the view is empty.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field

from streamedge.control.database import ControlDatabase
from streamedge.control.fleet_entries import count_unpublished
from streamedge.fleet.members import Member, member_of
from streamedge.fleet.position import START


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


def read_fleet_view(database: ControlDatabase) -> FleetView:
    """The view now. Raises ControlError."""
    with database.read() as connection:
        return fleet_view(connection)


def fleet_view(connection: sqlite3.Connection) -> FleetView:
    """As ``read_fleet_view``, within a transaction."""
    state = connection.execute("SELECT position, line, is_engine_up FROM fleet_state").fetchone()
    if state is None:
        return FleetView(unpublished=count_unpublished(connection))
    position, line, is_engine_up = state
    return FleetView(
        position, line, members(connection), count_unpublished(connection), bool(is_engine_up)
    )


def members(connection: sqlite3.Connection) -> dict[str, Member]:
    """The members by name; rows that cannot be read are left out."""
    rows = connection.execute("SELECT name, body, first_position FROM fleet_members ORDER BY name")
    result: dict[str, Member] = {}
    for name, body, first_position in rows:
        try:
            member = member_of(json.loads(body), int(first_position))
        except (ValueError, TypeError, RecursionError):
            continue
        if member is not None and member.name == name:
            result[name] = member
    return result
