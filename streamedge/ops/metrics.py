"""Metrics for Prometheus: plain integers on hot paths, flushed once a second.

Each process counts into its own ``Counts``; ``flush`` writes totals and gauges into its part of the
``SharedMetrics``, whose ``exposition`` sums all parts. A replacement process continues from the
totals of its predecessor, so a killed process loses only the counts since its last flush.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from streamedge.ops.shared_buffer import SharedBuffer

if TYPE_CHECKING:
    from prometheus_client import Metric

LABELS_MAX = 256  # of one counter: clients must not create labels without limit
LABEL_CHARACTERS_MAX = 128
OTHER = "other"

MetricSource: TypeAlias = "Callable[[], Iterable[Metric]]"
"""Returns metrics that only one process has."""

_Totals = dict[str, dict[str, int]]
"""Counts since the edge was started, by metric and label."""


class Counter(Enum):
    """The counters: name without ``_total``, label and description."""

    def __init__(self, metric: str, label: str, description: str) -> None:
        self.metric = metric
        self.label = label
        self.description = description

    SENT_BYTES = ("streamedge_sent_bytes", "protocol", "Bytes sent to viewers out of the cache")
    ORIGIN_BYTES = ("streamedge_origin_bytes", "origin", "Body bytes read from origins and peers")
    RESPONSES = ("streamedge_responses", "cache", "HTTP responses by cache result")
    STATUSES = ("streamedge_statuses", "status", "HTTP responses by status code")
    PLAYS = ("streamedge_plays", "cache", "RTMP plays by cache result")
    FILLS = ("streamedge_fills", "outcome", "Reads from origins by how they ended")
    EVICTIONS = ("streamedge_evicted_files", "kind", "Cache files removed to free space")
    EVICTED_BYTES = ("streamedge_evicted_bytes", "kind", "Disk space of cache files removed")
    FAILOVERS = (
        "streamedge_failovers",
        "origin",
        "Requests sent to another origin of a group after a failure",
    )
    OUTAGES = ("streamedge_outages", "origin", "Times an origin of a group was marked down")
    LATE_SENDS = ("streamedge_late_sends", "protocol", "Media sent later than it was due")
    PEER_REQUESTS = (
        "streamedge_peer_requests",
        "result",
        "Requests between the edges of a fleet by side (sent, received) and result",
    )
    PEER_BYTES = (
        "streamedge_peer_bytes",
        "side",
        "Body bytes between the edges of a fleet, sent and received",
    )
    PENDING_READS = (
        "streamedge_pending_reads",
        "result",
        "Reads of objects whose queued write another edge holds: read, ended, unreachable",
    )
    ORIGIN_BYPASSES = (
        "streamedge_origin_bypasses",
        "reason",
        "Requests that went to the origin because no other edge of the tier answered",
    )
    ERRORS = ("streamedge_errors", "kind", "Failures by kind")
    REPLICATIONS = (
        "streamedge_replications",
        "outcome",
        "Attempts to send queued writes to their origin by how they ended",
    )
    SERVICE_FAILURES = (
        "streamedge_service_failures",
        "service",
        "Background services that failed and were started again",
    )
    LOG_LINES_DROPPED = (
        "streamedge_log_lines_dropped",
        "process",
        "Log lines that could not be written in time",
    )
    ACCESS_LOG_FILES = (
        "streamedge_access_log_files",
        "outcome",
        "Files of access logs sent to their origin by how that ended",
    )
    ACCESS_LOG_LINES_DROPPED = (
        "streamedge_access_log_lines_dropped",
        "reason",
        "Lines of access logs dropped: no memory, no disk space, or limits.log_spool was reached",
    )
    WORKER_STARTS = ("streamedge_worker_starts", "process", "Processes started")


class Gauge(Enum):
    """The gauges: current values, summed over running processes."""

    __hash__ = object.__hash__  # Enum's is a call of Python code for each use as a key

    def __init__(self, metric: str, description: str) -> None:
        self.metric = metric
        self.description = description

    VIEWERS = ("streamedge_viewers", "RTMP clients that play now")
    RTMP_CONNECTIONS = ("streamedge_rtmp_connections", "Open RTMP connections")
    HTTP_CONNECTIONS = ("streamedge_http_connections", "Open HTTP connections")
    OPEN_EXTENTS = ("streamedge_open_extents", "Cache files open")
    RUNNING_FILLS = ("streamedge_running_fills", "Reads from origins that run now")
    QUEUED_WRITES = ("streamedge_queued_writes", "Queued writes that are not at their origin yet")
    DEAD_LETTERS = (
        "streamedge_dead_letters",
        "Dead letters: queued writes that their origin refused",
    )
    QUEUED_WRITE_BYTES = (
        "streamedge_queued_write_bytes",
        "Bytes of queued writes on this edge",
    )
    UNREMOVABLE_FILES = (
        "streamedge_unremovable_files",
        "Cache files that could not be removed or read in the last scan",
    )
    CACHE_BYTES = ("streamedge_cache_bytes", "Disk space that the cache uses")
    ACCESS_LOG_SPOOL_BYTES = (
        "streamedge_access_log_spool_bytes",
        "Bytes of access logs that are not at their origin yet",
    )
    ACCESS_LOG_LAG_S = (
        "streamedge_access_log_lag_seconds",
        "How long the oldest file of an access log has been due",
    )
    CACHE_LIMIT_BYTES = ("streamedge_cache_limit_bytes", "Disk space that the cache may use")


class Tally:
    """One counter with one label, for direct counting on hot paths."""

    __slots__ = ("amount",)

    def __init__(self) -> None:
        self.amount = 0


class Counts:
    """The metrics of one process."""

    __slots__ = ("_labels", "_last_text", "_part", "_tallies", "_totals", "gauges")

    def __init__(self) -> None:
        self._tallies: dict[tuple[str, str], Tally] = {}
        self._labels: dict[str, int] = {}  # how many a counter has
        self.gauges: dict[Gauge, int] = {}
        self._totals: _Totals = {}
        self._part: SharedBuffer | None = None
        self._last_text = b""

    def tally(self, counter: Counter, label: str) -> Tally:
        """The tally of ``counter`` with ``label``; always the same object.

        A counter has at most LABELS_MAX labels of LABEL_CHARACTERS_MAX characters; further labels
        are counted as OTHER.
        """
        tally = self._tallies.get((counter.metric, label))
        if tally is not None:
            return tally
        label = label[:LABEL_CHARACTERS_MAX]
        count = self._labels.get(counter.metric, 0)
        if (counter.metric, label) not in self._tallies and count >= LABELS_MAX:
            label = OTHER
        tally = self._tallies.get((counter.metric, label))
        if tally is None:
            tally = self._tallies[counter.metric, label] = Tally()
            self._labels[counter.metric] = count + 1
        return tally

    def add(self, counter: Counter, label: str, amount: int = 1) -> None:
        """Adds ``amount`` to ``counter`` with ``label``."""
        self.tally(counter, label).amount += amount

    def gathered(self, counter: Counter, label: str) -> int:
        """The count since the last flush."""
        return self.tally(counter, label).amount

    def publish_in(self, part: SharedBuffer) -> None:
        """Makes ``flush`` write into ``part``, and continues from its totals."""
        self._part = part
        self._totals = _read(part)[0]
        for metric, labels in self._totals.items():
            for label in labels:
                self._tallies.setdefault((metric, label), Tally())
        for metric, _label in self._tallies:
            self._labels[metric] = 0
        for metric, _label in self._tallies:
            self._labels[metric] += 1

    def flush(self) -> None:
        """Writes totals and gauges to shared memory. Raises OSError."""
        if self._part is None:
            return
        for (metric, label), tally in self._tallies.items():
            amount, tally.amount = tally.amount, 0
            if amount:
                labels = self._totals.setdefault(metric, {})
                labels[label] = labels.get(label, 0) + amount
        gauges = {gauge.metric: value for gauge, value in self.gauges.items()}
        text = json.dumps([self._totals, gauges]).encode()
        if text != self._last_text:
            self._part.write(text)
            self._last_text = text


class MetricValues(NamedTuple):
    """The sums over all processes: counters by metric and label, gauges by metric."""

    counters: _Totals
    gauges: dict[str, int]


class SharedMetrics:
    """The metrics of all processes of an edge: one part for each, which its successor inherits.

    Created before the processes are forked. It is memory only: it needs no folder.
    """

    def __init__(self, processes: int, earlier: Sequence[SharedBuffer] = ()) -> None:
        """``earlier``: parts of processes from before an upgrade, which may still write them."""
        own = [SharedBuffer("streamedge-metrics") for _ in range(processes)]
        self._parts = [*own, *earlier]

    def parts(self) -> list[SharedBuffer]:
        """All parts: those of the processes by number, then the earlier ones."""
        return list(self._parts)

    def part(self, process: int) -> SharedBuffer:
        """The part that a process writes."""
        return self._parts[process]

    def forget_gauges(self, process: int) -> None:
        """Removes an ended process's gauges; its counters stay in the sums. Raises OSError."""
        totals, gauges = _read(self._parts[process])
        if gauges:
            self._parts[process].write(json.dumps([totals, {}]).encode())

    def gauge(self, gauge: Gauge) -> int:
        """The sum of a gauge over all processes."""
        return sum(_read(part)[1].get(gauge.metric, 0) for part in self._parts)

    def values(self) -> MetricValues:
        """The values of all counters and gauges. Raises OSError."""
        return _sums(map(_read, self._parts))

    def exposition(self, more: Iterable[Metric] = ()) -> bytes:
        """The metrics of all processes, and ``more``, in the text format of Prometheus."""
        from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415

        registry = CollectorRegistry()
        registry.register(_Collected([*_families(self.values()), *more]))
        return generate_latest(registry)

    def close(self) -> None:
        for part in self._parts:
            part.close()


