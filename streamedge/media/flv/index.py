"""Indexes of the tags of an FLV: the shared parts, and the index of a packaged title.

An index finds the tag range of the next run and the position of a time. A layout has every tag;
``scan_index`` scans a file. Tag ranges end at multiples of their length, so that viewers who
started at different positions soon use the same ones.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from streamedge.cache.reader import Reader
from streamedge.media.flv.layout import FlvLayout
from streamedge.media.flv.tags import TagType
from streamedge.media.flv.timeline import Timeline
from streamedge.media.medium import RUN_BYTES_MAX, RUN_MS, End, NeedData, Position, Skip
from streamedge.spans import Span

AHEAD_BYTES = 4 * 1024 * 1024  # requested from the origin at a time
TAG_RANGES_MAX = 50_000  # cached for one file: about 14 hours of media
TAG_RANGE_BYTES = 400


class TagRange(NamedTuple):
    """Whole tags from a position to ``end``; ``tag_type`` is None if there are several.

    ``times_ms`` is None when the bytes can be sent unchanged; otherwise the tags are rewritten with
    these times, without multitrack tags unless ``has_multitrack``.
    """

    end: int
    tag_type: int | None
    has_video: bool
    time_ms: int
    following: Position
    times_ms: NDArray[np.int64] | None = None
    has_multitrack: bool = True


class TagIndex(Protocol):
    """The interface of both kinds of index."""

    @property
    def memory_size_bytes(self) -> int: ...

    def tag_range(
        self, reader: Reader, mark: Position, length_ms: int, until_ms: int | None
    ) -> TagRange | Skip | NeedData | End: ...

    async def locate(self, reader: Reader, time_ms: int) -> Position: ...

    async def locate_after(self, reader: Reader, time_ms: int) -> Position: ...

    def sequence_headers(self, mark: Position) -> tuple[tuple[int, bytes], ...]: ...


class TagRangeCache:
    """A cache of tag ranges by position, length and time line."""

    def __init__(self) -> None:
        self._by_start: dict[tuple[int, int, Timeline], TagRange] = {}

    def find(self, reader: Reader, mark: Position, length_ms: int) -> TagRange | None:
        """The tag range at a position, if it is cached and all its bytes are there."""
        tag_range = self._by_start.get((mark.position, length_ms, mark.timeline))
        if tag_range is None or reader.ready_end(mark.position, tag_range.end) != tag_range.end:
            return None
        return tag_range

    def add(self, mark: Position, length_ms: int, tag_range: TagRange) -> None:
        if len(self._by_start) >= TAG_RANGES_MAX:
            self._by_start.clear()
        self._by_start[mark.position, length_ms, mark.timeline] = tag_range


class LayoutIndex:
    """The index of a packaged title."""

    def __init__(self, layout: FlvLayout) -> None:
        self._layout = layout
        self._positions = layout.tag_position
        self._times = layout.title.dts_ms
        self._tag_ranges = TagRangeCache()

    @property
    def memory_size_bytes(self) -> int:
        layout = self._layout
        return layout.memory_size_bytes + tag_range_memory_bytes(
            layout.title.duration_ms, layout.size_bytes
        )

    def tag_range(
        self, reader: Reader, mark: Position, length_ms: int, until_ms: int | None
    ) -> TagRange | NeedData | End:
        is_plain = length_ms > 0 and until_ms is None
        cached = self._tag_ranges.find(reader, mark, length_ms) if is_plain else None
        if cached is not None:
            return cached
        first = mark.row
        if first >= len(self._times):
            return End()
        time_ms = int(self._times[first])
        if until_ms is not None and time_ms > until_ms:
            return End()
        start, first_end = int(self._positions[first]), int(self._positions[first + 1])
        limit = first_end if length_ms == 0 else max(first_end, start + RUN_BYTES_MAX)
        limit = min(limit, self._layout.size_bytes)
        ready_end = reader.ready_end(start, limit)
        ready = int(self._positions.searchsorted(np.int64(ready_end), side="right")) - 1
        if ready <= first:
            # Wait for the first missing byte: the rest of a tag arrives in order.
            return NeedData(request_span(ready_end, first_end, self._layout.size_bytes))
        end_ms = boundary_ms(time_ms, length_ms, until_ms)
        end_row = max(first + 1, int(self._times.searchsorted(np.uint32(end_ms))))
        last = first + 1 if length_ms == 0 else min(ready, end_row)
        is_video = self._layout.title.is_video[first:last]
        tag_range = TagRange(
            int(self._positions[last]),
            None if last - first > 1 else TagType.VIDEO if is_video[0] else TagType.AUDIO,
            bool(is_video.any()),
            time_ms,
            self._mark(last),
        )
        if is_plain and (last == end_row or ready_end == limit):
            self._tag_ranges.add(mark, length_ms, tag_range)
        return tag_range

    async def locate(self, reader: Reader, time_ms: int) -> Position:
        if time_ms <= 0:
            return self._mark(0)  # audio may begin before the first video frame
        point = self._layout.seek(min(time_ms, int(self._times[-1])))
        return Position(point.position, point.time_ms, point.sample)

    async def locate_after(self, reader: Reader, time_ms: int) -> Position:
        limit = np.uint32(min(max(0, time_ms), int(self._times[-1])))
        return self._mark(int(self._times.searchsorted(limit, side="right")))

    def sequence_headers(self, mark: Position) -> tuple[tuple[int, bytes], ...]:
        return self._layout.sequence_headers(mark.row)

    def _mark(self, row: int) -> Position:
        time_ms = int(self._times[min(row, len(self._times) - 1)])
        return Position(int(self._positions[row]), time_ms, row)


def boundary_ms(time_ms: int, length_ms: int, until_ms: int | None) -> int:
    """The end time of a tag range: a multiple of its length, at least half a length away.

    Viewers that started at different positions soon use the same tag ranges.
    """
    length_ms = max(1, length_ms)
    boundary_ms = ((time_ms + length_ms // 2) // length_ms + 1) * length_ms
    return boundary_ms if until_ms is None else min(boundary_ms, until_ms + 1)


def tag_range_memory_bytes(duration_ms: int, size_bytes: int) -> int:
    """The memory that the tag ranges of a medium may take, in bytes."""
    tag_ranges = duration_ms // RUN_MS + size_bytes // RUN_BYTES_MAX + 1
    return TAG_RANGE_BYTES * min(TAG_RANGES_MAX, tag_ranges)


def request_span(start: int, needed_end: int, size_bytes: int) -> Span:
    """The span to request from the origin: the missing bytes of a tag, and AHEAD_BYTES."""
    return Span(start, min(max(needed_end, start + AHEAD_BYTES), size_bytes))
