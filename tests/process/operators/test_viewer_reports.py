"""Rates of viewers over the last reports of a worker."""

from __future__ import annotations

import pytest

from streamedge.delivery.viewers import TEXT_CHARACTERS_MAX, ViewerRow, cut
from streamedge.process.operators.viewer_reports import RATE_S, Rates


def row(identifier: str, sent_bytes: int, age_s: float = 10.0) -> ViewerRow:
    return ViewerRow(
        identifier, "rtmp", "rtmp", "192.0.2.1", "192.0.2.1:1", "ESTREAM", "vod", "film.mp4",
        "player", "playing", 1.0, sent_bytes, 1, age_s, 0.0,
    )  # fmt: skip


def test_first_rate_is_the_mean_since_the_viewer_came() -> None:
    assert Rates().update([row("1-1", 5000, 10.0), row("1-2", 500, 0.1)], 100.0) == [500.0, 500.0]


@pytest.mark.parametrize("looks_a_second", [1, 2])
def test_rate_is_measured_over_several_seconds(looks_a_second: int) -> None:
    rates = Rates()
    rates.update([row("1-1", 0)], 100.0)
    sent_bytes = 0
    for look in range(1, 3 * int(RATE_S) * looks_a_second):
        sent_bytes += 0 if look % (2 * looks_a_second) else 2000  # sent in bursts
        (rate,) = rates.update([row("1-1", sent_bytes)], 100.0 + look / looks_a_second)
        if look >= RATE_S * looks_a_second:
            assert 700 < rate < 1300


def test_rate_after_a_long_pause_is_that_of_the_pause() -> None:
    rates = Rates()
    rates.update([row("1-1", 0)], 100.0)
    assert rates.update([row("1-1", 4000)], 104.0) == [1000.0]
    assert rates.update([row("1-1", 4000)], 144.0) == [0.0]


def test_rate_of_a_viewer_that_came_later_is_that_since_it_came() -> None:
    rates = Rates()
    rates.update([row("1-1", 0)], 100.0)
    assert rates.update([row("1-1", 400), row("1-2", 600, 2.0)], 104.0) == [100.0, 300.0]


def test_viewer_that_comes_again_begins_at_zero() -> None:
    rates = Rates()
    rates.update([row("1-1", 1000)], 100.0)
    assert rates.update([], 101.0) == []
    assert rates.update([row("1-1", 0, 1.0)], 102.0) == [0.0]


def test_texts_of_viewers_are_cut() -> None:
    assert cut("x" * TEXT_CHARACTERS_MAX) == "x" * TEXT_CHARACTERS_MAX
    assert len(cut("x" * 10_000)) == TEXT_CHARACTERS_MAX
