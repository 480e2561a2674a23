"""streamedge/delivery/rtmp/playback/pacing.py: when media are due, with the test's own clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.delivery.rtmp.playback.pacing import BUFFER_DEFAULT_MS, BUFFER_MIN_MS, Pace

START_S = 1000.0
HOUR_MS = 3_600_000


def started(buffer_ms: int, *, ahead_max_ms: int = HOUR_MS, rate_bytes: int = 0) -> Pace:
    """A play that began with media time 5000 ms."""
    pace = Pace(ahead_max_ms, rate_bytes, buffer_ms)
    pace.start(START_S, 5000)
    return pace


def test_buffer_is_filled_at_once_and_then_kept_full() -> None:
    pace = started(3000)
    assert pace.wait_s(START_S, 5000) == 0
    assert pace.wait_s(START_S, 8000) == 0
    assert pace.wait_s(START_S, 9000) == pytest.approx(1.0)
    assert pace.wait_s(START_S + 1.0, 9000) == pytest.approx(0.0)
    assert pace.wait_s(START_S + 60.0, 5000) == 0


def test_missing_or_small_buffer_length_gets_the_default_or_minimum() -> None:
    assert Pace(HOUR_MS, 0).buffer_ms == BUFFER_DEFAULT_MS
    for buffer_ms in (0, 1, 300):
        assert started(buffer_ms).wait_s(START_S, 5000 + BUFFER_MIN_MS) == 0
        assert started(buffer_ms).wait_s(START_S, 5001 + BUFFER_MIN_MS) > 0


def test_operators_limit_overrides_the_clients_buffer() -> None:
    pace = started(36_000_000, ahead_max_ms=10_000)
    assert pace.wait_s(START_S, 15_000) == 0
    assert pace.wait_s(START_S, 16_000) == pytest.approx(1.0)
    # It limits even the smallest buffer.
    assert started(1000, ahead_max_ms=200).wait_s(START_S, 5300) == pytest.approx(0.1)


def test_changed_buffer_applies_from_then_on() -> None:
    pace = started(1000)
    assert pace.wait_s(START_S + 2, 10_000) == pytest.approx(2.0)
    pace.buffer_ms = 10_000
    assert pace.wait_s(START_S + 2, 10_000) == 0
    pace.buffer_ms = 2000
    assert pace.wait_s(START_S + 2, 10_000) == pytest.approx(1.0)


def test_rate_limits_bytes_since_the_start() -> None:
    pace = started(36_000_000, rate_bytes=1000)
    pace.sent(2500)
    assert pace.wait_s(START_S, 5000) == pytest.approx(2.5)
    assert pace.wait_s(START_S + 2.5, 5000) == 0
    pace.start(START_S + 10, 5000)
    assert pace.wait_s(START_S + 10, 5000) == 0


def test_late_s_is_the_time_since_the_viewer_ran_dry() -> None:
    pace = started(3000)
    assert pace.late_s(START_S + 1, 6000) == 0
    assert pace.late_s(START_S + 1.5, 6000) == pytest.approx(0.5)
    assert pace.late_s(START_S, 9000) == 0


@given(
    buffer_ms=st.integers(0, 1 << 32),
    ahead_max_ms=st.integers(1, 1 << 32),
    now_s=st.floats(START_S, START_S + 1e6),
    media_ms=st.integers(5000, 1 << 32),
)
def test_wait_s_is_long_enough_and_never_too_long(
    buffer_ms: int, ahead_max_ms: int, now_s: float, media_ms: int
) -> None:
    pace = started(buffer_ms, ahead_max_ms=ahead_max_ms)
    wait_s = pace.wait_s(now_s, media_ms)
    assert wait_s >= 0
    assert pace.wait_s(now_s + wait_s, media_ms) <= 1e-3
    # No wait is longer than until the time at which the media are shown.
    assert pace.late_s(now_s + wait_s, media_ms) <= now_s - START_S + 1e-3
