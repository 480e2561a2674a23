"""Memos stay within their memory budget."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streamedge.memo import ENTRY_BYTES, Memo, MemoryBudget, cache_short_texts

PUTS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 20), st.integers(0, 3000)))


@given(PUTS, st.integers(0, 20_000))
def test_memos_never_exceed_their_common_budget(
    puts: list[tuple[int, int, int]], bytes_max: int
) -> None:
    budget = MemoryBudget(bytes_max)
    memos: list[Memo[int, int]] = [budget.memo() for _ in range(3)]
    for number, key, size_bytes in puts:
        memos[number].put(key, key, size_bytes)
        assert budget.used_bytes <= bytes_max
        assert budget.used_bytes == sum(memo.used_bytes for memo in memos)
        assert sum(map(len, memos)) * ENTRY_BYTES <= budget.used_bytes
        if size_bytes + ENTRY_BYTES <= bytes_max // 3:
            assert memos[number].get(key) == key
    budget.limit(0)
    assert [len(memo) for memo in memos] == [0, 0, 0]


def test_oldest_entry_of_the_largest_memo_is_removed_first() -> None:
    budget = MemoryBudget(4000)
    small: Memo[str, int] = budget.memo()
    large: Memo[str, int] = budget.memo()
    small.put("a", 1, 100)
    for number, name in enumerate("bcdef"):
        large.put(name, number, 1000)
    assert small.get("a") == 1
    assert large.get("b") is None
    assert large.get("f") == 4
    assert large.pop("f") == 4
    large.clear()
    assert budget.used_bytes == 100 + ENTRY_BYTES


def test_long_texts_are_not_cached() -> None:
    called: list[str] = []

    @cache_short_texts(2, 3)
    def length(text: str) -> int:
        called.append(text)
        return len(text)

    assert [length(text) for text in ("abc", "abc", "abcd", "abcd")] == [3, 3, 4, 4]
    assert called == ["abc", "abcd", "abcd"]
