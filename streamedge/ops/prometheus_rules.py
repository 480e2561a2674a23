"""Writes the rules of all alerts for Prometheus: the rules, their tests, and a table for people.

An edge cannot notice that it is gone. Prometheus can: the file has one rule more for that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from streamedge.ops.alert_rules import RULES, Kind, Rule, Severity


def promql(rule: Rule) -> str:
    """The rule's condition as an expression of Prometheus."""
    selector = _selector(rule)
    match rule.kind:
        case Kind.VALUE:
            value = f"{rule.metric}{selector}"
        case Kind.TIME_LEFT:
            value = f"{rule.metric}{selector} - time()"
        case Kind.RATIO:
            value = f"{rule.metric} / {rule.divisor}"
        case Kind.INCREASE:
            value = f"increase({rule.metric}{selector}[{_duration(rule.window_s)}])"
        case Kind.SHARE:
            window, by = _duration(rule.window_s), "sum by (job, instance)"
            total = f"{by} (increase({rule.metric}[{window}]))"
            value = f"{by} (increase({rule.metric}{selector}[{window}])) / {total}"
            return f"{value} {_comparison(rule)} and {total} >= {rule.count_min}"
    return f"{value} {_comparison(rule)}"


def _comparison(rule: Rule) -> str:
    return f"{'<' if rule.is_below else '>'} {rule.threshold:.12g}"


def _selector(rule: Rule) -> str:
    if rule.chosen is None:
        return ""
    name, values = rule.chosen
    pattern = "|".join(value.replace("*", ".*") for value in values)
    return f'{{{name}=~"{pattern}"}}'


def _duration(seconds: int) -> str:
    return f"{seconds // 60}m" if seconds % 60 == 0 else f"{seconds}s"


FOLDER = Path(__file__).parent / "prometheus"
GONE = "StreamEdgeGone"
BEGIN, END = "<!-- alerts: begin -->", "<!-- alerts: end -->"  # of the table in the documentation


def rules_file(rules: Iterable[Rule] = RULES) -> str:
    """The rules as a file of Prometheus (YAML). Its job has the name streamedge."""
    lines = [
        "# Alerts on StreamEdge. Generated from streamedge/ops/alerts.py: do not edit.",
        "groups:",
        "  - name: streamedge",
        "    rules:",
        f"      - alert: {GONE}",
        '        expr: up{job="streamedge"} == 0',
        "        for: 1m",
        *_annotations(
            Severity.CRITICAL,
            "The edge does not answer on its admin address.",
            "Start it, or check the network between it and Prometheus.",
        ),
    ]
    for rule in rules:
        lines += [f"      - alert: {rule.name}", f"        expr: {promql(rule)}"]
        if rule.for_s:
            lines.append(f"        for: {_duration(rule.for_s)}")
        lines += _annotations(rule.severity, rule.summary, rule.advice)
    return "\n".join(lines) + "\n"


def _annotations(severity: Severity, summary: str, advice: str) -> list[str]:
    return [
        "        labels:",
        f"          severity: {severity.value}",
        "        annotations:",
        f'          summary: "{summary}"',
        f'          description: "{advice}"',
    ]


def rules_table(rules: Iterable[Rule] = RULES) -> str:
    """The rules as a table of Markdown."""
    rows = ["| Alert | Condition | Meaning, and what to do |", "|---|---|---|"]
    for rule in rules:
        condition = promql(rule).replace("|", "\\|")
        lasting = f", for {_duration(rule.for_s)}" if rule.for_s else ""
        name = f"{rule.name} ({rule.severity.value})"
        rows.append(f"| {name} | `{condition}`{lasting} | {rule.summary} {rule.advice} |")
    return "\n".join(rows)


# Tests of the rules, for ``promtool test rules``: an edge for which each alert fires, and one whose
# values are just not enough.

_INTERVAL_S = 15
_SAMPLES = 120
_RISE_S = 5 * _INTERVAL_S  # counters rise after so many seconds
_EDGES = ("fires", "quiet")


def rules_test_file(rules: Iterable[Rule] = RULES) -> str:
    """A test of each rule (YAML)."""
    lines = [
        "# Tests of rules.yml. Generated from streamedge/ops/prometheus_rules.py: do not edit.",
        "rule_files:",
        "  - rules.yml",
        f"evaluation_interval: {_INTERVAL_S}s",
        "tests:",
    ]
    for rule in rules:
        lines += [f"  - interval: {_INTERVAL_S}s", f"    name: {rule.name}", "    input_series:"]
        for series, values in _series(rule):
            lines += [f"      - series: '{series}'", f'        values: "{values}"']
        before_s = rule.for_s - 2 * _INTERVAL_S if rule.for_s else None
        if rule.kind is Kind.INCREASE:
            before_s = _RISE_S - _INTERVAL_S
        lines.append("    alert_rule_test:")
        if before_s is not None and before_s > 0:
            lines += [f"      - eval_time: {before_s}s", f"        alertname: {rule.name}"]
        lines += [
            f"      - eval_time: {rule.for_s + 240}s",
            f"        alertname: {rule.name}",
            "        exp_alerts:",
            "          - exp_labels:",
            *(f"              {name}: {value}" for name, value in _fired_labels(rule).items()),
            "            exp_annotations:",
            f'              summary: "{rule.summary}"',
            f'              description: "{rule.advice}"',
        ]
    return "\n".join(lines) + "\n"


def _fired_labels(rule: Rule) -> dict[str, str]:
    labels = {"severity": rule.severity.value, "job": "streamedge", "instance": "fires"}
    if rule.chosen is not None and rule.kind is not Kind.SHARE:
        labels[rule.chosen[0]] = rule.chosen[1][0]
    return labels


def _series(rule: Rule) -> Iterator[tuple[str, str]]:
    """Series of Prometheus and their values, in promtool's notation."""
    past = 1 if not rule.is_below else -1
    for edge in _EDGES:
        fires = edge == "fires"
        label, values = rule.chosen or ("", ("",))
        chosen = f',{label}="{values[0]}"' if label else ""
        series = f'{rule.metric}{{job="streamedge",instance="{edge}"{chosen}}}'
        match rule.kind:
            case Kind.VALUE:
                yield series, _constant(rule.threshold + past * fires)
            case Kind.TIME_LEFT:
                yield series, _constant(rule.threshold + (-past if not fires else past) * 3600)
            case Kind.RATIO:
                yield series, _constant(1000 * rule.threshold + past * fires)
                yield series.replace(rule.metric, rule.divisor), _constant(1000)
            case Kind.INCREASE:
                zeros = _RISE_S // _INTERVAL_S - 1
                rise = 2 * rule.threshold + 2 if fires else 0
                yield series, f"0+0x{zeros} {rise:g}+0x{_SAMPLES - zeros}"
            case Kind.SHARE:
                yield series.replace("*", "03"), f"0+{10 * fires}x{_SAMPLES}"
                yield series.replace(chosen, f',{label}="200"'), f"0+50x{_SAMPLES}"


def _constant(value: float) -> str:
    return f"{value:.12g}+0x{_SAMPLES}"
