"""The rings of the past: means of rows, gaps, and a process that goes on where another ended."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamedge.ops.history import HISTORY_BYTES, RINGS, History
from streamedge.ops.samples import FIELDS

NOW_S = 1_800_000_000.0


def memory() -> memoryview:
    return memoryview(bytearray(HISTORY_BYTES))


def sample(value: float) -> list[float]:
    """A sample whose first field is ``value`` and whose others are 0."""
    return [value] + [0.0] * (len(FIELDS) - 1)


def test_rings_cover_minutes_hours_and_days() -> None:
    spans_s = {ring.name: ring.step_s * ring.rows for ring in RINGS}
    assert spans_s == {"15m": 15 * 60, "6h": 6 * 3600, "7d": 7 * 86400}
    assert [ring.step_s for ring in RINGS] == [1, 10, 60]


def test_row_has_the_mean_of_its_samples() -> None:
    history = History(memory())
    for second, value in enumerate([1.0, 2.0, 6.0]):
        history.add(NOW_S + second, sample(value))
    assert history.read("15m", NOW_S + 2).columns[0] == [1.0, 2.0, 6.0]
    row = history.read("6h", NOW_S + 2)
    assert (row.start_s, row.step_s, row.columns[0]) == (NOW_S, 10, [3.0])


def test_history_is_empty_before_the_first_sample() -> None:
    for ring in RINGS:
        assert History(memory()).read(ring.name, NOW_S).columns == tuple([] for _ in FIELDS)


def test_second_without_a_sample_is_a_gap() -> None:
    history = History(memory())
    history.add(NOW_S, sample(1.0))
    history.add(NOW_S + 2, sample(3.0))
    first, gap, last = history.read("15m", NOW_S + 2).columns[0]
    assert (first, last) == (1.0, 3.0)
    assert math.isnan(gap)


def test_another_process_goes_on_in_the_same_memory() -> None:
    shared = memory()
    History(shared).add(NOW_S, sample(1.0))
    History(shared).add(NOW_S + 1, sample(2.0))
    assert History(shared).read("15m", NOW_S + 1).columns[0] == [1.0, 2.0]


def test_unknown_ring_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        History(memory()).read("1y", NOW_S)


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(st.integers(-2000, 4000), min_size=1, max_size=40))
def test_rows_are_those_of_a_dictionary_by_slot(steps: list[int]) -> None:
    """Whatever the clock does: the newest sample of a slot's place in the ring counts."""
    history, second = History(memory()), int(NOW_S)
    places: dict[int, tuple[int, list[float]]] = {}
    ring = RINGS[0]
    for number, step in enumerate(steps):
        second += step
        history.add(second + 0.5, sample(float(number)))
        slot, values = places.get(second % ring.rows, (0, []))
        places[second % ring.rows] = second, [*(values if slot == second else []), float(number)]
    series = history.read(ring.name, second)
    expected = {
        slot: sum(values) / len(values)
        for slot, values in places.values()
        if second - ring.rows < slot <= second
    }
    rows = {
        series.start_s + place: value
        for place, value in enumerate(series.columns[0])
        if not math.isnan(value)
    }
    assert rows == expected
