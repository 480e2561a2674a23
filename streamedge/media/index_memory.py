"""A cache of shared values, limited by the sum of their sizes.

A value is in use while a ``Lease`` on it is open. Unused values stay cached while there is memory;
the least recently used one is dropped first. Values in use count too, so a value that does not fit
beside them is refused.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from streamedge.errors import CacheFullError

Key = TypeVar("Key")
Value = TypeVar("Value")
Part = TypeVar("Part")


class Lease(Generic[Value]):
    """A lease keeps a value in use until ``close``."""

    __slots__ = ("_change", "_is_closed", "value")

    def __init__(self, value: Value, change: Callable[[int], None]) -> None:
        self.value = value
        self._change = change  # adds to the number of leases
        self._is_closed = False
        change(1)

    def clone(self) -> Lease[Value]:
        """Opens another lease on the value."""
        return Lease(self.value, self._change)

    def of(self, part: Part) -> Lease[Part]:
        """Opens another lease, whose value is a part of this value."""
        return Lease(part, self._change)

    def close(self) -> None:
        """Ends the lease; may be called twice."""
        if not self._is_closed:
            self._is_closed = True
            self._change(-1)


class _Entry(Generic[Value]):
    __slots__ = ("is_cached", "leases", "size_bytes", "value")

    def __init__(self, value: Value, size_bytes: int) -> None:
        self.value = value
        self.size_bytes = size_bytes
        self.leases = 0
        self.is_cached = True


class IndexMemory(Generic[Key, Value]):
    """Caches values up to ``limit_bytes`` in all, or one larger value if no other is in use.

    ``used_bytes``: the size of cached values, and of dropped values that are in use.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._entries: OrderedDict[Key, _Entry[Value]] = OrderedDict()
        self.used_bytes = 0

    def keys(self) -> list[Key]:
        """The keys of cached values, the least recently used first."""
        return list(self._entries)

    def lease(self, key: Key) -> Lease[Value] | None:
        """A lease on the cached value of ``key``; None if there is none."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return self._lease(entry)

    def add(self, key: Key, value: Value, size_bytes: int) -> Lease[Value]:
        """Caches a value, replacing one under its key, and returns a lease on it.

        Raises CacheFullError when values in use leave too little memory for it.
        """
        self._drop(key)
        for other_key, entry in list(self._entries.items()):
            if self.used_bytes + size_bytes <= self._limit_bytes:
                break
            if not entry.leases:
                self._drop(other_key)
        if self.used_bytes and self.used_bytes + size_bytes > self._limit_bytes:
            raise CacheFullError(
                f"an index takes {size_bytes} bytes beside the {self.used_bytes} of those in use, "
                "more than limits.titles allows"
            )
        entry = self._entries[key] = _Entry(value, size_bytes)
        self.used_bytes += size_bytes
        return self._lease(entry)

    def drop_all(self) -> None:
        """Drops all values; those in use count until their leases are closed."""
        for key in list(self._entries):
            self._drop(key)

    def _lease(self, entry: _Entry[Value]) -> Lease[Value]:
        def change(leases: int) -> None:
            entry.leases += leases
            if not entry.leases and not entry.is_cached:
                self.used_bytes -= entry.size_bytes

        return Lease(entry.value, change)

    def _drop(self, key: Key) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            entry.is_cached = False
            if not entry.leases:
                self.used_bytes -= entry.size_bytes
