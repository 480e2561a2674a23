"""Metrics for Prometheus: plain integers on hot paths, flushed once a second.

Each process counts into its own ``Counts``; ``flush`` writes totals and gauges into its part of the
``SharedMetrics``, whose ``exposition`` sums all parts. A replacement process continues from the
totals of its predecessor, so a killed process loses only the counts since its last flush.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from streamedge.ops.shared_buffer import SharedBuffer

if TYPE_CHECKING:
    from prometheus_client import Metric

LABELS_MAX = 256  # of one counter: clients must not create labels without limit
LABEL_PAIRS_MAX = 1024  # of a counter or histogram with two labels
LABEL_CHARACTERS_MAX = 128
OTHER = "other"
_SEPARATOR = "\t"  # between the values of two labels

MetricSource: TypeAlias = "Callable[[], Iterable[Metric]]"
"""Returns metrics that only one process has."""

_Totals = dict[str, dict[str, int]]
"""Counts since the edge was started, by metric and label."""


class Counter(Enum):
    """The counters: name without ``_total``, labels and description.

    A counter with two labels is counted by ``pair`` of their values.
    """

    __hash__ = object.__hash__  # as for Gauge

    def __init__(self, metric: str, labels: str, description: str) -> None:
        self.metric = metric
        self.labels = tuple(labels.split(","))
        self.description = description

    SENT_BYTES = ("streamedge_sent_bytes", "protocol", "Bytes sent to viewers out of the cache")
    ORIGIN_BYTES = ("streamedge_origin_bytes", "origin", "Body bytes read from origins and peers")
    RESPONSES = ("streamedge_responses", "cache", "HTTP responses by cache result")
    DISTRIBUTION_RESPONSES = (
        "streamedge_distribution_responses",
        "distribution,cache",
        "HTTP responses by distribution and cache result",
    )
    DISTRIBUTION_BYTES = (
        "streamedge_distribution_bytes",
        "distribution,cache",
        "Bytes of HTTP responses by distribution and cache result",
    )
    DISTRIBUTION_PLAYS = (
        "streamedge_distribution_plays",
        "distribution,cache",
        "RTMP plays by distribution and cache result",
    )
    STATUSES = ("streamedge_statuses", "status", "HTTP responses by status code")
    PLAYS = ("streamedge_plays", "cache", "RTMP plays by cache result")
    ORIGIN_REQUESTS = (
        "streamedge_origin_requests",
        "origin,result",
        "Requests to origins by result: answered, error_status, refused, timeout, broken",
    )
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
        "role,result",
        "Requests between the edges of a fleet by this edge's role (child, parent) and result",
    )
    PEER_BYTES = (
        "streamedge_peer_bytes",
        "role,result",
        "Bytes of these requests: bodies received as a child, responses sent as a parent",
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
    EDGE_REDIRECTS = (
        "streamedge_edge_redirects",
        "edge,protocol",
        "Viewers' requests that were redirected to a nearer edge",
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


class State(Enum):
    """States by label: the largest value of all processes counts."""

    __hash__ = object.__hash__

    def __init__(self, metric: str, labels: str, description: str) -> None:
        self.metric = metric
        self.labels = tuple(labels.split(","))
        self.description = description

    ORIGIN = (
        "streamedge_origin_state",
        "origin",
        "Whether requests to an origin are answered: 0 is up, 2 is down",
    )
    BREAKER = (
        "streamedge_origin_breaker",
        "group,origin",
        "Circuit breaker of an origin in a group: 0 is closed, 1 half open, 2 open",
    )


class Histogram(Enum):
    """The histograms: name, two labels, upper bounds of the buckets, description."""

    __hash__ = object.__hash__

    def __init__(
        self, metric: str, labels: str, bounds: tuple[float, ...], description: str
    ) -> None:
        self.metric = metric
        self.labels = tuple(labels.split(","))
        self.bounds = bounds
        self.description = description

    FIRST_BYTE = (
        "streamedge_first_byte_seconds",
        "distribution,cache",
        (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
        "Time from an HTTP request to the first byte of its response",
    )


def pair(first: str, second: str) -> str:
    """The label of a metric with two labels; a tab in a value becomes a space."""
    return f"{first.replace(_SEPARATOR, ' ')}{_SEPARATOR}{second.replace(_SEPARATOR, ' ')}"


def label_values(label: str) -> list[str]:
    """The values of the labels of a metric with several; see ``pair``."""
    return label.split(_SEPARATOR)


class Tally:
    """One counter with one label, for direct counting on hot paths."""

    __slots__ = ("amount",)

    def __init__(self) -> None:
        self.amount = 0


class HistogramTally:
    """One histogram with its labels: observations by bucket, and their sum."""

    __slots__ = ("_bounds", "buckets", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.buckets = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Adds an observation."""
        self.buckets[bisect_left(self._bounds, value)] += 1
        self.sum += value


