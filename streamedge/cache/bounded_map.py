"""A map that is bounded in bytes: what was put in longest ago goes first."""

from __future__ import annotations

from typing import Generic, TypeVar

Value = TypeVar("Value")

_ENTRY_BYTES = 200  # what an entry takes beside its key and value


class BoundedMap(Generic[Value]):
    """Values by text, ``limit_bytes`` of them at most."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._values: dict[str, tuple[Value, int]] = {}
        self.size_bytes = 0

    def get(self, key: str) -> Value | None:
        entry = self._values.get(key)
        return None if entry is None else entry[0]

    def put(self, key: str, value: Value, value_bytes: int) -> None:
        """Keeps a value of a size, unless it alone is beyond the limit."""
        self.pop(key)
        size = _ENTRY_BYTES + len(key.encode("utf-8", "surrogateescape")) + value_bytes
        if size > self._limit_bytes:
            return
        while self.size_bytes + size > self._limit_bytes:
            self.pop(next(iter(self._values)))
        self._values[key] = value, size
        self.size_bytes += size

    def pop(self, key: str) -> None:
        """Forgets a value; does nothing where there is none."""
        entry = self._values.pop(key, None)
        if entry is not None:
            self.size_bytes -= entry[1]

    def __len__(self) -> int:
        return len(self._values)
