"""Which bytes a Range header asks for: RFC 9110 §14.1.2 and §14.2.

Pure: a header's value and an object's size in, spans or the lack of them out. What is asked for
twice is sent once: ranges that overlap, or lie so near that a part of its own would cost more than
the bytes between, become one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from streamedge.spans import Span

RANGES_MAX = 8  # with more of them the header is ignored: nobody but an attacker needs that many
PART_BYTES = 80  # about what a part of a multipart answer costs beside its bytes
_POSITION_MAX = 1 << 62  # stands for "to the end" where that is not known
_DIGITS_MAX = 18  # a position of more digits lies past the end of any file
_UNIT = re.compile(r"bytes[ \t]*=", re.ASCII | re.IGNORECASE)
_RANGE = re.compile(r"(\d*)[ \t]*-[ \t]*(\d*)", re.ASCII)


class RangeOutcome(Enum):
    """What to do with a Range header that gives no span."""

    IGNORED = "ignored"  # malformed, another unit, or too many ranges: the whole object (§14.2)
    UNSATISFIABLE = "unsatisfiable"  # 416


class _Range(NamedTuple):
    """One range as it was asked for: from ``first`` on, or (None) the last ``last`` bytes."""

    first: int | None
    last: int | None

    def select(self, size_bytes: int) -> Span:
        """Its bytes of an object of that size; none when it cannot be satisfied."""
        whole = Span(0, size_bytes)
        if self.first is None:
            assert self.last is not None
            return Span(size_bytes - self.last, size_bytes).intersect(whole)
        end = size_bytes if self.last is None else self.last + 1
        return Span(self.first, end).intersect(whole)


def first_span(value: str) -> Span | None:
    """The span that the answer to a Range header begins with, as far as it says one by itself.

    For a cold object: ``end`` may lie beyond it (2^62 stands for "to the end"). None when only the
    size can tell: it begins with a suffix, or the header will be ignored.
    """
    asked = _parse(value)
    if not asked or asked[0].first is None:
        return None
    spans = [one.select(_POSITION_MAX) for one in asked if one.first is not None]
    return next(iter(_coalesce(spans)), None)


def leading_suffix_bytes(value: str) -> int:
    """How many of the last bytes the answer to a Range header begins with, where the header counts
    from the end; else 0.
    """
    asked = _parse(value)
    return asked[0].last or 0 if asked and asked[0].first is None else 0


def parse_ranges(
    value: str, size_bytes: int, ranges_max: int = RANGES_MAX
) -> tuple[Span, ...] | RangeOutcome:
    """The bytes that a Range header selects of an object of ``size_bytes``, as they are to be sent.

    At least one span, none empty, no two of them nearer than ``PART_BYTES``; in the order in which
    they were asked for, where one that is made of several stands in the first one's place
    (§15.3.7.2).
    """
    asked = _parse(value, ranges_max)
    if asked is None:
        return RangeOutcome.IGNORED
    if not size_bytes and any(one.first is None and one.last for one in asked):
        return RangeOutcome.IGNORED  # the last bytes of nothing are all of it (§14.1.2)
    return _coalesce([one.select(size_bytes) for one in asked]) or RangeOutcome.UNSATISFIABLE


def _parse(value: str, ranges_max: int = RANGES_MAX) -> list[_Range] | None:
    """The ranges of a header, at least one; None when it is to be ignored."""
    unit = _UNIT.match(value)
    if unit is None:
        return None
    asked: list[_Range] = []
    for element in value[unit.end() :].split(","):
        spelled = element.strip(" \t")
        if not spelled:
            continue  # lists may have empty elements (§5.6.1.2)
        match = _RANGE.fullmatch(spelled)
        if match is None or not (match[1] or match[2]) or len(asked) == ranges_max:
            return None
        first = _position(match[1]) if match[1] else None
        last = _position(match[2]) if match[2] else None
        if first is not None and last is not None and last < first:
            return None
        asked.append(_Range(first, last))
    return asked or None


def _position(digits: str) -> int:
    significant = digits.lstrip("0")
    return int(significant or "0") if len(significant) <= _DIGITS_MAX else _POSITION_MAX


def _coalesce(spans: Iterable[Span]) -> tuple[Span, ...]:
    """The same bytes without repetitions, and without gaps that are not worth a part."""
    joined: list[tuple[int, Span]] = []  # each with its place in the request
    satisfiable = [(place, span) for place, span in enumerate(spans) if span.size]
    for place, span in sorted(satisfiable, key=lambda one: one[1]):
        if joined and span.start - joined[-1][1].end < PART_BYTES:
            before, reach = joined[-1]
            joined[-1] = min(before, place), Span(reach.start, max(reach.end, span.end))
        else:
            joined.append((place, span))
    return tuple(span for _place, span in sorted(joined))


@dataclass(frozen=True, slots=True)
class Multipart:
    """A body in several parts: ``parts`` are bytes as they are and spans of the object, in order.

    ``size_bytes`` is the length of all of it.
    """

    content_type: str
    parts: tuple[bytes | Span, ...]
    size_bytes: int


def multipart(
    spans: Sequence[Span], object_bytes: int, content_type: str, boundary: str
) -> Multipart:
    """The body that brings ``spans`` of an object of ``object_bytes`` and ``content_type``.

    ``boundary`` is 1 to 70 characters that need no quotes (RFC 2046 §5.1.1) and that nobody who
    writes objects could foresee: whether it occurs in the object is never looked at.
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
