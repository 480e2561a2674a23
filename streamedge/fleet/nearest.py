"""Which edge of a fleet is nearest to a viewer, and the edges' own host names. Pure.

An edge that redirects viewers of cdn.example.com sends them to EDGE.cdn.example.com. That edge
serves the request as one for cdn.example.com, so that keys and signatures stay the same.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from streamedge.fleet.members import Member, Role, member_of

Location = tuple[float, float]
"""Latitude and longitude in degrees."""

EARTH_RADIUS_KM = 6371.0
LABEL_CHARACTERS_MAX = 63  # of a part of a host name (RFC 1035 §2.3.4)


def distance_km(first: Location, second: Location) -> float:
    """The length of the great circle between two places, by the haversine formula."""
    latitude, longitude = (math.radians(b - a) for a, b in zip(first, second, strict=True))
    cosines = math.cos(math.radians(first[0])) * math.cos(math.radians(second[0]))
    chord = math.sin(latitude / 2) ** 2 + cosines * math.sin(longitude / 2) ** 2
    return 2 * EARTH_RADIUS_KM * math.asin(math.sqrt(min(1.0, chord)))


def by_distance(place: Location, members: Iterable[Member]) -> Sequence[Member]:
    """The members that have a location, the nearest first; equal distances by name."""
    located = [(member.location, member) for member in members if member.location is not None]
    order = sorted(located, key=lambda one: (distance_km(place, one[0]), one[1].name))
    return [member for _location, member in order]


def has_own_host_name(member: Member) -> bool:
    """Whether viewers can reach a member at its name below an alias."""
    return bool(member.addresses) and len(member.name) <= LABEL_CHARACTERS_MAX


def split_edge_label(host: str, names: frozenset[str]) -> tuple[str, str]:
    """The edge's name that a host begins with, and the rest; ("", host) if there is none.

    ``names``: of the edges, in lower case. The rest keeps a port.
    """
    label, _dot, rest = host.partition(".")
    if not rest or label.lower() not in names or _is_address(host):
        return "", host
    return label.lower(), rest


def with_edge_label(host: str, edge: str) -> str | None:
    """The host name of an edge below ``host``, which may have a port; None below an IP address."""
    name = host.rpartition(":")[0] if host.count(":") == 1 else host
    if not name or name.startswith("[") or _is_address(host):
        return None
    return f"{edge.lower()}.{host}"


def _is_address(host: str) -> bool:
    """Whether a host is an IP address of any form, with a port or without."""
    name = host.rpartition(":")[0] if host.count(":") == 1 else host
    return ":" in name or name.rstrip(".").rpartition(".")[2].isdigit()


@dataclass(frozen=True, slots=True)
class LiveEdges:
    """What redirects need to know of the fleet.

    ``names``: of all edges, in lower case. ``up``: the edges that new viewers should use.
    """

    names: frozenset[str] = frozenset()
    up: tuple[Member, ...] = ()

    def encode(self) -> bytes:
        """The edges as JSON."""
        up = [member.body() for member in self.up]
        document = {"names": sorted(self.names), "up": up}
        return json.dumps(document, separators=(",", ":")).encode()


def live_edges(members: Iterable[Member], up: Iterable[str]) -> LiveEdges:
    """The edges as redirects need them. ``up``: the names of those whose presence says UP."""
    present = frozenset(up)
    serving = [member for member in members if member.role is not Role.REMOVED]
    return LiveEdges(
        frozenset(member.name.lower() for member in serving),
        tuple(
            member
            for member in serving
            if member.name in present
            and member.role is Role.SERVING
            and member.location is not None
            and has_own_host_name(member)
        ),
    )


def decode_live_edges(text: bytes) -> LiveEdges:
    """What ``LiveEdges.encode`` returned; an empty text is no edge at all."""
    if not text:
        return LiveEdges()
    document: dict[str, Any] = json.loads(text)
    up = (member_of(body, 0) for body in document["up"])
    return LiveEdges(
        frozenset(document["names"]),
        tuple(member for member in up if member is not None),
    )
