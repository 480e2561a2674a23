"""Evaluates the rules of ``alert_rules`` on the edge's own metrics.

``prometheus_rules`` writes the same table for Prometheus, so both have the same thresholds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from streamedge.ops.alert_rules import RULES, Kind, Rule, Severity

Labels = tuple[tuple[str, str], ...]
"""Names and values of labels, sorted."""

Samples = Mapping[str, Mapping[Labels, float]]
"""Values by the name of the metric and by labels."""


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert that fires. ``since_s``: when its condition began to hold."""

    rule: Rule
    labels: Labels
    value: float
    since_s: float


@dataclass(slots=True)
class Alerts:
    """Evaluates ``rules`` on samples of an edge."""

    rules: tuple[Rule, ...] = RULES
    _past: deque[tuple[float, dict[str, dict[Labels, float]]]] = field(default_factory=deque)
    _since: dict[tuple[str, Labels], float] = field(default_factory=dict)

    def update(self, samples: Samples, now_s: float) -> list[Alert]:
        """The alerts that fire now, the most severe and oldest first. Times since 1970."""
        counters = {rule.metric for rule in self.rules if rule.kind in {Kind.INCREASE, Kind.SHARE}}
        self._past.append((now_s, {name: dict(samples.get(name, {})) for name in counters}))
        window_s = max((rule.window_s for rule in self.rules), default=0)
        while len(self._past) > 2 and self._past[1][0] <= now_s - window_s:
            self._past.popleft()
        firing, since = [], {}
        for rule in self.rules:
            for labels, value in self._values(rule, samples, now_s):
                if not rule.is_met(value):
                    continue
                began_s = self._since.get((rule.name, labels), now_s)
                since[rule.name, labels] = began_s
                if now_s - began_s >= rule.for_s:
                    firing.append(Alert(rule, labels, value, began_s))
        self._since = since
        return sorted(firing, key=_rank)

    def _values(self, rule: Rule, samples: Samples, now_s: float) -> Iterator[tuple[Labels, float]]:
        present = samples.get(rule.metric, {})
        if rule.kind is Kind.VALUE:
            yield from present.items()
        elif rule.kind is Kind.TIME_LEFT:
            for labels, at_s in present.items():
                yield labels, at_s - now_s
        elif rule.kind is Kind.RATIO:
            for labels, value in present.items():
                divisor = samples.get(rule.divisor, {}).get(labels, 0)
                if divisor:
                    yield labels, value / divisor
        else:
            before = self._before(rule, now_s)
            rises = {labels: value - before.get(labels, 0) for labels, value in present.items()}
            chosen = {labels: rise for labels, rise in rises.items() if _is_chosen(rule, labels)}
            if rule.kind is Kind.INCREASE:
                yield from chosen.items()
                return
            total = sum(rises.values())
            if total >= rule.count_min:
                yield (), sum(chosen.values()) / total

    def _before(self, rule: Rule, now_s: float) -> Mapping[Labels, float]:
        """A counter's values at the begin of the window, or from the first sample on."""
        start = self._past[0][1]
        for at_s, values in self._past:
            if at_s > now_s - rule.window_s:
                break
            start = values
        return start[rule.metric]


def _rank(alert: Alert) -> tuple[bool, float, str, Labels]:
    is_warning = alert.rule.severity is Severity.WARNING
    return is_warning, alert.since_s, alert.rule.name, alert.labels


def _is_chosen(rule: Rule, labels: Labels) -> bool:
    if rule.chosen is None:
        return True
    name, values = rule.chosen
    value = dict(labels).get(name, "")
    return any(value.startswith(one[:-1]) if one.endswith("*") else value == one for one in values)
