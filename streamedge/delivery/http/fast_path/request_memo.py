"""Remembers plain requests by their bytes, so that equal bytes need not be parsed again.

There is one memo for each kind of connection. A key is the whole request without the numbers of its
range, because players request another range each time. All other bytes are part of the key: bytes
that were not parsed before never match.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from streamedge.memo import Memo, MemoryBudget

REQUEST_BYTES_MAX = 4096  # a signed URL with a policy fits
RANGE_BYTES_MAX = 37  # two positions of 18 digits

_RANGE_LINE = b"ange: bytes="
_LINE_STARTS = (b"\nR", b"\nr")

ByteRange = tuple[bytes, bytes]
"""The digits of a plain range: first and last position; the last may be empty."""

Value = TypeVar("Value")


class RequestMemo(Generic[Value]):
    """Values by the bytes of the requests that they were parsed from."""

    __slots__ = ("_ranged", "_whole")

    def __init__(self, budget: MemoryBudget) -> None:
        self._whole: Memo[bytes, Value] = budget.memo()  # without a range
        self._ranged: Memo[bytes, Value] = budget.memo()  # and with one

    def forget(self) -> None:
        """Removes all entries."""
        self._whole.clear()
        self._ranged.clear()

    def put(self, data: bytes, value: Value, byte_range: ByteRange | None, size_bytes: int) -> None:
        """Stores the parsed value of ``data``, which is exactly one complete request.

        ``byte_range``: its range, if the value serves every range; None if the value belongs to
        all of the bytes. ``size_bytes``: the memory of the value.
        """
        if len(data) > REQUEST_BYTES_MAX or not data.endswith(b"\r\n\r\n"):
            return
        if byte_range is None:
            self._whole.put(data, value, size_bytes + len(data))
            return
        key, numbers = _split_range(data)
        if numbers == byte_range:  # otherwise get() would not recognise this form of a range
            self._ranged.put(key, value, size_bytes + len(key))

    def get(self, data: bytes) -> tuple[Value, ByteRange | None] | None:
        """The value of a request that was parsed before with the same or another range, or None."""
        if len(data) > REQUEST_BYTES_MAX:
            return None
        value = self._whole.entries.get(data)
        if value is not None:
            return value, None
        key, byte_range = _split_range(data)
        value = None if byte_range is None else self._ranged.entries.get(key)
        return None if value is None else (value, byte_range)


def plain_range(value: bytes) -> ByteRange | None:
    """Parses a Range field with one byte range that has a first position (RFC 9110 §14.1.2)."""
    return _numbers(value[6:]) if value.startswith(b"bytes=") else None


def _split_range(data: bytes) -> tuple[bytes, ByteRange | None]:
    """Splits a request into its bytes without the numbers of its range, and those numbers."""
    head, separator, rest = data.partition(_RANGE_LINE)
    if separator and head.endswith(_LINE_STARTS):
        value, _, rest = rest.partition(b"\r\n")
        byte_range = _numbers(value)
        if byte_range is not None:
            return head + rest, byte_range
    return data, None


def _numbers(value: bytes) -> ByteRange | None:
    first, dash, last = value.partition(b"-")
    if dash and first.isdigit() and (not last or last.isdigit()) and len(value) <= RANGE_BYTES_MAX:
        return first, last
    return None
