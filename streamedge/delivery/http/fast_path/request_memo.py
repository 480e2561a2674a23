"""What a plain request's very bytes meant when they were parsed, so that they need not be again.

Owns that memory, for one kind of connection. The numbers of a range are no part of a spelling, for
players ask for another range each time; all else is, so that bytes which were not parsed before,
to the last of them, are never taken for a request.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from streamedge.memo import Memo, MemoryBudget

SPELLING_BYTES_MAX = 4096  # a signed URL with a policy fits
RANGE_BYTES_MAX = 37  # two positions of 18 digits

_RANGE_LINE = b"ange: bytes="
_LINE_STARTS = (b"\nR", b"\nr")

Wanted = tuple[bytes, bytes]
"""The numbers of a plain range, first and last; the last may be empty."""

Meaning = TypeVar("Meaning")


class RequestMemo(Generic[Meaning]):
    """Meanings by the bytes that were parsed to them."""

    __slots__ = ("_ranged", "_whole")

    def __init__(self, budget: MemoryBudget) -> None:
        self._whole: Memo[bytes, Meaning] = budget.memo()  # without a range
        self._ranged: Memo[bytes, Meaning] = budget.memo()  # and with one

    def forget(self) -> None:
        """Forgets all of them."""
        self._whole.clear()
        self._ranged.clear()

    def remember(
        self, data: bytes, meaning: Meaning, wanted: Wanted | None, size_bytes: int
    ) -> None:
        """Keeps what the parser made of ``data``: one request, all of it, nothing else.

        ``size_bytes``: what the meaning takes.
        """
        if len(data) > SPELLING_BYTES_MAX or not data.endswith(b"\r\n\r\n"):
            return
        spelling, numbers = _spelling(data)
        if numbers != wanted:
            return  # a range in a spelling that would not be seen when it is recalled
        spellings = self._whole if wanted is None else self._ranged
        spellings.put(spelling, meaning, size_bytes + len(spelling))

    def recall(self, data: bytes) -> tuple[Meaning, Wanted | None] | None:
        """What ``data`` asks for, if but for its range's numbers it was parsed before."""
        if len(data) > SPELLING_BYTES_MAX:
            return None
        spelling, wanted = _spelling(data)
        meaning = (self._whole if wanted is None else self._ranged).entries.get(spelling)
        return None if meaning is None else (meaning, wanted)


def plain_range(value: bytes) -> Wanted | None:
    """A Range field's value, if it is one range of bytes with a beginning (RFC 9110 §14.1.2)."""
    return _numbers(value[6:]) if value.startswith(b"bytes=") else None


def _spelling(data: bytes) -> tuple[bytes, Wanted | None]:
    """A request's bytes without its range's numbers, and those."""
    head, found, rest = data.partition(_RANGE_LINE)
    if found and head.endswith(_LINE_STARTS):
        value, _, rest = rest.partition(b"\r\n")
        wanted = _numbers(value)
        if wanted is not None:
            return head + rest, wanted
    return data, None


def _numbers(value: bytes) -> Wanted | None:
    first, dash, last = value.partition(b"-")
    if dash and first.isdigit() and (not last or last.isdigit()) and len(value) <= RANGE_BYTES_MAX:
        return first, last
    return None
