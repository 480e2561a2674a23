"""Which bytes a Range header asks for: RFC 9110 §14.1.2 and §14.2, single ranges.

Pure: a header's value and an object's size in, a span or the lack of one out.
"""

from __future__ import annotations

import re
from enum import Enum

from streamedge.spans import Span

_DIGITS_MAX = 19  # more cannot be a position in any file
_SINGLE_RANGE = re.compile(
    rf"bytes[ \t]*=[ \t,]*(\d{{0,{_DIGITS_MAX}}})[ \t]*-[ \t]*(\d{{0,{_DIGITS_MAX}}})[ \t,]*",
    re.ASCII | re.IGNORECASE,
)


class RangeAnswer(Enum):
    """What to do with a Range header that gives no span."""

    IGNORED = "ignored"  # malformed, another unit, or several ranges: the whole object (§14.2)
    UNSATISFIABLE = "unsatisfiable"  # 416


def first_wanted(value: str) -> Span | None:
    """The span of a Range header as far as it says one without the object's size.

    For a cold object: ``end`` may lie beyond it (2^62 stands for "to the end"). None when only the
    size can tell: a suffix, or a header that will be ignored.
    """
    match = _SINGLE_RANGE.fullmatch(value)
    if match is None or not match[1]:
        return None
    first = int(match[1])
    end = int(match[2]) + 1 if match[2] else 1 << 62
    return Span(first, end) if first < end else None


def parse_range(value: str, size_bytes: int) -> Span | RangeAnswer:
    """The bytes that a Range header selects of an object of ``size_bytes``."""
    match = _SINGLE_RANGE.fullmatch(value)
    if match is None or not (match[1] or match[2]):
        return RangeAnswer.IGNORED
    if not match[1]:
        suffix = min(int(match[2]), size_bytes)
        return Span(size_bytes - suffix, size_bytes) if suffix else RangeAnswer.UNSATISFIABLE
    first = int(match[1])
    end = int(match[2]) + 1 if match[2] else size_bytes
    if match[2] and end <= first:
        return RangeAnswer.IGNORED
    if first >= size_bytes:
        return RangeAnswer.UNSATISFIABLE
    return Span(first, min(end, size_bytes))