def fold_totals(parts: Iterable[SharedBuffer]) -> SharedBuffer:
    """A part with the sums of the counters of processes that have ended. Raises OSError."""
    totals: _Totals = {}
    for part in parts:
        for metric, labels in _read(part)[0].items():
            into = totals.setdefault(metric, {})
            for label, amount in labels.items():
                into[label] = into.get(label, 0) + amount
    folded = SharedBuffer("streamedge-metrics")
    folded.write(json.dumps([totals, {}]).encode())
    return folded


class _Collected:
    """A collector of given metrics, for prometheus-client."""

    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families


def _read(part: SharedBuffer) -> tuple[_Totals, dict[str, int]]:
    text = part.read()
    if not text:
        return {}, {}
    totals, gauges = json.loads(text)
    return totals, gauges


def _sums(parts: Iterable[tuple[_Totals, dict[str, int]]]) -> MetricValues:
    counters: _Totals = {}
    gauges: dict[str, int] = {}
    for counted, measured in parts:
        for metric, labels in counted.items():
            sums = counters.setdefault(metric, {})
            for label, amount in labels.items():
                sums[label] = sums.get(label, 0) + amount
        for metric, value in measured.items():
            gauges[metric] = gauges.get(metric, 0) + value
    return MetricValues(counters, gauges)


def _families(values: MetricValues) -> Iterator[Metric]:
    """The metrics for Prometheus; those without values are omitted."""
    from prometheus_client.core import (  # noqa: PLC0415
        CounterMetricFamily,
        GaugeMetricFamily,
    )

    for counter in Counter:
        labels = values.counters.get(counter.metric)
        if not labels:
            continue
        family = CounterMetricFamily(counter.metric, counter.description, labels=[counter.label])
        for label, amount in sorted(labels.items()):
            family.add_metric([label], amount)
        yield family
    for gauge in Gauge:
        if gauge.metric in values.gauges:
            yield GaugeMetricFamily(gauge.metric, gauge.description, values.gauges[gauge.metric])
