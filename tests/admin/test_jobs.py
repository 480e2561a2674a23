"""Jobs: work keeps to its rate."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streamedge.admin.jobs.jobs import RateLimiter

amounts = st.floats(0, 1e6)
durations_s = st.floats(0, 100)


@given(st.floats(1, 1e6), st.lists(st.tuples(amounts, durations_s), min_size=1))
def test_work_is_never_done_faster_than_its_rate(
    rate: float, steps: list[tuple[float, float]]
) -> None:
    """``steps``: amounts of work, and how long each took."""
    now_s, total = 0.0, 0.0
    pace = RateLimiter(rate, lambda: now_s)
    for amount, duration_s in steps:
        now_s += duration_s
        total += amount
        now_s += pace.pause_s(amount)
        assert now_s >= total / rate * (1 - 1e-9)


def test_work_that_is_slower_than_its_rate_does_not_wait() -> None:
    now_s = 0.0
    pace = RateLimiter(10, lambda: now_s)
    assert pace.pause_s(5) == 0.5
    now_s = 2.0
    assert pace.pause_s(5) == 0.0
