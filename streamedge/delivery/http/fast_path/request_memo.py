"""Remembers plain requests, so that equal requests need not be interpreted again.

There is one memo for each kind of connection. HTTP/1.1's key is the bytes of the request, HTTP/2's
its decoded fields, because there the bytes depend on earlier requests. A key is the whole request
without the numbers of its range, because players request another range each time. All else is part
of the key: a request that was not interpreted before never matches.
"""

from __future__ import annotations

from typing import Final, Generic, Protocol, TypeVar

from streamedge.memo import Memo, MemoryBudget

REQUEST_BYTES_MAX = 4096  # a signed URL with a policy fits
RANGE_BYTES_MAX = 37  # two positions of 18 digits

FIELD_BYTES: Final = 256
"""About the size of a field's objects in a key and in a value, without their texts."""

_COPIES: Final = 4  # of a request's texts: in the key, and in the value's own fields and texts
_RANGE_LINE = b"ange: bytes="
_LINE_STARTS = (b"\nR", b"\nr")

ByteRange = tuple[bytes, bytes]
"""The digits of a plain range: first and last position; the last may be empty."""

Value = TypeVar("Value")


Request_contra = TypeVar("Request_contra", contravariant=True)
RawFields = tuple[tuple[bytes, bytes], ...]


class RequestMemo(Protocol[Request_contra, Value]):
    """Values by request."""

    def forget(self) -> None:
        """Removes all entries."""
        ...

    def put(
        self, request: Request_contra, value: Value, byte_range: ByteRange | None, size_bytes: int
    ) -> None:
        """Stores the value of ``request``, which is complete.

        ``byte_range``: its range, if the value serves every range; None if the value belongs to
        all of the request. ``size_bytes``: the memory of the value without what the request takes.
        """
        ...

    def get(self, request: Request_contra) -> tuple[Value, ByteRange | None] | None:
        """The value of an equal request with the same or another range, or None."""
        ...


class BytesMemo(Generic[Value]):
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
        size_bytes += _COPIES * len(data)
        if byte_range is None:
            self._whole.put(data, value, size_bytes)
            return
        key, numbers = _split_range(data)
        if numbers == byte_range:  # otherwise get() would not recognise this form of a range
            self._ranged.put(key, value, size_bytes)

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


class FieldsMemo(Generic[Value]):
    """Values by the decoded fields of the requests that they come from."""

    __slots__ = ("_ranged", "_whole")

    def __init__(self, budget: MemoryBudget) -> None:
        self._whole: Memo[RawFields, Value] = budget.memo()
        self._ranged: Memo[RawFields, Value] = budget.memo()

    def forget(self) -> None:
        """Removes all entries."""
        self._whole.clear()
        self._ranged.clear()

    def put(
        self, fields: RawFields, value: Value, byte_range: ByteRange | None, size_bytes: int
    ) -> None:
        """Stores the value of a request, as ``RequestMemo.put``."""
        texts_bytes = sum([len(name) + len(text) for name, text in fields])
        if texts_bytes > REQUEST_BYTES_MAX:
            return
        size_bytes += _COPIES * texts_bytes + FIELD_BYTES * len(fields)
        if byte_range is None:
            self._whole.put(fields, value, size_bytes)
            return
        key, numbers = _without_range(fields)
        if numbers == byte_range:
            self._ranged.put(key, value, size_bytes)

    def get(self, fields: RawFields) -> tuple[Value, ByteRange | None] | None:
        """The value of an equal request with the same or another range, or None."""
        value = self._whole.entries.get(fields)
        if value is not None:
            return value, None
        if not self._ranged.entries:
            return None
        key, byte_range = _without_range(fields)
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


def _without_range(fields: RawFields) -> tuple[RawFields, ByteRange | None]:
    """The fields without a plain range, and its numbers."""
    for at, (name, value) in enumerate(fields):
        if name == b"range":
            byte_range = plain_range(value)
            return (fields if byte_range is None else fields[:at] + fields[at + 1 :]), byte_range
    return fields, None


def _numbers(value: bytes) -> ByteRange | None:
    first, dash, last = value.partition(b"-")
    if dash and first.isdigit() and (not last or last.isdigit()) and len(value) <= RANGE_BYTES_MAX:
        return first, last
    return None
