"""A map that never takes more than its limit."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streamedge.cache.bounded_map import BoundedMap

KEYS = st.text("abcé\udc80", max_size=3)


@given(st.lists(st.tuples(KEYS, st.integers(0, 3000) | st.none())))
def test_size_is_the_sum_of_the_entries_and_within_the_limit(
    steps: list[tuple[str, int | None]],
) -> None:
    bounded: BoundedMap[int] = BoundedMap(2500)
    model: dict[str, int] = {}
    for key, size in steps:
        if size is None:
            bounded.pop(key)
            model.pop(key, None)
        else:
            bounded.put(key, size, size)
            model[key] = size
        assert bounded.size_bytes <= 2500
        assert all(bounded.get(key) in (None, value) for key, value in model.items())
    for key in model:
        bounded.pop(key)
    assert (bounded.size_bytes, len(bounded)) == (0, 0)


def test_oldest_entry_is_removed_first() -> None:
    bounded: BoundedMap[int] = BoundedMap(1000)
    for number in range(5):
        bounded.put(str(number), number, 100)
    assert [bounded.get(str(number)) for number in range(5)] == [None, None, 2, 3, 4]
