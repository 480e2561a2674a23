"""Metrics of several processes, summed."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from streamedge.ops.metrics import (
    LABEL_CHARACTERS_MAX,
    LABEL_PAIRS_MAX,
    LABELS_MAX,
    OTHER,
    Counter,
    Counts,
    Gauge,
    Histogram,
    SharedMetrics,
    State,
    pair,
)


@pytest.fixture
def shared() -> Iterator[SharedMetrics]:
    metrics = SharedMetrics(2)
    yield metrics
    metrics.close()


def count_in_process(shared: SharedMetrics, process: int, number: int) -> None:
    """Counts in a process that ends without a last flush."""
    child = os.fork()
    if child == 0:
        counts = Counts()
        counts.publish_in(shared.part(process))
        counts.add(Counter.SENT_BYTES, "http", 10)
        counts.add(Counter.SENT_BYTES, "http", number)
        counts.add(Counter.SENT_BYTES, "rtmp")
        counts.gauges[Gauge.VIEWERS] = number
        counts.flush()
        counts.flush()
        gathered = counts.gathered(Counter.SENT_BYTES, "http")
        counts.add(Counter.SENT_BYTES, "http", 1000)
        counts.gauges[Gauge.VIEWERS] += 1
        counts.flush()
        counts.add(Counter.SENT_BYTES, "http", 1_000_000)
        os._exit(gathered)
    assert os.waitpid(child, 0)[1] == 0


def exposed(shared: SharedMetrics) -> dict[str, float]:
    """The samples that Prometheus would read, with their values."""
    rows = [row for row in shared.exposition().decode().splitlines() if not row.startswith("#")]
    return {row.rpartition(" ")[0]: float(row.rpartition(" ")[2]) for row in rows}


def test_exposition_sums_all_processes_and_keeps_counters_of_ended_ones(
    shared: SharedMetrics,
) -> None:
    for number in (1, 2):
        count_in_process(shared, number - 1, number)
    both = exposed(shared)
    assert both['streamedge_sent_bytes_total{protocol="http"}'] == 2 * 1010 + 3
    assert both['streamedge_sent_bytes_total{protocol="rtmp"}'] == 2
    assert both["streamedge_viewers"] == 2 + 3

    shared.forget_gauges(0)
    one = exposed(shared)
    assert one['streamedge_sent_bytes_total{protocol="http"}'] == 2 * 1010 + 3
    assert one["streamedge_viewers"] == 3

    shared.forget_gauges(1)
    assert "streamedge_viewers" not in exposed(shared)


def test_replacement_process_continues_the_totals_of_its_predecessor(shared: SharedMetrics) -> None:
    for _life in range(3):
        count_in_process(shared, 0, 1)
    assert exposed(shared)['streamedge_sent_bytes_total{protocol="http"}'] == 3 * 1011


def test_counts_before_publishing_are_not_lost(shared: SharedMetrics) -> None:
    count_in_process(shared, 0, 1)
    counts = Counts()
    counts.add(Counter.SENT_BYTES, "http", 5)
    counts.flush()
    counts.publish_in(shared.part(0))
    counts.flush()
    assert exposed(shared)['streamedge_sent_bytes_total{protocol="http"}'] == 1016


def test_counts_are_gathered_by_counter_and_label() -> None:
    counts = Counts()
    assert counts.gathered(Counter.RESPONSES, "Hit") == 0
    counts.add(Counter.RESPONSES, "Hit")
    counts.add(Counter.RESPONSES, "Hit", 2)
    counts.add(Counter.RESPONSES, "Miss", 5)
    counts.add(Counter.PLAYS, "Hit", 7)
    assert counts.gathered(Counter.RESPONSES, "Hit") == 3
    assert counts.gathered(Counter.RESPONSES, "Miss") == 5
    assert counts.gathered(Counter.PLAYS, "Hit") == 7


def test_labels_are_limited_in_number_and_length(shared: SharedMetrics) -> None:
    counts = Counts()
    counts.publish_in(shared.part(0))
    for number in range(10 * LABELS_MAX):
        counts.add(Counter.ERRORS, f"{number} " + "x" * 100_000)
    counts.add(Counter.ERRORS, f"0 {'x' * 100_000}")  # one of the first is still counted as before
    counts.add(Counter.PLAYS, "Hit")
    counts.flush()
    rows = [row for row in exposed(shared).items() if row[0].startswith("streamedge_errors")]
    assert len(rows) == LABELS_MAX + 1
    assert sum(value for _row, value in rows) == 10 * LABELS_MAX + 1
    assert (f'streamedge_errors_total{{kind="{OTHER}"}}', 9.0 * LABELS_MAX) in rows
    assert max(len(row) for row, _value in rows) < LABEL_CHARACTERS_MAX + 40
    assert exposed(shared)['streamedge_plays_total{cache="Hit"}'] == 1


def test_limit_of_labels_holds_over_restarts(shared: SharedMetrics) -> None:
    for life in range(3):
        counts = Counts()
        counts.publish_in(shared.part(0))
        for number in range(LABELS_MAX):
            counts.add(Counter.ERRORS, f"{life}-{number}")
        counts.flush()
    assert len(exposed(shared)) == LABELS_MAX + 1


def test_counter_with_two_labels(shared: SharedMetrics) -> None:
    counts = Counts()
    counts.publish_in(shared.part(0))
    counts.add(Counter.DISTRIBUTION_RESPONSES, pair("E\t1", "Hit"), 3)
    counts.flush()
    name = 'streamedge_distribution_responses_total{cache="Hit",distribution="E 1"}'
    assert exposed(shared)[name] == 3


def test_pairs_of_labels_are_limited_and_keep_the_second(shared: SharedMetrics) -> None:
    counts = Counts()
    counts.publish_in(shared.part(0))
    for number in range(2 * LABEL_PAIRS_MAX):
        counts.add(Counter.DISTRIBUTION_RESPONSES, pair(f"E{number}", "Hit"))
        counts.histogram(Histogram.FIRST_BYTE, pair(f"E{number}", "Hit")).observe(0.1)
    counts.flush()
    labels = f'cache="Hit",distribution="{OTHER}"'
    rows = exposed(shared)
    assert rows[f"streamedge_distribution_responses_total{{{labels}}}"] == LABEL_PAIRS_MAX
    assert rows[f"streamedge_first_byte_seconds_count{{{labels}}}"] == LABEL_PAIRS_MAX


def test_counter_without_a_count_is_zero(shared: SharedMetrics) -> None:
    counts = Counts()
    counts.publish_in(shared.part(0))
    counts.tally(Counter.ERRORS, "cache_full")
    counts.flush()
    assert exposed(shared)['streamedge_errors_total{kind="cache_full"}'] == 0


def test_histogram_sums_processes_and_lives(shared: SharedMetrics) -> None:
    label = pair("EWEB", "Miss")
    for process in (0, 1, 1):
        counts = Counts()
        counts.publish_in(shared.part(process))
        tally = counts.histogram(Histogram.FIRST_BYTE, label)
        for value in (0.001, 0.002, 3.0, 60.0):
            tally.observe(value)
        counts.flush()
        counts.flush()
    rows = exposed(shared)
    by_bound = {
        name.partition('le="')[2].partition('"')[0]: value
        for name, value in rows.items()
        if name.startswith("streamedge_first_byte_seconds_bucket")
    }
    assert by_bound["0.001"] == 3
    assert by_bound["0.0025"] == 6
    assert by_bound["2.5"] == 6
    assert by_bound["5.0" if "5.0" in by_bound else "5"] == 9
    assert by_bound["+Inf"] == 12
    (count,) = [value for name, value in rows.items() if "seconds_count" in name]
    (total,) = [value for name, value in rows.items() if "seconds_sum" in name]
    assert count == 12
    assert total == pytest.approx(3 * 63.003)


def test_worst_state_of_all_processes_counts_until_the_process_ends(
    shared: SharedMetrics,
) -> None:
    for process, value in enumerate((0, 2)):
        counts = Counts()
        counts.publish_in(shared.part(process))
        counts.set_state(State.ORIGIN, "main", value)
        counts.set_state(State.BREAKER, pair("both", "main"), 1 - process)
        counts.flush()
    rows = exposed(shared)
    assert rows['streamedge_origin_state{origin="main"}'] == 2
    assert rows['streamedge_origin_breaker{group="both",origin="main"}'] == 1
    shared.forget_gauges(1)
    assert exposed(shared)['streamedge_origin_state{origin="main"}'] == 0


def test_states_of_removed_origins_are_dropped(shared: SharedMetrics) -> None:
    counts = Counts()
    counts.publish_in(shared.part(0))
    counts.set_state(State.ORIGIN, "old", 2)
    counts.set_state(State.ORIGIN, "new", 0)
    counts.retain_states(State.ORIGIN, {"new"}.__contains__)
    counts.flush()
    assert shared.values().states == {State.ORIGIN.metric: {"new": 0}}


def test_metric_names_are_unique() -> None:
    names = [each.metric for each in (*Counter, *Gauge, *State, *Histogram)]
    assert len(names) == len(set(names))
    assert all(name.startswith("streamedge_") for name in names)
