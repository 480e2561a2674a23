"""Where an FLV's tags begin: of a packaged title by its layout, of a file by looking.

Owns stretches (which tags make the next run) and places (where a time is). A layout knows every
tag. Of a file only the head is known: its stretches are scanned when first needed and remembered
for all viewers, and a seek without a keyframe list halves its way through the file, reading a
window at a time. Stretches of a file end where a second of media does, so that viewers who began
at different places soon walk the same ones.
"""

from __future__ import annotations

import bisect
from typing import NamedTuple, Protocol

import numpy as np

from streamedge.cache.reader import Reader
from streamedge.media import flv
from streamedge.media.flv import TagFlag, TagType
from streamedge.media.flv_head import FlvHead
from streamedge.media.flv_layout import FlvLayout
from streamedge.media.flv_scan import Tags, resynchronise, scan_tags
from streamedge.media.medium import RUN_BYTES_MAX, RUN_MS, End, Lacking, Mark
from streamedge.spans import Span

AHEAD_BYTES = 4 * 1024 * 1024  # asked of the origin in one go
STRETCHES_MAX = 50_000  # remembered of one file: about 14 hours
WINDOW_BYTES = 128 * 1024  # read at each step of a search, more where tags are larger
WINDOW_BYTES_MAX = 2 * (flv.BODY_SIZE_MAX_BYTES + 1)
SEARCH_STEPS_MAX = 40
SEARCH_NEAR_MS = 4000  # a search ends this close before its target

_KIND_FLAGS = TagFlag.AUDIO | TagFlag.VIDEO | TagFlag.SCRIPT
_TAG_TYPES = {
    TagFlag.AUDIO: TagType.AUDIO,
    TagFlag.VIDEO: TagType.VIDEO,
    TagFlag.SCRIPT: TagType.SCRIPT,
}


class Stretch(NamedTuple):
    """Whole tags from a mark to ``end``; ``tag_type`` is the tag's if there is but one."""

    end: int
    tag_type: int | None
    has_video: bool
    time_ms: int
    following: Mark


class TagIndex(Protocol):
    """What both kinds of index answer."""

    @property
    def memory_size_bytes(self) -> int: ...

    def stretch(
        self, reader: Reader, mark: Mark, length_ms: int, until_ms: int | None
    ) -> Stretch | Lacking | End: ...

    async def locate(self, reader: Reader, time_ms: int) -> Mark: ...

    async def locate_after(self, reader: Reader, time_ms: int) -> Mark: ...

    def sequence_headers(self, mark: Mark) -> tuple[tuple[int, bytes], ...]: ...


class _KnownStretches:
    """Stretches that have been worked out, by where they begin and how long they are."""

    def __init__(self) -> None:
        self._by_start: dict[tuple[int, int], Stretch] = {}

    def find(self, reader: Reader, position: int, length_ms: int) -> Stretch | None:
        """The stretch from ``position`` on, if it is known and all of it is there."""
        known = self._by_start.get((position, length_ms))
        if known is None or reader.ready_end(position, known.end) != known.end:
            return None
        return known

    def keep(self, position: int, length_ms: int, found: Stretch) -> None:
        if len(self._by_start) >= STRETCHES_MAX:
            self._by_start.clear()
        self._by_start[position, length_ms] = found


class LayoutIndex:
    """The index of a packaged title."""

    def __init__(self, layout: FlvLayout) -> None:
        self._layout = layout
        self._positions = layout.tag_position
        self._times = layout.title.dts_ms
        self._known = _KnownStretches()

    @property
    def memory_size_bytes(self) -> int:
        return self._layout.memory_size_bytes + _known_bytes(self._layout.title.duration_ms)

    def stretch(
        self, reader: Reader, mark: Mark, length_ms: int, until_ms: int | None
    ) -> Stretch | Lacking | End:
        is_plain = length_ms > 0 and until_ms is None
        known = self._known.find(reader, mark.position, length_ms) if is_plain else None
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
            return Lacking(_ahead(ready_end, first_end, self._layout.size_bytes))
        end_ms = _boundary_ms(time_ms, length_ms, until_ms)
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
            self._known.keep(mark.position, length_ms, found)
        return found

    async def locate(self, reader: Reader, time_ms: int) -> Mark:
        if time_ms <= 0:
            return self._mark(0)  # sound may begin before the first picture
        point = self._layout.seek(min(time_ms, int(self._times[-1])))
        return Mark(point.position, point.time_ms, point.sample)

    async def locate_after(self, reader: Reader, time_ms: int) -> Mark:
        limit = np.uint32(min(max(0, time_ms), int(self._times[-1])))
        return self._mark(int(self._times.searchsorted(limit, side="right")))

    def sequence_headers(self, mark: Mark) -> tuple[tuple[int, bytes], ...]:
        return self._layout.sequence_headers(mark.row)

    def _mark(self, row: int) -> Mark:
        time_ms = int(self._times[min(row, len(self._times) - 1)])
        return Mark(int(self._positions[row]), time_ms, row)


