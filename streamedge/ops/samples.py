"""A sample: rates between two readings of an edge's metrics, and its gauges."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from streamedge.ops.metrics import Counter, Gauge, MetricValues


def _sum(counter: Counter, *labels: str) -> Callable[[MetricValues], int]:
    """The sum of a counter, over the labels that are named, or over all."""

    def add_up(values: MetricValues) -> int:
        by_label = values.counters.get(counter.metric, {})
        return sum(by_label.get(label, 0) for label in labels or by_label)

    return add_up


def _server_errors(values: MetricValues) -> int:
    by_status = values.counters.get(Counter.STATUSES.metric, {})
    return sum(count for status, count in by_status.items() if status.startswith("5"))


RATES: Mapping[str, Callable[[MetricValues], int]] = {
    "requests": _sum(Counter.RESPONSES),
    "hits": _sum(Counter.RESPONSES, "Hit", "RefreshHit"),
    "server_errors": _server_errors,
    "http_bytes": _sum(Counter.SENT_BYTES, "http"),
    "rtmp_bytes": _sum(Counter.SENT_BYTES, "rtmp"),
    "origin_bytes": _sum(Counter.ORIGIN_BYTES),
    "plays": _sum(Counter.PLAYS),
    "fills": _sum(Counter.FILLS),
    "failed_fills": _sum(Counter.FILLS, "failed"),
    "evicted_bytes": _sum(Counter.EVICTED_BYTES),
}
"""What is counted, per second, by name."""

GAUGES: Mapping[str, Gauge] = {
    "rtmp_viewers": Gauge.VIEWERS,
    "rtmp_connections": Gauge.RTMP_CONNECTIONS,
    "http_connections": Gauge.HTTP_CONNECTIONS,
    "running_fills": Gauge.RUNNING_FILLS,
    "queued_writes": Gauge.QUEUED_WRITES,
    "dead_letters": Gauge.DEAD_LETTERS,
    "cache_bytes": Gauge.CACHE_BYTES,
}
"""Present values, by name."""

FIELDS = (*RATES, *GAUGES)
"""The fields of a sample."""


def rates(before: MetricValues, after: MetricValues, elapsed_s: float) -> dict[str, float]:
    """RATES between two readings, per second. A total that has become smaller counts as 0."""
    return {name: max(0, total(after) - total(before)) / elapsed_s for name, total in RATES.items()}


def gauges(values: MetricValues) -> dict[str, float]:
    """GAUGES now."""
    return {name: values.gauges.get(gauge.metric, 0) for name, gauge in GAUGES.items()}
