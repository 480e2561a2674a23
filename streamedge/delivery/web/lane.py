"""The short lane: a plain GET of an object that is open, fresh and here, answered in one breath.

Owns the decision and the head of such an answer; everything that is the same from one request to
the next is kept ready (the object's header lines, this second's date and age). Whatever is out of
the ordinary (conditions, HEAD, HTTP/1.0, a range in another form, bytes that are not here) is not
answered here: ``decide`` says None, and the general way gives the answer, byte for byte the same.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from streamedge.cache.asset import Record
from streamedge.cache.cache import Cache
from streamedge.cache.extent import Ready
from streamedge.cache.open_version import OpenVersion
from streamedge.cache.reader import CacheResult
from streamedge.delivery.distributions import Distribution
from streamedge.delivery.web.answer import Delivery, closing_lines, object_lines
from streamedge.spans import Span

REMEMBERED_MAX = 8192  # targets, and as many versions' header lines

_PLAIN_RANGE = re.compile(rb"bytes=(\d{1,18})-(\d{0,18})")
# With any of these the answer is not plain.
_ELSEWHERE = frozenset(
    {
        b"if-match",
        b"if-none-match",
        b"if-modified-since",
        b"if-unmodified-since",
        b"if-range",
        b"content-length",
        b"transfer-encoding",
        b"expect",
        b"upgrade",
    }
)


class LaneAnswer(NamedTuple):
    """An answer to send now: ``head``, then ``ready``, then what is left of ``span``."""

    status: int
    head: bytes
    ready: Ready
    span: Span
    opened: OpenVersion
    distribution: Distribution


class _Lines:
    """What is kept ready of what the origin said of an object."""

    __slots__ = ("closing", "object_lines", "record", "second")

    def __init__(self, record: Record) -> None:
        self.record = record
        self.object_lines = object_lines(record.head).encode("latin-1", "replace")
        self.second = -1
        self.closing = b""


class Lane:
    """The short lane of a worker."""

    def __init__(self, cache: Cache, edge_name: str) -> None:
        self._cache = cache
        self._edge_name = edge_name
        self._lines: dict[str, _Lines] = {}

    def decide(
        self, distribution: Distribution, key: str, fields: dict[bytes, bytes], now_s: float
    ) -> LaneAnswer | None:
        """The answer to a GET with these header fields for the asset of ``key``, or None."""
        if not _ELSEWHERE.isdisjoint(fields):
            return None
        opened = self._cache.peek(key, distribution.default_ttl_s, now_s)
        if opened is None:
            return None
        size = opened.version.size_bytes
        wanted = fields.get(b"range")
        if wanted is None:
            start, end = 0, size
            status_line = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n" % size
            status = 200
        else:
            match = _PLAIN_RANGE.fullmatch(wanted)
            if match is None:
                return None
            first, last = match.groups()
            start = int(first)
            end = min(int(last) + 1, size) if last else size
            status_line = (
                b"HTTP/1.1 206 Partial Content\r\ncontent-length: %d\r\n"
                b"content-range: bytes %d-%d/%d\r\n" % (end - start, start, end - 1, size)
            )
            status = 206
        if start >= end:
            return None
        ready = opened.ready(start, end)
        if ready is None:
            return None
        lines = self._lines.get(key)
        if lines is None or lines.record is not opened.record:
            if len(self._lines) >= REMEMBERED_MAX:
                self._lines.clear()
            lines = self._lines[key] = _Lines(opened.record)
        second = int(now_s)
        if lines.second != second:
            lines.second = second
            delivery = Delivery(self._edge_name, now_s, True, CacheResult.HIT)
            age_s = now_s - opened.record.validated_s
            lines.closing = lines.object_lines + closing_lines(age_s, delivery).encode("latin-1")
        return LaneAnswer(
            status, status_line + lines.closing, ready, Span(start, end), opened, distribution
        )
