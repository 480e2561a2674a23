"""Edges and viewers at places, for tests of the nearest edge."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from streamedge.coordination.live_edges import Assignments
from streamedge.delivery.nearest import NearestEdges
from streamedge.fleet.members import Member
from streamedge.fleet.nearest import LiveEdges, Location, live_edges

FRANKFURT, TOKYO, NEW_YORK = (50.11, 8.68), (35.68, 139.69), (40.71, -74.01)
PARIS, OSAKA, BOSTON = (48.86, 2.35), (34.69, 135.5), (42.36, -71.06)
EDGES = (
    Member("fra-1", FRANKFURT, ("192.0.2.1", "2001:db8::1")),
    Member("tyo-1", TOKYO, ("192.0.2.2", "2001:db8::2")),
    Member("nyc-1", NEW_YORK, ("192.0.2.3",)),
)
VIEWERS: Mapping[str, Location] = {
    "127.0.0.2": PARIS,
    "127.0.0.3": OSAKA,
    "127.0.0.4": BOSTON,
}
"""The places of addresses; the place of 127.0.0.1 is unknown."""


@dataclass
class Places:
    """What an edge knows of its fleet, which the test may change."""

    own_name: str = "fra-1"
    up: Collection[str] = ("fra-1", "tyo-1", "nyc-1")
    members: Collection[Member] = EDGES
    hears_fleet: bool = True
    now_s: float = 0.0
    viewers: Mapping[str, Location] = field(default_factory=lambda: VIEWERS)
    assignments: Assignments = field(default_factory=Assignments)
    _live: tuple[object, LiveEdges] = (None, LiveEdges())

    def live(self) -> LiveEdges:
        key = (tuple(self.members), tuple(self.up))
        if key != self._live[0]:
            self._live = key, live_edges(*key)
        return self._live[1]

    def nearest(self) -> NearestEdges:
        return NearestEdges(
            self.own_name,
            self.live,
            lambda: self.hears_fleet,
            self.viewers.get,
            self.assignments,
            lambda: self.now_s,
        )
