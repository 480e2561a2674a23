"""Parses Range headers and builds multipart bodies: RFC 9110 §14.1.2, §14.2 and §14.6.

Pure. Ranges are joined where they overlap, and where the gap between them is smaller than the head
of another part, so no byte is sent twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from streamedge.spans import Span

RANGES_MAX = 8  # a header with more ranges is ignored: only attackers send so many
PART_BYTES = 80  # the approximate size of a part's head in a multipart response
_POSITION_MAX = 1 << 62  # means "to the end" where the size is not known
_DIGITS_MAX = 18  # a position with more digits is past the end of any file
_UNIT = re.compile(r"bytes[ \t]*=", re.ASCII | re.IGNORECASE)
_RANGE = re.compile(r"(\d*)[ \t]*-[ \t]*(\d*)", re.ASCII)


class RangeOutcome(Enum):
    """How to handle a Range header that selects no span."""

    IGNORED = "ignored"  # malformed, another unit or too many ranges: the whole object (§14.2)
    UNSATISFIABLE = "unsatisfiable"  # 416


class _IntRange(NamedTuple):
    """The bytes from ``first`` to ``last`` inclusive; ``last`` None means to the end."""

    first: int
    last: int | None

    def select(self, size_bytes: int) -> Span:
        """The selected bytes of an object of ``size_bytes``; empty if it is unsatisfiable."""
        end = size_bytes if self.last is None else self.last + 1
        return Span(self.first, end).intersect(Span(0, size_bytes))


class _SuffixRange(NamedTuple):
    """The last ``length`` bytes."""

    length: int

    def select(self, size_bytes: int) -> Span:
        """The selected bytes of an object of ``size_bytes``; empty if it is unsatisfiable."""
        return Span(size_bytes - self.length, size_bytes).intersect(Span(0, size_bytes))


def first_span(value: str) -> Span | None:
    """The first span of a Range header for an object of unknown size.

    ``end`` may be past the end of the object; 2^62 means "to the end". None when the size is needed
    (the first range is a suffix) or the header will be ignored.
    """
    ranges = _parse(value)
    if not ranges or isinstance(ranges[0], _SuffixRange):
        return None
    spans = [item.select(_POSITION_MAX) for item in ranges if isinstance(item, _IntRange)]
    return next(iter(_coalesce(spans)), None)


def leading_suffix_bytes(value: str) -> int:
    """The length of the first range of a Range header if it is a suffix range, else 0."""
    ranges = _parse(value)
    return ranges[0].length if ranges and isinstance(ranges[0], _SuffixRange) else 0


def parse_ranges(
    value: str, size_bytes: int, ranges_max: int = RANGES_MAX
) -> tuple[Span, ...] | RangeOutcome:
    """The spans of an object of ``size_bytes`` that a Range header selects.

    There is at least one span, none is empty, and no two are nearer than ``PART_BYTES``. They have
    the order of the header; a span that joins several ranges stands where the first of them stood
    (§15.3.7.2).
    """
    ranges = _parse(value, ranges_max)
    if ranges is None:
        return RangeOutcome.IGNORED
    if not size_bytes and any(isinstance(item, _SuffixRange) and item.length for item in ranges):
        return RangeOutcome.IGNORED  # a suffix of an empty object is all of it (§14.1.2)
    return _coalesce([item.select(size_bytes) for item in ranges]) or RangeOutcome.UNSATISFIABLE


def _parse(value: str, ranges_max: int = RANGES_MAX) -> list[_IntRange | _SuffixRange] | None:
    """The ranges of a header, at least one; None when the header must be ignored."""
    unit = _UNIT.match(value)
    if unit is None:
        return None
    ranges: list[_IntRange | _SuffixRange] = []
    for element in value[unit.end() :].split(","):
        text = element.strip(" \t")
        if not text:
            continue  # lists may have empty elements (§5.6.1.2)
        match = _RANGE.fullmatch(text)
        if match is None or not (match[1] or match[2]) or len(ranges) == ranges_max:
            return None
        last = _position(match[2]) if match[2] else None
        if match[1]:
            first = _position(match[1])
            if last is not None and last < first:
                return None
            ranges.append(_IntRange(first, last))
        else:
            ranges.append(_SuffixRange(last or 0))
    return ranges or None


def _position(digits: str) -> int:
    significant = digits.lstrip("0")
    return int(significant or "0") if len(significant) <= _DIGITS_MAX else _POSITION_MAX


def _coalesce(spans: Iterable[Span]) -> tuple[Span, ...]:
    """Joins spans that overlap or have gaps below PART_BYTES, and drops empty ones."""
    joined: list[tuple[int, Span]] = []  # (index in the request, span)
    satisfiable = [(index, span) for index, span in enumerate(spans) if span.size]
    for index, span in sorted(satisfiable, key=lambda indexed: indexed[1]):
        if joined and span.start - joined[-1][1].end < PART_BYTES:
            first_index, before = joined[-1]
            joined[-1] = min(first_index, index), Span(before.start, max(before.end, span.end))
        else:
            joined.append((index, span))
    return tuple(span for _index, span in sorted(joined))


@dataclass(frozen=True, slots=True)
class Multipart:
    """A multipart/byteranges body. ``parts``: literal bytes and spans of the object, in order.

    ``size_bytes`` is the length of the body.
    """

    content_type: str
    parts: tuple[bytes | Span, ...]
    size_bytes: int


def multipart(
    spans: Sequence[Span], object_bytes: int, content_type: str, boundary: str
) -> Multipart:
    """The body with ``spans`` of an object of ``object_bytes`` and ``content_type``.

    ``boundary``: 1 to 70 characters that need no quotes (RFC 2046 §5.1.1). It must be
    unpredictable, because nothing checks whether it occurs in the object.
    """
    parts: list[bytes | Span] = []
    size_bytes = 0
    for span in spans:
        head = _part_head(span, object_bytes, content_type, boundary, is_first=not parts)
        parts += (head, span)
        size_bytes += len(head) + span.size
    close = f"\r\n--{boundary}--\r\n".encode("ascii")
    return Multipart(
        f"multipart/byteranges; boundary={boundary}",
        (*parts, close),
        size_bytes + len(close),
    )


def _part_head(
    span: Span, object_bytes: int, content_type: str, boundary: str, *, is_first: bool
) -> bytes:
    # The line break before a delimiter belongs to it, not to the part it ends.
    delimiter = f"--{boundary}\r\n" if is_first else f"\r\n--{boundary}\r\n"
    type_line = f"content-type: {content_type}\r\n" if content_type else ""
    range_line = f"content-range: bytes {span.start}-{span.end - 1}/{object_bytes}\r\n"
    return f"{delimiter}{type_line}{range_line}\r\n".encode("latin-1", "replace")
