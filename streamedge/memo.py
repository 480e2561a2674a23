"""Memories that are bounded in bytes, however long what strangers send is.

Several memos share one budget; when it is used up, the oldest entry of the largest of them goes.
What is remembered can always be found out again, so an entry that has gone costs time, never a
wrong answer. A memo belongs to one thread.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Generic, TypeVar

ENTRY_BYTES = 256  # of Python's own for an entry, beside what its owner counts

Key = TypeVar("Key")
Value = TypeVar("Value")


class MemoryBudget:
    """What all memos of it may take together."""

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
        """Takes another bound into force."""
        self.bytes_max = bytes_max
        self.make_room()

    def make_room(self) -> None:
        """Lets entries go until the rest fits."""
        while self.used_bytes > self.bytes_max:
            max(self._memos, key=lambda memo: memo.used_bytes).drop_oldest()


class Memo(Generic[Key, Value]):
    """A dictionary whose entries may go; ``entries`` is for looking up, and for nothing else."""

    __slots__ = ("_budget", "_sizes", "entries", "used_bytes")

    def __init__(self, budget: MemoryBudget) -> None:
        self.entries: dict[Key, Value] = {}
        self.used_bytes = 0
        self._budget = budget
        self._sizes: dict[Key, int] = {}

    def __len__(self) -> int:
        return len(self.entries)

    def get(self, key: Key) -> Value | None:
        return self.entries.get(key)

    def put(self, key: Key, value: Value, size_bytes: int) -> None:
        """Remembers ``value``; it and its key take ``size_bytes``."""
        self.pop(key)
        size_bytes += ENTRY_BYTES
        self.entries[key] = value
        self._sizes[key] = size_bytes
        self._count(size_bytes)
        self._budget.make_room()

    def pop(self, key: Key) -> Value | None:
        """Forgets an entry, and gives it."""
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
        """Lets the entry go that was put first."""
        self.pop(next(iter(self.entries)))

    def _count(self, size_bytes: int) -> None:
        self.used_bytes += size_bytes
        self._budget.used_bytes += size_bytes


Text = TypeVar("Text", str, bytes)


def remember_short(
    entries_max: int, length_max: int
) -> Callable[[Callable[[Text], Value]], Callable[[Text], Value]]:
    """``lru_cache`` for a function of one text, but that long ones are worked out anew each time:
    so ``entries_max`` times ``length_max`` bound its memory."""

    def wrap(function: Callable[[Text], Value]) -> Callable[[Text], Value]:
        remembered = lru_cache(entries_max)(function)

        def look(text: Text) -> Value:
            return remembered(text) if len(text) <= length_max else function(text)

        return look

    return wrap
