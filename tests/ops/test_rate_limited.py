"""Limits on log lines, and the counts of suppressed lines."""

from __future__ import annotations

import json
from pathlib import Path

from streamedge.ops.log import open_log
from streamedge.ops.rate_limited import LINE_INTERVAL_S, LineBudget, RateLimitedEvent


def test_rate_limited_event_is_logged_once_a_second_with_the_suppressed_count(
    tmp_path: Path,
) -> None:
    file = tmp_path / "log"
    log = open_log(str(file), "test")
    line = RateLimitedEvent(log, "refused")
    for now_s in (5.0, 5.1, 5.9, 5.0 + LINE_INTERVAL_S, 6.5, 60.0, 70.0):
        line.emit(now_s, at=now_s)
    log.flush()
    log.close()

    logged = [json.loads(text) for text in file.read_text().splitlines()]
    assert [(one["event"], one["at"], one.get("suppressed")) for one in logged] == [
        ("refused", 5.0, None),
        ("refused", 6.0, 2),
        ("refused", 60.0, 1),
        ("refused", 70.0, None),
    ]


def test_line_budget_allows_a_burst_and_then_a_rate() -> None:
    budget = LineBudget(3, 2.0, 100.0)
    assert [budget.allows(100.0) for _ in range(5)] == [True, True, True, False, False]
    assert [budget.allows(101.0) for _ in range(3)] == [True, True, False]
    assert budget.suppressed == 3
    assert [budget.allows(200.0) for _ in range(4)] == [True, True, True, False]