class ScanIndex:
    """The index of an FLV file, as far as it has been looked at."""

    def __init__(self, head: FlvHead, size_bytes: int) -> None:
        self._head = head
        self._size_bytes = size_bytes
        self._known = _KnownStretches()
        self._anchors: list[tuple[int, int]] = []  # (time, position) of tags found by searching

    @property
    def memory_size_bytes(self) -> int:
        keyframes = self._head.keyframes
        listed = 0 if keyframes is None else keyframes.position.nbytes * 2
        return 64 * 1024 + listed + _known_bytes(self._head.duration_ms or 0)

    def stretch(
        self, reader: Reader, mark: Mark, length_ms: int, until_ms: int | None
    ) -> Stretch | Lacking | End:
        is_plain = length_ms > 0 and until_ms is None
        known = self._known.find(reader, mark.position, length_ms) if is_plain else None
        if known is not None:
            return known
        if length_ms == 0:
            return self._one_tag(reader, mark, until_ms)
        limit = min(mark.position + RUN_BYTES_MAX, self._size_bytes)
        ready_end = reader.ready_end(mark.position, limit)
        tags = scan_tags(reader.copy(Span(mark.position, ready_end)))
        if tags.count == 0:
            return self._one_tag(reader, mark, until_ms)
        times = tags.timestamp_ms
        time_ms = int(times[0])
        if until_ms is not None and time_ms > until_ms:
            return End()
        beyond = np.flatnonzero(times >= _boundary_ms(time_ms, length_ms, until_ms))
        count = int(beyond[0]) if len(beyond) else tags.count
        found = _stretch_of(tags, count, mark.position)
        if is_plain and (len(beyond) or ready_end == limit):
            self._known.keep(mark.position, length_ms, found)
        return found

    async def locate(self, reader: Reader, time_ms: int) -> Mark:
        listed = self._head.keyframes
        first = Mark(self._head.first_media, 0)
        if time_ms <= 0:
            return first  # sound may begin before the first picture
        if listed is not None:
            row = int(listed.time_ms.searchsorted(time_ms, side="right")) - 1
            if row < 0:
                return first
            return Mark(int(listed.position[row]), int(listed.time_ms[row]))
        before_ms = time_ms
        while True:
            near = await self._search(reader, before_ms)
            found = await self._last_keyframe(reader, near, time_ms)
            if found is not None:
                return found
            if near.position <= first.position:
                return first
            before_ms = max(0, near.time_ms - 2 * SEARCH_NEAR_MS)

    async def locate_after(self, reader: Reader, time_ms: int) -> Mark:
        position = (await self._search(reader, time_ms)).position
        while position < self._size_bytes:
            tags = await self._tags_at(reader, position)
            later = np.flatnonzero(tags.timestamp_ms > time_ms)
            if len(later):
                row = int(later[0])
                return Mark(position + int(tags.position[row]), int(tags.timestamp_ms[row]))
            if tags.count == 0:
                break
            position += tags.end
        return Mark(self._size_bytes, time_ms)

    def sequence_headers(self, mark: Mark) -> tuple[tuple[int, bytes], ...]:
        headers = (
            (TagType.VIDEO, self._head.video_sequence_header),
            (TagType.AUDIO, self._head.audio_sequence_header),
        )
        return tuple((kind, body) for kind, body in headers if body is not None)

    def _one_tag(self, reader: Reader, mark: Mark, until_ms: int | None) -> Stretch | Lacking | End:
        """The tag at a mark by itself, however large."""
        header_end = mark.position + flv.TAG_HEADER_SIZE_BYTES
        if header_end > self._size_bytes:
            return End()
        ready_end = reader.ready_end(mark.position, header_end)
        if ready_end < header_end:
            # Waiting for the first byte that lacks: the rest of a tag comes in order.
            return Lacking(_ahead(ready_end, header_end, self._size_bytes))
        header_bytes = reader.copy(Span(mark.position, header_end))
        scan_tags(header_bytes)  # raises for what is no tag's
        header = flv.parse_tag_header(header_bytes)
        end = header_end + header.size_bytes + flv.PREVIOUS_TAG_SIZE_BYTES
        if end > self._size_bytes:
            return End()  # a file that was cut off ends before its last tag
        ready_end = reader.ready_end(mark.position, end)
        if ready_end < end:
            return Lacking(_ahead(ready_end, end, self._size_bytes))
        if until_ms is not None and header.timestamp_ms > until_ms:
            return End()
        tags = scan_tags(reader.copy(Span(mark.position, end)))
        return _stretch_of(tags, 1, mark.position)

    async def _search(self, reader: Reader, time_ms: int) -> Mark:
        """A tag at or before a time, not far before it; the first one if there is none."""
        low = Mark(self._head.first_media, 0)
        high, high_ms = self._size_bytes, self._head.duration_ms or 0
        at = bisect.bisect_right(self._anchors, (time_ms, self._size_bytes))
        if at:
            low = Mark(self._anchors[at - 1][1], self._anchors[at - 1][0])
        if at < len(self._anchors):
            high_ms, high = self._anchors[at]
        for step in range(SEARCH_STEPS_MAX):
            if time_ms - low.time_ms <= SEARCH_NEAR_MS or high - low.position <= WINDOW_BYTES:
                break
            share = 0.5
            if step % 3 < 2 and high_ms > low.time_ms:  # guesses by rate, and now and then halves
                share = (time_ms - SEARCH_NEAR_MS / 2 - low.time_ms) / (high_ms - low.time_ms)
            guess = low.position + int((high - low.position) * min(0.98, max(0.02, share)))
            found = await self._tag_near(reader, guess, high)
            if found is None or found.position >= high:
                high, high_ms = guess, min(high_ms, time_ms)
            elif found.time_ms > time_ms:
                high, high_ms = guess, found.time_ms
            else:
                low = found
                bisect.insort(self._anchors, (found.time_ms, found.position))
        del self._anchors[STRETCHES_MAX:]
        return low

    async def _tag_near(self, reader: Reader, guess: int, high: int) -> Mark | None:
        """The first tag that begins at or after a position, before ``high``."""
        size = WINDOW_BYTES
        while True:
            window = Span(guess, min(guess + size, self._size_bytes))
            data = await reader.read(window)
            found = resynchronise(data, is_file_end=window.end == self._size_bytes)
            if found is not None:
                header = flv.parse_tag_header(data[found : found + flv.TAG_HEADER_SIZE_BYTES])
                return Mark(guess + found, header.timestamp_ms)
            if window.end >= min(high + WINDOW_BYTES, self._size_bytes) or size >= WINDOW_BYTES_MAX:
                return None
            size *= 2

    async def _last_keyframe(self, reader: Reader, start: Mark, time_ms: int) -> Mark | None:
        """The last place to begin from ``start`` up to a time."""
        wanted = TagFlag.KEYFRAME if self._head.has_video else TagFlag.MEDIA
        position = start.position
        found: Mark | None = None
        while position < self._size_bytes:
            tags = await self._tags_at(reader, position)
            if tags.count == 0:
                break
            in_time = tags.timestamp_ms <= time_ms
            rows = np.flatnonzero((tags.flags & wanted != 0) & in_time)
            if len(rows):
                row = int(rows[-1])
                found = Mark(position + int(tags.position[row]), int(tags.timestamp_ms[row]))
            if not in_time.all():
                break
            position += tags.end
        return found

    async def _tags_at(self, reader: Reader, position: int) -> Tags:
        """Whole tags from a tag's position on, at least one unless the file ends before."""
        size = WINDOW_BYTES
        while True:
            window = Span(position, min(position + size, self._size_bytes))
            tags = scan_tags(await reader.read(window))
            if tags.count or window.end == self._size_bytes or size > WINDOW_BYTES_MAX:
                return tags
            size *= 2


