"""Samples: rates between two readings of the metrics, and gauges."""

from __future__ import annotations

from streamedge.ops.metrics import Counter, Gauge, MetricValues, pair
from streamedge.ops.samples import FIELDS, distribution_rates, gauges, rates


def reading(**counters: dict[str, int]) -> MetricValues:
    return MetricValues({Counter[name].metric: labels for name, labels in counters.items()}, {}, {})


def test_rates_are_differences_per_second() -> None:
    before = reading(RESPONSES={"Hit": 10, "Miss": 2}, STATUSES={"200": 12})
    after = reading(
        RESPONSES={"Hit": 30, "Miss": 2, "RefreshHit": 4, "Error": 4},
        STATUSES={"200": 32, "502": 3, "503": 1, "404": 4},
        SENT_BYTES={"http": 1000, "rtmp": 500},
        FILLS={"complete": 5, "failed": 1},
    )
    rate = rates(before, after, 2.0)
    assert rate["requests"] == 14.0
    assert rate["hits"] == 12.0
    assert rate["server_errors"] == 2.0
    assert (rate["http_bytes"], rate["rtmp_bytes"]) == (500.0, 250.0)
    assert (rate["fills"], rate["failed_fills"]) == (3.0, 0.5)


def test_total_that_became_smaller_counts_as_nothing() -> None:
    rate = rates(reading(PLAYS={"Hit": 5}), reading(PLAYS={"Hit": 2}), 1.0)
    assert rate["plays"] == 0


def test_gauge_without_a_value_is_zero() -> None:
    present = gauges(MetricValues({}, {Gauge.VIEWERS.metric: 3}, {}))
    assert present["rtmp_viewers"] == 3
    assert present["queued_writes"] == 0


def test_fields_of_a_sample_have_unique_names() -> None:
    assert len(FIELDS) == len(set(FIELDS))


def test_rates_of_distributions_are_sorted_by_use() -> None:
    before = reading(DISTRIBUTION_RESPONSES={pair("EOLD", "Hit"): 5, pair("EWEB", "Hit"): 10})
    after = reading(
        DISTRIBUTION_RESPONSES={
            pair("EOLD", "Hit"): 5,
            pair("EWEB", "Hit"): 30,
            pair("EWEB", "RefreshHit"): 2,
            pair("EWEB", "Miss"): 8,
        },
        DISTRIBUTION_BYTES={pair("EWEB", "Hit"): 1000, pair("EWEB", "Miss"): 500},
        DISTRIBUTION_PLAYS={pair("ESTREAM", "Miss"): 4},
    )
    assert distribution_rates(before, after, 2.0) == {
        "EWEB": {"requests": 15.0, "hits": 11.0, "bytes": 750.0, "hit_bytes": 500.0, "plays": 0.0},
        "ESTREAM": {"requests": 0.0, "hits": 0.0, "bytes": 0.0, "hit_bytes": 0.0, "plays": 2.0},
    }
