"""Values of known size in bounded memory, shared while they are in use.

A value is in use as long as somebody has a ``Lease`` on it. What nobody uses is kept while there is
room, the longest unused given up first. Memory of what is in use counts too, wherever references
to it lie, so a value that finds no room beside those is refused.
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
    """The use of a value until ``close``."""

    __slots__ = ("_change", "_is_closed", "value")

    def __init__(self, value: Value, change: Callable[[int], None]) -> None:
        self.value = value
        self._change = change  # of how many leases there are
        self._is_closed = False
        change(1)

    def again(self) -> Lease[Value]:
        """One more lease on the value."""
        return Lease(self.value, self._change)

    def of(self, part: Part) -> Lease[Part]:
        """One more lease, in the name of a part of the value."""
        return Lease(part, self._change)

    def close(self) -> None:
        """Ends the use; harmless when done twice."""
        if not self._is_closed:
            self._is_closed = True
            self._change(-1)


class _Entry(Generic[Value]):
    __slots__ = ("is_kept", "leases", "size_bytes", "value")

    def __init__(self, value: Value, size_bytes: int) -> None:
        self.value = value
        self.size_bytes = size_bytes
        self.leases = 0
        self.is_kept = True


class IndexMemory(Generic[Key, Value]):
    """``limit_bytes`` is kept, but for a single value that is larger and alone.

    ``used_bytes``: of what is kept, and of what is in use though it was forgotten.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._entries: OrderedDict[Key, _Entry[Value]] = OrderedDict()
        self.used_bytes = 0

    def keys(self) -> list[Key]:
        """What is kept, the longest unused first."""
        return list(self._entries)

    def lease(self, key: Key) -> Lease[Value] | None:
        """The value that is kept under ``key``, in use from now on."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return self._lease(entry)

    def keep(self, key: Key, value: Value, size_bytes: int) -> Lease[Value]:
        """Keeps a value, in use from now on; another under its key is forgotten.

        Raises CacheFullError when what is in use leaves no room for it.
        """
        self._forget(key)
        for each, entry in list(self._entries.items()):
            if self.used_bytes + size_bytes <= self._limit_bytes:
                break
            if not entry.leases:
                self._forget(each)
        if self.used_bytes and self.used_bytes + size_bytes > self._limit_bytes:
            raise CacheFullError(
                f"an index takes {size_bytes} bytes beside the {self.used_bytes} of those in use, "
                "more than limits.titles allows"
            )
        entry = self._entries[key] = _Entry(value, size_bytes)
        self.used_bytes += size_bytes
        return self._lease(entry)

    def forget(self) -> None:
        """Forgets all values; what is in use counts until it is no more."""
        for key in list(self._entries):
            self._forget(key)

    def _lease(self, entry: _Entry[Value]) -> Lease[Value]:
        def change(leases: int) -> None:
            entry.leases += leases
            if not entry.leases and not entry.is_kept:
                self.used_bytes -= entry.size_bytes

        return Lease(entry.value, change)

    def _forget(self, key: Key) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            entry.is_kept = False
            if not entry.leases:
                self.used_bytes -= entry.size_bytes
