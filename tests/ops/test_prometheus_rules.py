"""The rules of Prometheus come from the table of alerts, and promtool accepts and tests them."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from streamedge.ops.alert_rules import RULES, Kind, Rule, Severity
from streamedge.ops.metrics import Counter, Gauge
from streamedge.ops.prometheus_rules import (
    BEGIN,
    END,
    FOLDER,
    GONE,
    promql,
    rules_file,
    rules_table,
    rules_test_file,
)
from tests.support.patience import PATIENCE_S

BASE = Rule("Test", Severity.WARNING, Kind.VALUE, "metric", 5, "It is.", "Do it.")


def test_names_of_rules_are_unique() -> None:
    names = [rule.name for rule in RULES]
    assert len(names) == len(set(names))
    assert GONE not in names


def test_rules_name_metrics_of_the_edge() -> None:
    counters = {f"{counter.metric}_total" for counter in Counter}
    gauges = {gauge.metric for gauge in Gauge}
    page = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"
    documented = page.read_text()
    for rule in RULES:
        assert f"| `{rule.metric}` |" in documented
        if rule.kind in {Kind.INCREASE, Kind.SHARE}:
            assert rule.metric in counters | {"streamedge_process_ends_total"}
        if rule.divisor:
            assert rule.divisor in gauges


def test_file_for_prometheus_comes_from_the_table() -> None:
    text = (FOLDER / "rules.yml").read_text()
    assert text == rules_file(), "run `make reference`"
    for rule in RULES:
        assert f"alert: {rule.name}\n        expr: {promql(rule)}\n" in text


def test_page_of_monitoring_has_the_table() -> None:
    page = Path(__file__).parents[2] / "docs" / "operations" / "monitoring.md"
    between = page.read_text().partition(BEGIN)[2].partition(END)[0]
    assert between.strip() == rules_table(), "run `make reference`"


def promtool(*arguments: str | Path) -> None:
    completed = subprocess.run(
        ["promtool", *arguments], capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr


def test_promtool_accepts_the_rules() -> None:
    promtool("check", "rules", "--lint-fatal", FOLDER / "rules.yml")


@pytest.mark.parametrize("threshold", [0.05, 1, 86_400, 1_209_600, 1e12])
def test_thresholds_are_written_in_full(threshold: float) -> None:
    text = promql(replace(BASE, threshold=threshold))
    assert float(text.rpartition(" ")[2]) == threshold


def test_promtool_tests_each_rule() -> None:
    text = (FOLDER / "rules_test.yml").read_text()
    assert text == rules_test_file(), "run `make reference`"
    assert all(f"name: {rule.name}\n" in text for rule in RULES)
    promtool("test", "rules", FOLDER / "rules_test.yml")