def _stretch_of(tags: Tags, count: int, base: int) -> Stretch:
    """The first ``count`` of tags that were scanned from position ``base`` on."""
    flags = tags.flags[:count]
    end = tags.end if count == tags.count else int(tags.position[count])
    times = tags.timestamp_ms
    following_ms = int(times[count]) if count < tags.count else int(times[count - 1])
    return Stretch(
        base + end,
        _TAG_TYPES[TagFlag(int(flags[0])) & _KIND_FLAGS] if count == 1 else None,
        bool((flags & TagFlag.VIDEO).any()),
        int(times[0]),
        Mark(base + end, following_ms),
    )


def _boundary_ms(time_ms: int, length_ms: int, until_ms: int | None) -> int:
    """Where a stretch should end: at a multiple of its length, half of it away at least.

    So viewers who began at different places soon walk the same stretches.
    """
    length_ms = max(1, length_ms)
    boundary_ms = ((time_ms + length_ms // 2) // length_ms + 1) * length_ms
    return boundary_ms if until_ms is None else min(boundary_ms, until_ms + 1)


def _known_bytes(duration_ms: int) -> int:
    """Memory that all stretches of a medium will take, counted before it is taken."""
    return 400 * min(STRETCHES_MAX, duration_ms // RUN_MS + 1)


def _ahead(start: int, needed_end: int, size_bytes: int) -> Span:
    """What to ask the origin for: the tag that lacks, and some more behind it."""
    return Span(start, min(max(needed_end, start + AHEAD_BYTES), size_bytes))