class Counts:
    """The metrics of one process."""

    __slots__ = (
        "_histograms",
        "_labels",
        "_last_text",
        "_part",
        "_states",
        "_tallies",
        "_totals",
        "gauges",
    )

    def __init__(self) -> None:
        self._tallies: dict[tuple[str, str], Tally] = {}
        self._labels: dict[str, int] = {}  # how many a counter has
        self.gauges: dict[Gauge, int] = {}
        self._states: dict[str, dict[str, int]] = {}
        self._histograms: dict[tuple[str, str], HistogramTally] = {}
        self._totals: _Totals = {}
        self._part: SharedBuffer | None = None
        self._last_text = b""

    def tally(self, counter: Counter, label: str) -> Tally:
        """The tally of ``counter`` with ``label``; always the same object.

        A counter has at most LABELS_MAX labels of LABEL_CHARACTERS_MAX characters; further labels
        are counted as OTHER. Of two labels, LABEL_PAIRS_MAX pairs; then the first one is OTHER.
        """
        tally = self._tallies.get((counter.metric, label))
        if tally is not None:
            return tally
        label = self._bounded(counter, label, self._tallies)
        tally = self._tallies.get((counter.metric, label))
        if tally is None:
            tally = self._tallies[counter.metric, label] = Tally()
            self._labels[counter.metric] = self._labels.get(counter.metric, 0) + 1
        return tally

    def histogram(self, histogram: Histogram, label: str) -> HistogramTally:
        """The tally of ``histogram`` with a ``pair`` of labels; limited as that of a counter."""
        label = self._bounded(histogram, label, self._histograms)
        tally = self._histograms.get((histogram.metric, label))
        if tally is None:
            tally = self._histograms[histogram.metric, label] = HistogramTally(histogram.bounds)
            self._labels[histogram.metric] = self._labels.get(histogram.metric, 0) + 1
        return tally

    def _bounded(
        self,
        metric: Counter | Histogram,
        label: str,
        present: Mapping[tuple[str, str], object],
    ) -> str:
        if len(metric.labels) == 1:
            values, limit = [label.replace(_SEPARATOR, " ")], LABELS_MAX
        else:
            values, limit = label.split(_SEPARATOR), LABEL_PAIRS_MAX
        values = [value[:LABEL_CHARACTERS_MAX] for value in values]
        label = _SEPARATOR.join(values)
        if (metric.metric, label) in present or self._labels.get(metric.metric, 0) < limit:
            return label
        return _SEPARATOR.join((OTHER, *values[1:]))

    def set_state(self, state: State, label: str, value: int) -> None:
        """Sets the value of a state here. As with gauges, the next flush publishes it."""
        self._states.setdefault(state.metric, {})[label] = value

    def retain_states(self, state: State, is_retained: Callable[[str], bool]) -> None:
        """Removes the labels for which ``is_retained`` is false."""
        labels = self._states.get(state.metric, {})
        self._states[state.metric] = {
            label: value for label, value in labels.items() if is_retained(label)
        }

    def add(self, counter: Counter, label: str, amount: int = 1) -> None:
        """Adds ``amount`` to ``counter`` with ``label``."""
        self.tally(counter, label).amount += amount

    def gathered(self, counter: Counter, label: str) -> int:
        """The count since the last flush."""
        return self.tally(counter, label).amount

    def publish_in(self, part: SharedBuffer) -> None:
        """Makes ``flush`` write into ``part``, and continues from its totals."""
        self._part = part
        self._totals = _read(part).counters
        counters = {counter.metric for counter in Counter}
        for metric in self._totals.keys() & counters:
            for label in self._totals[metric]:
                self._tallies.setdefault((metric, label), Tally())
        for metric, _label in self._tallies:
            self._labels[metric] = 0
        for metric, _label in self._tallies:
            self._labels[metric] += 1

    def flush(self) -> None:
        """Writes totals, gauges and states to shared memory. Raises OSError.

        A tally without a count is written as 0, so that its first count is an increase.
        """
        if self._part is None:
            return
        for (metric, label), tally in self._tallies.items():
            amount, tally.amount = tally.amount, 0
            labels = self._totals.setdefault(metric, {})
            labels[label] = labels.get(label, 0) + amount
        for (metric, label), histogram in self._histograms.items():
            buckets, histogram.buckets = histogram.buckets, [0] * len(histogram.buckets)
            sum_us, histogram.sum = round(histogram.sum * 1e6), 0.0
            labels = self._totals.setdefault(metric, {})
            for place, amount in enumerate((*buckets, sum_us)):
                if amount:
                    key = f"{label}{_SEPARATOR}{place}"
                    labels[key] = labels.get(key, 0) + amount
        gauges = {gauge.metric: value for gauge, value in self.gauges.items()}
        text = json.dumps([self._totals, gauges, self._states]).encode()
        if text != self._last_text:
            self._part.write(text)
            self._last_text = text


