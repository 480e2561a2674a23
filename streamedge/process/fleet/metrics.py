"""The metrics of an edge's part in its fleet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import GaugeMetricFamily

from streamedge.admin.fleet import lag_entries
from streamedge.fleet.position import line_of, sequence_of
from streamedge.shared_log.completion import Completion
from streamedge.shared_log.presence import PresenceReporter
from streamedge.shared_log.service import FleetService

if TYPE_CHECKING:
    from prometheus_client import Metric


def fleet_metrics(
    service: FleetService, presence: PresenceReporter, completion: Completion
) -> Iterator[Metric]:
    """The metrics now. ``completion``: of the last invalidation that this edge has watched."""
    position = presence.position
    values = (
        (
            "streamedge_fleet_line",
            "Line of the shared log that this edge has applied",
            line_of(position),
        ),
        (
            "streamedge_fleet_position",
            "Entries of that line that all workers have applied",
            sequence_of(position),
        ),
        (
            "streamedge_fleet_lag_seconds",
            "Time since the workers were not behind",
            round(presence.lag_s, 3),
        ),
        (
            "streamedge_fleet_engine_up",
            "Whether the engine answers",
            int(service.is_engine_up and presence.hears_engine),
        ),
        (
            "streamedge_fleet_current",
            "Whether cached objects are used without validation",
            int(presence.hears_fleet),
        ),
        (
            "streamedge_fleet_unpublished_entries",
            "Entries of this edge that wait for the engine",
            service.view.unpublished,
        ),
    )
    for name, description, value in values:
        yield GaugeMetricFamily(name, description, value)
    lag = lag_entries(position, presence.head)
    if lag is not None:
        description = "Entries that the workers have not applied yet"
        yield GaugeMetricFamily("streamedge_fleet_lag_entries", description, lag)
    edges = GaugeMetricFamily(
        "streamedge_fleet_edges", "Edges that report, by state", labels=["state"]
    )
    if presence.knows_others:
        for state, count in presence.attendance.edges_by_state().items():
            edges.add_metric([state.value], count)
    yield edges
    applied = GaugeMetricFamily(
        "streamedge_fleet_invalidation_seconds",
        "Time until an edge had applied the last invalidation that was watched here",
        labels=["edge"],
    )
    for name, passed_ms in completion.edge_ms.items():
        applied.add_metric([name], passed_ms / 1000)
    yield applied
