"""How ``streamedge cache`` draws an object."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from streamedge.cli.cache.commands import range_bar


def cached(size_bytes: int | None, *ranges: tuple[int, int, str]) -> dict[str, Any]:
    return {"size_bytes": size_bytes, "ranges": [list(one) for one in ranges]}


def test_bar_shows_which_parts_are_here() -> None:
    assert range_bar(cached(100, (0, 50, "cached")), 10) == "█████·····"
    assert range_bar(cached(100, (50, 60, "filling"), (90, 100, "unchecked")), 10) == "·····░···▒"
    assert range_bar(cached(100), 4) == "····"
    assert range_bar(cached(None, (0, 10, "cached")), 4) == "████"


def test_small_range_of_a_large_object_is_seen() -> None:
    assert range_bar(cached(1 << 40, (1 << 39, (1 << 39) + 1, "cached")), 8) == "····█···"


@given(st.integers(0, 1000), st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000))))
def test_bar_has_its_width(size: int, pairs: list[tuple[int, int]]) -> None:
    ranges = [(min(pair), max(pair), "cached") for pair in pairs]
    assert len(range_bar(cached(size, *ranges), 20)) == 20
