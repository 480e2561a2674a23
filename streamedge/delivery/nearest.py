"""Chooses the edge that a viewer is redirected to. For both protocols.

Only distributions with ``nearest`` redirect. A viewer stays with its edge while that edge is UP,
also if a nearer one comes up; after ten minutes without a request it is chosen again.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from typing import Protocol

from streamedge.fleet.members import Member
from streamedge.fleet.nearest import LiveEdges, Location, by_distance

PLACES_MAX = 16_384


class Assignments(Protocol):
    """Remembers which edge a viewer was sent to."""

    def get(self, viewer: str, names: list[str], now_s: float) -> str | None: ...

    def put(self, viewer: str, name: str, now_s: float) -> None: ...


class NearestEdges:
    """The choice of this worker. ``own_name``: this edge's.

    ``read_live`` returns the live edges; they count while ``hears_fleet``. ``location`` returns the
    place of an address, None if it is unknown.
    """

    def __init__(
        self,
        own_name: str,
        read_live: Callable[[], LiveEdges],
        hears_fleet: Callable[[], bool],
        location: Callable[[str], Location | None],
        assignments: Assignments,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._own_name = own_name
        self._read_live = read_live
        self._hears_fleet = hears_fleet
        self._location = location
        self._assignments = assignments
        self._clock = clock
        self._up: tuple[Member, ...] = ()
        self._nearest: dict[Location, Member] = {}  # of ``_up``, by the viewer's place
        self._others_of: tuple[Member, ...] = ()
        self._others: tuple[Member, ...] = ()
        self._names = frozenset[str]()
        self._all_names = frozenset({own_name.lower()})

    @property
    def names(self) -> frozenset[str]:
        """The names of all edges, in lower case; this edge's own is always among them."""
        names = self._read_live().names
        if names is not self._names:
            self._names, self._all_names = names, names | {self._own_name.lower()}
        return self._all_names

    def elsewhere(self, address: str) -> str | None:
        """The edge that the viewer at an address should use, if it is not this one."""
        if not self._hears_fleet():
            return None  # it does not know who is up
        live, now_s = self._read_live(), self._clock()
        place = self._location(address)
        if place is None or not live.up:
            return None
        assigned = self._assignments.get(address, [one.name for one in live.up], now_s)
        name = assigned or self._nearest_of(live.up, place).name
        self._assignments.put(address, name, now_s)
        return None if name == self._own_name else name

    def next_edge(self, address: str) -> str | None:
        """The edge that a viewer should use after this one, which stops or drains.

        It is the nearest other edge that is UP. Viewers whose place is unknown are spread over all.
        """
        if not self._hears_fleet():
            return None
        others = self._without_own(self._read_live().up)
        if not others:
            return None
        place = self._location(address)
        if place is None:
            return others[zlib.crc32(address.encode()) % len(others)].name
        name = self._nearest_of(others, place).name
        self._assignments.put(address, name, self._clock())
        return name

    def _without_own(self, up: tuple[Member, ...]) -> tuple[Member, ...]:
        """The same tuple each time, since ``_nearest_of`` remembers what belongs to it."""
        if up is not self._others_of:
            self._others_of = up
            self._others = tuple(one for one in up if one.name != self._own_name)
        return self._others

    def _nearest_of(self, up: tuple[Member, ...], place: Location) -> Member:
        if up is not self._up:
            self._up = up
            self._nearest.clear()
        nearest = self._nearest.get(place)
        if nearest is None:
            if len(self._nearest) >= PLACES_MAX:
                self._nearest.clear()
            nearest = self._nearest[place] = by_distance(place, up)[0]
        return nearest
