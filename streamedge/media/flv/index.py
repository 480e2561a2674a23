"""Where an FLV's tags begin: what both kinds of index share, and the index of a packaged title.

Owns stretches (which tags make the next run) and places (where a time is). A layout knows every
tag; ``flv_scan_index`` looks for them in a file. Stretches of both end where a second of media
does, so that viewers who began at different places soon walk the same ones.
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

AHEAD_BYTES = 4 * 1024 * 1024  # asked of the origin in one go
STRETCHES_MAX = 50_000  # remembered of one file: about 14 hours
KNOWN_STRETCH_BYTES = 400


class Stretch(NamedTuple):
    """Whole tags from a mark to ``end``; ``tag_type`` is the tag's if there is but one.

    ``times_ms`` is None where the bytes can be sent as they lie; else the tags are written anew,
    with these times.
    """

    end: int
    tag_type: int | None
    has_video: bool
    time_ms: int
    following: Position
    times_ms: NDArray[np.int64] | None = None


class TagIndex(Protocol):
    """What both kinds of index answer."""

    @property
    def memory_size_bytes(self) -> int: ...

    def stretch(
        self, reader: Reader, mark: Position, length_ms: int, until_ms: int | None
    ) -> Stretch | Skip | NeedData | End: ...

    async def locate(self, reader: Reader, time_ms: int) -> Position: ...

    async def locate_after(self, reader: Reader, time_ms: int) -> Position: ...

    def sequence_headers(self, mark: Position) -> tuple[tuple[int, bytes], ...]: ...


class KnownStretches:
    """Stretches that have been worked out, by where they begin, how long they are, and when."""

    def __init__(self) -> None:
        self._by_start: dict[tuple[int, int, Timeline], Stretch] = {}

    def find(self, reader: Reader, mark: Position, length_ms: int) -> Stretch | None:
        """The stretch from a mark on, if it is known and all of it is there."""
        known = self._by_start.get((mark.position, length_ms, mark.timeline))
        if known is None or reader.ready_end(mark.position, known.end) != known.end:
            return None
        return known

    def keep(self, mark: Position, length_ms: int, found: Stretch) -> None:
        if len(self._by_start) >= STRETCHES_MAX:
            self._by_start.clear()
        self._by_start[mark.position, length_ms, mark.timeline] = found


class LayoutIndex:
    """The index of a packaged title."""

    def __init__(self, layout: FlvLayout) -> None:
        self._layout = layout
        self._positions = layout.tag_position
        self._times = layout.title.dts_ms
        self._known = KnownStretches()

    @property
    def memory_size_bytes(self) -> int:
        layout = self._layout
        return layout.memory_size_bytes + known_bytes(layout.title.duration_ms, layout.size_bytes)

    def stretch(
        self, reader: Reader, mark: Position, length_ms: int, until_ms: int | None
    ) -> Stretch | NeedData | End:
        is_plain = length_ms > 0 and until_ms is None
        known = self._known.find(reader, mark, length_ms) if is_plain else None
        if known is not None:
            return known
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
            # Waiting for the first byte that lacks: the rest of a tag comes in order.
            return NeedData(ahead(ready_end, first_end, self._layout.size_bytes))
        end_ms = boundary_ms(time_ms, length_ms, until_ms)
        wanted = max(first + 1, int(self._times.searchsorted(np.uint32(end_ms))))
        last = first + 1 if length_ms == 0 else min(ready, wanted)
        is_video = self._layout.title.is_video[first:last]
        found = Stretch(
            int(self._positions[last]),
            None if last - first > 1 else TagType.VIDEO if is_video[0] else TagType.AUDIO,
            bool(is_video.any()),
            time_ms,
            self._mark(last),
        )
        if is_plain and (last == wanted or ready_end == limit):
            self._known.keep(mark, length_ms, found)
        return found

    async def locate(self, reader: Reader, time_ms: int) -> Position:
        if time_ms <= 0:
            return self._mark(0)  # sound may begin before the first picture
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
    """Where a stretch should end: at a multiple of its length, half of it away at least.

    So viewers who began at different places soon walk the same stretches.
    """
    length_ms = max(1, length_ms)
    boundary_ms = ((time_ms + length_ms // 2) // length_ms + 1) * length_ms
    return boundary_ms if until_ms is None else min(boundary_ms, until_ms + 1)


def known_bytes(duration_ms: int, size_bytes: int) -> int:
    """Memory that all stretches of a medium will take, counted before it is taken."""
    stretches = duration_ms // RUN_MS + size_bytes // RUN_BYTES_MAX + 1
    return KNOWN_STRETCH_BYTES * min(STRETCHES_MAX, stretches)


def ahead(start: int, needed_end: int, size_bytes: int) -> Span:
    """What to ask the origin for: the tag that lacks, and some more behind it."""
    return Span(start, min(max(needed_end, start + AHEAD_BYTES), size_bytes))
