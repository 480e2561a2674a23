"""Rates of viewers over the last reports of a worker."""

from __future__ import annotations

from streamedge.delivery.viewers import TEXT_CHARACTERS_MAX, ViewerRow, cut
from streamedge.process.operators.viewer_reports import RATE_REPORTS, Rates


def row(identifier: str, sent_bytes: int, age_s: float = 10.0) -> ViewerRow:
    return ViewerRow(
        identifier, "rtmp", "rtmp", "192.0.2.1", "192.0.2.1:1", "ESTREAM", "vod", "film.mp4",
        "player", "playing", 1.0, sent_bytes, 1, age_s, 0.0,
    )  # fmt: skip


def test_first_rate_is_the_mean_since_the_viewer_came() -> None:
    assert Rates().update([row("1-1", 5000, 10.0), row("1-2", 500, 0.1)], 100.0) == {
        "1-1": 500.0,
        "1-2": 500.0,
    }


def test_rate_is_measured_over_several_reports() -> None:
    rates = Rates()
    rates.update([row("1-1", 0)], 100.0)
    sent_bytes = 0
    for second in range(1, 3 * RATE_REPORTS):
        sent_bytes += 2000 if second % 2 else 0  # sent in bursts
        rate = rates.update([row("1-1", sent_bytes)], 100.0 + second)["1-1"]
        if second >= RATE_REPORTS:
            assert 700 < rate < 1300


def test_viewer_that_comes_again_begins_at_zero() -> None:
    rates = Rates()
    rates.update([row("1-1", 1000)], 100.0)
    assert rates.update([], 101.0) == {}
    assert rates.update([row("1-1", 0, 1.0)], 102.0) == {"1-1": 0.0}


def test_texts_of_viewers_are_cut() -> None:
    assert cut("x" * TEXT_CHARACTERS_MAX) == "x" * TEXT_CHARACTERS_MAX
    assert len(cut("x" * 10_000)) == TEXT_CHARACTERS_MAX
