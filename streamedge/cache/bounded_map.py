"""A map with a limit in bytes: the oldest entries are removed first."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

Value = TypeVar("Value")

_ENTRY_BYTES = 200  # overhead of an entry beside its key and value


class BoundedMap(Generic[Value]):
    """Values by string key; keys and values take at most ``limit_bytes``."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._values: OrderedDict[str, tuple[Value, int]] = OrderedDict()
        self.size_bytes = 0

    def get(self, key: str) -> Value | None:
        entry = self._values.get(key)
        return None if entry is None else entry[0]

    def put(self, key: str, value: Value, value_bytes: int) -> None:
        """Stores a value of ``value_bytes``, unless it alone is beyond the limit."""
        self.pop(key)
        size = _ENTRY_BYTES + len(key.encode("utf-8", "surrogateescape")) + value_bytes
        if size > self._limit_bytes:
            return
        while self.size_bytes + size > self._limit_bytes:
            _key, (_value, oldest_bytes) = self._values.popitem(last=False)
            self.size_bytes -= oldest_bytes
        self._values[key] = value, size
        self.size_bytes += size

    def pop(self, key: str) -> None:
        """Removes a value; does nothing if there is none."""
        entry = self._values.pop(key, None)
        if entry is not None:
            self.size_bytes -= entry[1]

    def __len__(self) -> int:
        return len(self._values)
