"""The order of edges by their distance from a place on the earth. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from streamedge.fleet.members import Member

Location = tuple[float, float]
"""Latitude and longitude in degrees."""

EARTH_RADIUS_KM = 6371.0


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
