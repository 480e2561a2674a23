"""The members of a fleet: what the shared log says about each edge, and what each edge reports.

Pure. A ``Member`` is durable: entries of the kind MEMBER describe it, the newest one counts. A
``Presence`` is what an edge reports about itself while its lease lasts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from streamedge.fleet.states import EdgeState

NAME_CHARACTERS_MAX = 64
WEIGHT_MAX = 1000.0


class Role(StrEnum):
    """What the operators want an edge to do."""

    SERVING = "serving"
    DRAINING = "draining"  # ``fleet drain``
    REMOVED = "removed"  # ``fleet remove``


@dataclass(frozen=True, slots=True)
class Member:
    """An edge as the shared log describes it.

    ``location``: latitude and longitude in degrees, or None. ``addresses``: what viewers reach it
    by. ``peer_address``: "HOST:PORT" of its fleet listener, "" without one. ``weight``: its share
    of a tier's objects. ``order``: the position of the entry that first named it (0: not placed
    yet).
    """

    name: str
    location: tuple[float, float] | None = None
    addresses: tuple[str, ...] = ()
    peer_address: str = ""
    weight: float = 1.0
    role: Role = Role.SERVING
    order: int = 0

    def body(self) -> dict[str, Any]:
        """The body of a MEMBER entry."""
        members = asdict(self)
        del members["order"]
        members["role"] = self.role.value
        return members


@dataclass(frozen=True, slots=True)
class Presence:
    """What an edge reports: its state, how far it has applied the shared log, and its load.

    ``position``: all workers of the edge have applied all entries up to it. ``load``: the open
    connections of viewers. ``beat`` grows by one with each report, so that an observer sees
    without a clock that the edge lives.
    """

    name: str
    state: EdgeState
    position: int = 0
    load: int = 0
    beat: int = 0

    def encode(self) -> str:
        """The presence as JSON."""
        members = {
            "name": self.name,
            "state": self.state.value,
            "position": self.position,
            "load": self.load,
            "beat": self.beat,
        }
        return json.dumps(members, separators=(",", ":"))


def member_of(body: Mapping[str, Any], order: int) -> Member | None:
    """The member in the body of a MEMBER entry; None if it is not one."""
    try:
        location = body["location"]
        member = Member(
            name=str(body["name"]),
            location=None if location is None else (float(location[0]), float(location[1])),
            addresses=tuple(str(address) for address in body["addresses"]),
            peer_address=str(body["peer_address"]),
            weight=float(body["weight"]),
            role=Role(body["role"]),
            order=order,
        )
    except (KeyError, TypeError, ValueError, IndexError, OverflowError):
        return None
    if not 0 < len(member.name) <= NAME_CHARACTERS_MAX or not 0 < member.weight <= WEIGHT_MAX:
        return None
    if member.location is not None and not all(map(math.isfinite, member.location)):
        return None
    return member


def decode_presence(text: str | bytes) -> Presence | None:
    """The presence in a text; None if it is not one."""
    try:
        members = json.loads(text)
        return Presence(
            name=str(members["name"]),
            state=EdgeState(members["state"]),
            position=int(members["position"]),
            load=int(members["load"]),
            beat=int(members["beat"]),
        )
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
