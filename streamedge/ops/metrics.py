"""Numbers for Prometheus: counted as plain integers on hot paths, handed over once a second.

Owns the list of metrics. Every process counts into its own ``Counts``; ``flush`` adds what has
gathered to prometheus-client's files in a folder that all processes share, and ``exposition``
sums those files. A killed process loses at most what it counted since its last flush.
"""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client import Counter as PrometheusCounter
    from prometheus_client import Gauge as PrometheusGauge


class Counter(Enum):
    """What is counted: name without ``_total``, its label, and what it means."""

    def __init__(self, metric: str, label: str, description: str) -> None:
        self.metric = metric
        self.label = label
        self.description = description

    SENT_BYTES = ("streamedge_sent_bytes", "protocol", "Bytes sent to viewers out of the cache")
    ORIGIN_BYTES = ("streamedge_origin_bytes", "origin", "Body bytes read from origins")
    RESPONSES = ("streamedge_responses", "cache", "HTTP responses by cache result")
    STATUSES = ("streamedge_statuses", "status", "HTTP responses by status code")
    PLAYS = ("streamedge_plays", "cache", "RTMP plays by cache result")
    FILLS = ("streamedge_fills", "outcome", "Reads from origins by how they ended")
    EVICTIONS = ("streamedge_evicted_files", "kind", "Cache files removed to make room")
    EVICTED_BYTES = ("streamedge_evicted_bytes", "kind", "Disk space of cache files removed")
    FAILOVERS = (
        "streamedge_failovers",
        "origin",
        "Requests that another origin of a group was asked instead",
    )
    OUTAGES = ("streamedge_outages", "origin", "Times an origin of a group was found out of order")
    LATE_SENDS = ("streamedge_late_sends", "protocol", "Media sent after the moment it was due")
    ERRORS = ("streamedge_errors", "kind", "Failures by kind")
    REPLICATIONS = (
        "streamedge_replications",
        "outcome",
        "Attempts to send queued writes to their origin by how they ended",
    )
    LOG_LINES_DROPPED = (
        "streamedge_log_lines_dropped",
        "process",
        "Log lines that could not be written in time",
    )
    WORKER_STARTS = ("streamedge_worker_starts", "process", "Processes started")


class Gauge(Enum):
    """What is measured now, summed over living processes."""

    def __init__(self, metric: str, description: str) -> None:
        self.metric = metric
        self.description = description

    VIEWERS = ("streamedge_viewers", "RTMP clients that play now")
    RTMP_CONNECTIONS = ("streamedge_rtmp_connections", "Open RTMP connections")
    HTTP_CONNECTIONS = ("streamedge_http_connections", "Open HTTP connections")
    OPEN_EXTENTS = ("streamedge_open_extents", "Cache files open")
    RUNNING_FILLS = ("streamedge_running_fills", "Reads from origins that run now")
    WAITING_WRITES = ("streamedge_waiting_writes", "Queued writes that their origin lacks")
    KEPT_WRITES = ("streamedge_kept_writes", "Queued writes that their origin refused")
    HELD_WRITE_BYTES = ("streamedge_held_write_bytes", "Bytes of queued writes that lie here")
    CACHE_BYTES = ("streamedge_cache_bytes", "Disk space that the cache takes")
    CACHE_LIMIT_BYTES = ("streamedge_cache_limit_bytes", "Disk space that the cache may take")


class Tally:
    """One counter under one label, to be counted on directly where that happens very often."""

    __slots__ = ("amount",)

    def __init__(self) -> None:
        self.amount = 0


class Counts:
    """One process's numbers."""

    __slots__ = ("_counters", "_gauges", "_tallies", "gauges")

    def __init__(self) -> None:
        self._tallies: dict[tuple[str, str], tuple[Counter, Tally]] = {}
        self.gauges: dict[Gauge, int] = {}
        self._counters: dict[Counter, PrometheusCounter] = {}
        self._gauges: dict[Gauge, PrometheusGauge] = {}

    def tally(self, counter: Counter, label: str) -> Tally:
        """What ``counter`` counts under ``label``; always the same one."""
        found = self._tallies.get((counter.metric, label))
        if found is None:
            found = self._tallies[counter.metric, label] = counter, Tally()
        return found[1]

    def add(self, counter: Counter, label: str, amount: int = 1) -> None:
        """Counts ``amount`` more under ``label``."""
        self.tally(counter, label).amount += amount

    def gathered(self, counter: Counter, label: str) -> int:
        """What has been counted since the last flush."""
        return self.tally(counter, label).amount

    def publish_in(self, folder: Path) -> None:
        """Makes ``flush`` write to files in ``folder``; called once, in the counting process."""
        # prometheus-client chooses its storage by this variable when it is first imported.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
        import prometheus_client  # noqa: PLC0415

        registry = prometheus_client.CollectorRegistry()
        for counter in Counter:
            self._counters[counter] = prometheus_client.Counter(
                counter.metric, counter.description, [counter.label], registry=registry
            )
        for gauge in Gauge:
            self._gauges[gauge] = prometheus_client.Gauge(
                gauge.metric, gauge.description, registry=registry, multiprocess_mode="livesum"
            )

    def flush(self) -> None:
        """Hands over what has gathered, and the gauges as they stand."""
        for (_metric, label), (counter, tally) in self._tallies.items():
            amount, tally.amount = tally.amount, 0
            if amount:
                self._counters[counter].labels(label).inc(amount)
        for gauge, value in self.gauges.items():
            self._gauges[gauge].set(value)


def exposition(folder: Path) -> bytes:
    """All processes' numbers in Prometheus' text format."""
    from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415
    from prometheus_client.multiprocess import MultiProcessCollector  # noqa: PLC0415

    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(folder))  # type: ignore[no-untyped-call]
    return generate_latest(registry)


def forget_process(folder: Path, pid: int) -> None:
    """Removes an ended process's gauges; its counters stay in the sums."""
    for file in folder.glob(f"gauge_live*_{pid}.db"):
        file.unlink(missing_ok=True)