class MetricValues(NamedTuple):
    """The metrics of a process, or of all.

    Counters by metric and label; gauges by metric; states by metric and label. A histogram is
    among the counters: its labels have the number of the bucket as a third value, behind the last
    one comes the sum in microseconds.
    """

    counters: _Totals
    gauges: dict[str, int]
    states: _Totals


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
        """Removes an ended process's gauges and states; its counters stay. Raises OSError."""
        values = _read(self._parts[process])
        if values.gauges or values.states:
            self._parts[process].write(json.dumps([values.counters, {}, {}]).encode())

    def gauge(self, gauge: Gauge) -> int:
        """The sum of a gauge over all processes."""
        return sum(_read(part).gauges.get(gauge.metric, 0) for part in self._parts)

    def values(self) -> MetricValues:
        """The values of all counters and gauges. Raises OSError."""
        return _sums(map(_read, self._parts))

    def metrics(self) -> Iterator[Metric]:
        """The metrics of all processes."""
        return _families(self.values())

    def exposition(self, more: Iterable[Metric] = ()) -> bytes:
        """The metrics of all processes, and ``more``, in the text format of Prometheus."""
        from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415

        registry = CollectorRegistry()
        registry.register(_Collected([*self.metrics(), *more]))
        return generate_latest(registry)

    def close(self) -> None:
        for part in self._parts:
            part.close()


def fold_totals(parts: Iterable[SharedBuffer]) -> SharedBuffer:
    """A part with the sums of the counters of processes that have ended. Raises OSError."""
    counters = _sums(map(_read, parts)).counters
    folded = SharedBuffer("streamedge-metrics")
    folded.write(json.dumps(MetricValues(counters, {}, {})).encode())
    return folded


class _Collected:
    """A collector of given metrics, for prometheus-client."""

    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families


def _read(part: SharedBuffer) -> MetricValues:
    text = part.read()
    return MetricValues(*json.loads(text)) if text else MetricValues({}, {}, {})


def _sums(parts: Iterable[MetricValues]) -> MetricValues:
    sums = MetricValues({}, {}, {})
    for part in parts:
        for metric, labels in part.counters.items():
            totals = sums.counters.setdefault(metric, {})
            for label, amount in labels.items():
                totals[label] = totals.get(label, 0) + amount
        for metric, value in part.gauges.items():
            sums.gauges[metric] = sums.gauges.get(metric, 0) + value
        for metric, labels in part.states.items():
            worst = sums.states.setdefault(metric, {})
            for label, value in labels.items():
                worst[label] = max(worst.get(label, 0), value)
    return sums


def _families(values: MetricValues) -> Iterator[Metric]:
    """The metrics for Prometheus; those without values are omitted."""
    from prometheus_client.core import (  # noqa: PLC0415
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )

    for counter in Counter:
        if labels := values.counters.get(counter.metric):
            family = CounterMetricFamily(counter.metric, counter.description, labels=counter.labels)
            for label, amount in sorted(labels.items()):
                family.add_metric(label_values(label), amount)
            yield family
    for gauge in Gauge:
        if gauge.metric in values.gauges:
            yield GaugeMetricFamily(gauge.metric, gauge.description, values.gauges[gauge.metric])
    for state in State:
        if labels := values.states.get(state.metric):
            states = GaugeMetricFamily(state.metric, state.description, labels=state.labels)
            for label, value in sorted(labels.items()):
                states.add_metric(label_values(label), value)
            yield states
    for histogram in Histogram:
        if labels := values.counters.get(histogram.metric):
            histograms = HistogramMetricFamily(
                histogram.metric, histogram.description, labels=histogram.labels
            )
            for label, (buckets, sum_s) in sorted(_histograms(histogram, labels).items()):
                histograms.add_metric(label_values(label), buckets, sum_s)
            yield histograms


def _histograms(
    histogram: Histogram, labels: Mapping[str, int]
) -> dict[str, tuple[list[tuple[str, float]], float]]:
    """By label: the cumulative counts with their bounds, and the sum in seconds."""
    counts: dict[str, list[int]] = {}
    bounds = [*map(str, histogram.bounds), "+Inf"]
    for key, amount in labels.items():
        label, _, place = key.rpartition(_SEPARATOR)
        counts.setdefault(label, [0] * (len(bounds) + 1))[int(place)] = amount
    return {
        label: (list(zip(bounds, accumulate(amounts[:-1]), strict=True)), amounts[-1] / 1e6)
        for label, amounts in counts.items()
    }
