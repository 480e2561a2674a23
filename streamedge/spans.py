"""Half-open byte ranges and their arithmetic.

All layers use it for "bytes a to b" of something. Pure integers, no I/O.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Span(NamedTuple):
    """The bytes ``start <= position < end``. A span with ``end <= start`` is empty."""

    start: int
    end: int

    @property
    def size(self) -> int:
        """Number of bytes; never negative."""
        size = self.end - self.start
        return size if size > 0 else 0

    def intersect(self, other: Span) -> Span:
        """The bytes in both; empty (size 0) when they share none."""
        start = max(self.start, other.start)
        return Span(start, max(start, min(self.end, other.end)))

    def contains(self, other: Span) -> bool:
        """Whether every byte of ``other`` is in this span."""
        return other.size == 0 or (self.start <= other.start and other.end <= self.end)

    def shift(self, distance: int) -> Span:
        """The same number of bytes, ``distance`` further on."""
        return Span(self.start + distance, self.end + distance)

    def align(self, unit: int) -> Span:
        """The smallest span of whole ``unit``-sized blocks that contains this one."""
        return Span(self.start // unit * unit, -(-self.end // unit) * unit)

    def split(self, unit: int) -> Iterator[Span]:
        """Splits the span at multiples of ``unit``, in order."""
        start = self.start
        while start < self.end:
            end = min(self.end, (start // unit + 1) * unit)
            yield Span(start, end)
            start = end


NO_BYTES = Span(0, 0)
