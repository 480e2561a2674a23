"""A sample: rates between two readings of an edge's metrics, and its gauges."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from streamedge.ops.metrics import Counter, Gauge, MetricValues, label_values


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

HIT_RESULTS = ("Hit", "RefreshHit")
"""Cache results of responses from the cache."""

DISTRIBUTION_FIELDS = ("requests", "hits", "bytes", "hit_bytes", "plays")

FIELDS = (*RATES, *GAUGES)
"""The fields of a sample."""


def rates(before: MetricValues, after: MetricValues, elapsed_s: float) -> dict[str, float]:
    """RATES between two readings, per second. A total that has become smaller counts as 0."""
    return {name: max(0, total(after) - total(before)) / elapsed_s for name, total in RATES.items()}


def gauges(values: MetricValues) -> dict[str, float]:
    """GAUGES now."""
    return {name: values.gauges.get(gauge.metric, 0) for name, gauge in GAUGES.items()}


def distribution_rates(
    before: MetricValues, after: MetricValues, elapsed_s: float
) -> dict[str, dict[str, float]]:
    """What distributions did between two readings, per second; the most requests first.

    ``requests``, ``hits``, ``bytes`` and ``hit_bytes`` over HTTP, and ``plays``. Distributions that
    did nothing are left out.
    """
    sums: dict[str, dict[str, float]] = {}
    for counter, total, hits in (
        (Counter.DISTRIBUTION_RESPONSES, "requests", "hits"),
        (Counter.DISTRIBUTION_BYTES, "bytes", "hit_bytes"),
        (Counter.DISTRIBUTION_PLAYS, "plays", ""),
    ):
        earlier = before.counters.get(counter.metric, {})
        for label, count in after.counters.get(counter.metric, {}).items():
            rate = max(0, count - earlier.get(label, 0)) / elapsed_s
            if not rate:
                continue
            distribution, result = label_values(label)
            rates_of = sums.setdefault(distribution, dict.fromkeys(DISTRIBUTION_FIELDS, 0.0))
            rates_of[total] += rate
            if hits and result in HIT_RESULTS:
                rates_of[hits] += rate
    return dict(
        sorted(sums.items(), key=lambda one: (-one[1]["requests"] - one[1]["plays"], one[0]))
    )
