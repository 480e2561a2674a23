"""Builds a worker's choice of the nearest edge."""

from __future__ import annotations

from streamedge.access.geo import CountryDatabase
from streamedge.config.schema.config import Config
from streamedge.coordination.shared_state import SharedState
from streamedge.delivery.nearest import NearestEdges


def nearest_edges(
    config: Config, shared: SharedState, countries: CountryDatabase
) -> NearestEdges | None:
    """The choice for both protocols; None in a fleet of one."""
    live, status = shared.live_edges, shared.fleet
    if live is None or status is None:
        return None
    return NearestEdges(
        config.edge.name, live.read, status.hears_fleet, countries.location, live.assignments
    )
