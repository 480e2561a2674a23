"""Alerts: each kind of rule, evaluated on samples."""

from __future__ import annotations

from dataclasses import replace

from streamedge.ops.alert_rules import Kind, Rule, Severity
from streamedge.ops.alerts import Alert, Alerts, Samples

NOW_S = 1_800_000_000.0
BASE = Rule("Test", Severity.WARNING, Kind.VALUE, "metric", 5, "It is.", "Do it.")


def metric(value: float, **labels: str) -> Samples:
    return {"metric": {tuple(sorted(labels.items())): value}}


def firing(alerts: list[Alert]) -> list[tuple[str, dict[str, str]]]:
    return [(alert.rule.name, dict(alert.labels)) for alert in alerts]


def test_value_fires_above_the_threshold_and_not_at_it() -> None:
    alerts = Alerts((BASE,))
    assert alerts.update(metric(5, origin="main"), NOW_S) == []
    (alert,) = alerts.update(metric(6, origin="main"), NOW_S + 1)
    assert (dict(alert.labels), alert.value, alert.since_s) == ({"origin": "main"}, 6, NOW_S + 1)
    assert alerts.update(metric(5, origin="main"), NOW_S + 2) == []
    assert alerts.update({}, NOW_S + 3) == []


def test_value_below_the_threshold_fires() -> None:
    alerts = Alerts((replace(BASE, is_below=True),))
    assert alerts.update(metric(5), NOW_S) == []
    assert firing(alerts.update(metric(4), NOW_S)) == [("Test", {})]


def test_alert_fires_after_its_condition_has_held_for_a_while() -> None:
    alerts = Alerts((replace(BASE, for_s=60),))
    assert alerts.update(metric(6), NOW_S) == []
    assert alerts.update(metric(6), NOW_S + 59) == []
    (alert,) = alerts.update(metric(6), NOW_S + 60)
    assert alert.since_s == NOW_S
    alerts.update(metric(1), NOW_S + 61)
    assert alerts.update(metric(6), NOW_S + 62) == []


def test_increase_counts_within_its_window() -> None:
    alerts = Alerts((replace(BASE, kind=Kind.INCREASE, window_s=300),))
    assert alerts.update(metric(1000), NOW_S) == []  # the past of the process is unknown
    assert alerts.update(metric(1005), NOW_S + 100) == []
    assert firing(alerts.update(metric(1006), NOW_S + 200)) == [("Test", {})]
    assert firing(alerts.update(metric(1006), NOW_S + 299)) == [("Test", {})]
    assert alerts.update(metric(1006), NOW_S + 600) == []


def test_counter_that_appears_counts_from_zero() -> None:
    alerts = Alerts((replace(BASE, kind=Kind.INCREASE),))
    alerts.update({}, NOW_S)
    assert firing(alerts.update(metric(6, kind="x"), NOW_S + 1)) == [("Test", {"kind": "x"})]


def test_only_chosen_labels_count() -> None:
    rule = replace(BASE, kind=Kind.INCREASE, chosen=("kind", ("a", "b*")))
    alerts = Alerts((rule,))
    alerts.update({}, NOW_S)
    samples: Samples = {"metric": {(("kind", kind),): 9.0 for kind in ("a", "aa", "b", "bb", "c")}}
    kinds = [labels["kind"] for _name, labels in firing(alerts.update(samples, NOW_S + 1))]
    assert kinds == ["a", "b", "bb"]


def test_share_is_judged_when_there_are_enough() -> None:
    rule = replace(BASE, kind=Kind.SHARE, threshold=0.5, chosen=("status", ("5*",)), count_min=100)
    alerts = Alerts((rule,))
    alerts.update({}, NOW_S)

    def statuses(good: float, bad: float) -> Samples:
        return {"metric": {(("status", "200"),): good, (("status", "503"),): bad}}

    assert alerts.update(statuses(0, 99), NOW_S + 1) == []
    assert alerts.update(statuses(50, 50), NOW_S + 2) == []
    (alert,) = alerts.update(statuses(49, 51), NOW_S + 3)
    assert (alert.labels, alert.value) == ((), 0.51)


def test_ratio_of_two_metrics_with_equal_labels() -> None:
    rule = replace(BASE, kind=Kind.RATIO, divisor="other", threshold=1.1)
    alerts = Alerts((rule,))
    assert alerts.update({**metric(11), "other": {(): 10.0}}, NOW_S) == []
    assert alerts.update({**metric(12), "other": {(): 0.0}}, NOW_S) == []
    assert firing(alerts.update({**metric(12), "other": {(): 10.0}}, NOW_S)) == [("Test", {})]


def test_time_left_is_counted_from_now() -> None:
    rule = replace(BASE, kind=Kind.TIME_LEFT, threshold=100, is_below=True)
    alerts = Alerts((rule,))
    assert alerts.update(metric(NOW_S + 100), NOW_S) == []
    (alert,) = alerts.update(metric(NOW_S + 100), NOW_S + 1)
    assert alert.value == 99


def test_most_severe_and_oldest_alerts_come_first() -> None:
    severe = replace(BASE, name="Severe", severity=Severity.CRITICAL, metric="other")
    alerts = Alerts((BASE, severe))
    alerts.update(metric(9, a="late"), NOW_S)
    samples: Samples = {
        "metric": {(("a", "late"),): 9.0, (("a", "later"),): 9.0},
        "other": {(): 9.0},
    }
    order = firing(alerts.update(samples, NOW_S + 1))
    assert order == [("Severe", {}), ("Test", {"a": "late"}), ("Test", {"a": "later"})]
