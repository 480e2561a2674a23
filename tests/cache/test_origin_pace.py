"""The measured pace of an origin."""

from __future__ import annotations

import pytest

from streamedge.cache import origin_pace
from streamedge.cache.fill_plan import RATE_DEFAULT_BYTES_S, ROUND_TRIP_DEFAULT_S, Pace
from streamedge.cache.origin_pace import Paces, Throughput


def steady(rate_bytes_s: int, seconds: float, *, step_s: float = 0.01) -> tuple[Throughput, float]:
    """A connection with an even flow of bytes, and the present time."""
    measured, now_s = Throughput(5.0), 100.0
    measured.begin(now_s)
    for _ in range(round(seconds / step_s)):
        now_s += step_s
        measured.arrived(int(rate_bytes_s * step_s), now_s)
    return measured, now_s


def test_rate_is_assumed_until_it_is_measured() -> None:
    measured = Throughput(7.0)
    assert measured.rate_bytes_s(0.0) == 7.0
    assert not measured.arrived(1 << 20, 50.0)
    assert measured.rate_bytes_s(50.01) == 7.0


def test_rate_of_an_even_connection_is_measured() -> None:
    measured, now_s = steady(2_000_000, 1.0)
    assert measured.rate_bytes_s(now_s) == pytest.approx(2_000_000, rel=0.15)


def test_rate_follows_a_connection_that_becomes_slower() -> None:
    measured, now_s = steady(10_000_000, 1.0)
    for _ in range(20):
        now_s += 0.1
        measured.arrived(10_000, now_s)
    assert measured.rate_bytes_s(now_s) == pytest.approx(100_000, rel=0.15)


def test_rate_of_a_silent_connection_sinks() -> None:
    measured, now_s = steady(2_000_000, 1.0)
    assert measured.rate_bytes_s(now_s + 2) < 200_000
    assert measured.rate_bytes_s(now_s + 20) <= measured.rate_bytes_s(now_s + 2)


def test_pace_is_measured_for_each_origin() -> None:
    paces = Paces()
    assert paces.of("main") == Pace(ROUND_TRIP_DEFAULT_S, RATE_DEFAULT_BYTES_S)
    paces.note_round_trip("main", 0.2)
    assert paces.of("main").round_trip_s == 0.2
    paces.note_round_trip("main", 0.4)
    assert paces.of("main").round_trip_s == pytest.approx(0.3)
    paces.note_rate("main", 123.0)
    assert paces.of("main").rate_bytes_s == 123.0
    assert paces.of("main").round_trip_s == pytest.approx(0.3)
    assert paces.of("other") == Pace()


def test_paces_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origin_pace, "ORIGINS_MAX", 2)
    paces = Paces()
    for name in ("a", "b", "c"):
        paces.note_rate(name, 1.0)
    assert paces.of("c").rate_bytes_s == 1.0
    assert paces.of("a") == Pace()
