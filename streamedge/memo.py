"""In-memory caches that are bounded in bytes, however long a client's input is.

Several memos share one budget. When it is used up, the oldest entry of the largest memo is removed.
Every value can be computed again, so a removed entry costs time only. A memo belongs to one
thread.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from operator import attrgetter
from typing import Generic, TypeVar

ENTRY_BYTES = 256  # Python's overhead for an entry, beside what its owner counts

_used_bytes = attrgetter("used_bytes")

Key = TypeVar("Key")
Value = TypeVar("Value")


class MemoryBudget:
    """The bytes that all its memos may use together."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.used_bytes = 0
        self._memos: list[Memo[object, object]] = []

    def memo(self) -> Memo:  # type: ignore[type-arg]
        """A new memo under this budget."""
        memo: Memo[object, object] = Memo(self)
        self._memos.append(memo)
        return memo

    def limit(self, bytes_max: int) -> None:
        """Sets another limit, and removes entries beyond it."""
        self.bytes_max = bytes_max
        self.evict()

    def evict(self) -> None:
        """Removes entries until the rest fits."""
        while self.used_bytes > self.bytes_max:
            max(self._memos, key=_used_bytes).drop_oldest()


class Memo(Generic[Key, Value]):
    """A dictionary whose entries may be removed. Use ``entries`` for lookups only."""

    __slots__ = ("_budget", "_sizes", "entries", "used_bytes")

    def __init__(self, budget: MemoryBudget) -> None:
        # Not a plain dictionary, which searches its start for the oldest entry each time.
        self.entries: OrderedDict[Key, Value] = OrderedDict()
        self.used_bytes = 0
        self._budget = budget
        self._sizes: dict[Key, int] = {}

    def __len__(self) -> int:
        return len(self.entries)

    def get(self, key: Key) -> Value | None:
        return self.entries.get(key)

    def put(self, key: Key, value: Value, size_bytes: int) -> None:
        """Stores ``value``; it and its key use ``size_bytes``."""
        if key in self._sizes:
            self.pop(key)
        size_bytes += ENTRY_BYTES
        self.entries[key] = value
        self._sizes[key] = size_bytes
        self._count(size_bytes)
        if self._budget.used_bytes > self._budget.bytes_max:
            self._budget.evict()

    def pop(self, key: Key) -> Value | None:
        """Removes an entry and returns its value, or None."""
        size_bytes = self._sizes.pop(key, None)
        if size_bytes is None:
            return None
        self._count(-size_bytes)
        return self.entries.pop(key)

    def clear(self) -> None:
        self._count(-self.used_bytes)
        self.entries.clear()
        self._sizes.clear()

    def drop_oldest(self) -> None:
        """Removes the oldest entry."""
        key, _value = self.entries.popitem(last=False)
        self._count(-self._sizes.pop(key))

    def _count(self, size_bytes: int) -> None:
        self.used_bytes += size_bytes
        self._budget.used_bytes += size_bytes


Text = TypeVar("Text", str, bytes)


def cache_short_texts(
    entries_max: int, length_max: int
) -> Callable[[Callable[[Text], Value]], Callable[[Text], Value]]:
    """``lru_cache`` for a function of one text that does not cache long texts.

    So its memory is bounded by ``entries_max`` times ``length_max``.
    """

    def wrap(function: Callable[[Text], Value]) -> Callable[[Text], Value]:
        cached = lru_cache(entries_max)(function)

        def lookup(text: Text) -> Value:
            return cached(text) if len(text) <= length_max else function(text)

        return lookup

    return wrap
