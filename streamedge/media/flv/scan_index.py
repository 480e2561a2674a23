"""The index of an FLV file, as far as the file has been scanned.

Only the head is read at first. Tag ranges are scanned when first needed, and cached for all
viewers. A seek uses the file's own keyframe list as long as its entries are right; otherwise it is
a binary search that reads one window at a time. Damaged bytes are skipped: a play continues with
the next tag.
"""

from __future__ import annotations

import bisect

import numpy as np

from streamedge.cache.reader import Reader
from streamedge.media.flv import tags as flv
from streamedge.media.flv.codec_headers import CodecHeaders
from streamedge.media.flv.head import FlvHead
from streamedge.media.flv.index import (
    TagRange,
    TagRangeCache,
    boundary_ms,
    request_span,
    tag_range_memory_bytes,
)
from streamedge.media.flv.scan import Stop, Tags, resynchronise, scan_tags, tag_type_of
from streamedge.media.flv.tags import TagFlag
from streamedge.media.flv.timeline import Timeline, place_tags, start_shift_ms
from streamedge.media.medium import RUN_BYTES_MAX, End, NeedData, Position, Skip
from streamedge.spans import Span

WINDOW_BYTES = 128 * 1024  # read at each step of a search, more where tags are larger
WINDOW_BYTES_MAX = 2 * (flv.BODY_SIZE_MAX_BYTES + 1)
ANCHORS_MAX = 2000  # results of searches that are cached for one file
ANCHOR_BYTES = 160
SEARCH_STEPS_MAX = 40
SEARCH_NEAR_MS = 4000  # a search ends this close before its target
LISTED_TIME_ERROR_MS = 1000  # of an entry of the keyframe list, before the list is ignored
LISTED_GAP_MS = 4000  # between a listed keyframe and a time, before the next entry is verified too
SKIP_TAGS = 2  # consecutive tags that end a search for the end of damage

_OVERLAP_BYTES = 256 * 1024  # of a window without a tag, read again with the next window


class ScanIndex:
    """The index of an FLV file. ``multitrack``: multitrack tags are played too."""

    def __init__(self, head: FlvHead, size_bytes: int, *, multitrack: bool = False) -> None:
        self._head = head
        self._multitrack = multitrack
        self._size_bytes = size_bytes
        shift_ms = start_shift_ms(head.start_ms)
        self._start = Timeline(shift_ms, shift_ms)
        self._tag_ranges = TagRangeCache()
        self._anchors: list[tuple[int, int]] = []  # (time, position) of tags that searches returned
        self._headers = CodecHeaders(head, multitrack=multitrack)
        self._trusts_keyframe_list = head.keyframes is not None

    @property
    def memory_size_bytes(self) -> int:
        keyframes = self._head.keyframes
        keyframes_bytes = 0 if keyframes is None else keyframes.position.nbytes * 2
        anchors_bytes = 64 * 1024 + ANCHORS_MAX * ANCHOR_BYTES
        return (
            anchors_bytes
            + keyframes_bytes
            + tag_range_memory_bytes(self._head.duration_ms or 0, self._size_bytes)
        )

    def tag_range(
        self, reader: Reader, mark: Position, length_ms: int, until_ms: int | None
    ) -> TagRange | Skip | NeedData | End:
        is_plain = length_ms > 0 and until_ms is None
        cached = self._tag_ranges.find(reader, mark, length_ms) if is_plain else None
        if cached is not None:
            return cached
        file_end = self._size_bytes - mark.position
        window_bytes = RUN_BYTES_MAX if length_ms else flv.TAG_HEADER_SIZE_BYTES
        count_max = None if length_ms else 1
        while True:
            limit = min(mark.position + window_bytes, self._size_bytes)
            ready_end = reader.ready_end(mark.position, limit)
            data = reader.copy(Span(mark.position, ready_end))
            tags = scan_tags(
                data, file_end=file_end, count_max=count_max, multitrack=self._multitrack
            )
            if tags.count or tags.end:
                break
            if tags.stop is Stop.BUFFER_END:
                window_bytes = tags.needed_end  # a tag, and the bytes that show that it is one
            elif tags.stop is Stop.DAMAGE and window_bytes < RUN_BYTES_MAX:
                window_bytes = RUN_BYTES_MAX  # to find the next tag after it
            else:
                break
            needed_end = mark.position + window_bytes
            if ready_end < limit and tags.stop is Stop.BUFFER_END:
                # Wait for the first missing byte: the rest of a tag arrives in order.
                return NeedData(request_span(ready_end, needed_end, self._size_bytes))
            if needed_end > self._size_bytes and tags.stop is Stop.BUFFER_END:
                return End()
        if tags.count == 0:
            return self._skip_damage(mark, tags, data, ready_end, limit)
        times_ms, _ = place_tags(mark.timeline, tags.timestamp_ms, tags.flags)
        time_ms = int(times_ms[0])
        if until_ms is not None and time_ms > until_ms:
            return End()
        later = np.flatnonzero(times_ms >= boundary_ms(time_ms, length_ms, until_ms))
        count = int(later[0]) if len(later) else tags.count
        if length_ms == 0:
            count = 1
        tag_range = _tag_range_of(mark, tags, max(1, count), has_multitrack=self._multitrack)
        if is_plain and (len(later) or ready_end == limit):
            self._tag_ranges.add(mark, length_ms, tag_range)
        return tag_range

    def _skip_damage(
        self, mark: Position, tags: Tags, data: bytes, ready_end: int, limit: int
    ) -> Skip | NeedData | End:
        """Handles a position where no tag begins: skips the damaged bytes, or requests more."""
        if tags.end:  # after tags of types that are not played
            return Skip(mark._replace(position=mark.position + tags.end))
        if tags.stop is Stop.FILE_END:
            return End()
        is_file_end = ready_end == self._size_bytes
        offset = resynchronise(memoryview(data)[1:], is_file_end=is_file_end, tags_needed=SKIP_TAGS)
        if offset is not None:
            return Skip(mark._replace(position=mark.position + 1 + offset))
        if is_file_end:
            return End()
        if ready_end < limit:
            return NeedData(request_span(ready_end, limit, self._size_bytes))
        return Skip(mark._replace(position=max(mark.position + 1, ready_end - _OVERLAP_BYTES)))

    async def locate(self, reader: Reader, time_ms: int) -> Position:
        if time_ms <= 0:  # audio may begin before the first video frame
            return self._mark(self._head.first_media, 0)
        mark = await self._keyframe_before(reader, time_ms)
        await self._headers.search_before(reader, mark.position)
        return mark

    async def locate_after(self, reader: Reader, time_ms: int) -> Position:
        mark = await self._first_after(reader, time_ms)
        await self._headers.search_before(reader, mark.position)
        return mark

    def sequence_headers(self, mark: Position) -> tuple[tuple[int, bytes], ...]:
        return self._headers.headers_at(mark.position)

    def _mark(self, position: int, time_ms: int) -> Position:
        return Position(position, max(0, time_ms), timeline=self._start)

    def _medium_ms(self, tag_ms: int) -> int:
        """The time of the medium for a tag's time, if no earlier tag's time jumps."""
        return tag_ms + self._start.video_shift_ms

    async def _keyframe_before(self, reader: Reader, time_ms: int) -> Position:
        listed = await self._listed_keyframe(reader, time_ms)
        if listed is not None:
            return listed
        first = self._mark(self._head.first_media, 0)
        before_ms = time_ms
        while True:
            near = await self._search(reader, before_ms)
            keyframe = await self._last_keyframe(reader, near, time_ms)
            if keyframe is not None:
                return keyframe
            if near.position <= first.position:
                return first
            before_ms = max(0, near.time_ms - 2 * SEARCH_NEAR_MS)

    async def _listed_keyframe(self, reader: Reader, time_ms: int) -> Position | None:
        """The keyframe that onMetaData lists before a time; None if the list cannot be used."""
        keyframes = self._head.keyframes
        if keyframes is None or not self._trusts_keyframe_list:
            return None
        row = int(keyframes.time_ms.searchsorted(time_ms, side="right")) - 1
        if row < 0:
            return self._mark(self._head.first_media, 0)
        mark = await self._verified_keyframe(reader, row)
        if mark is None or time_ms - mark.time_ms <= LISTED_GAP_MS:
            return mark
        # The entry is far before the time: the list may be wrong, or lack keyframes.
        has_next = row + 1 < len(keyframes.time_ms)
        if has_next and await self._verified_keyframe(reader, row + 1) is not None:
            return mark
        return None

    async def _verified_keyframe(self, reader: Reader, row: int) -> Position | None:
        """An entry of the keyframe list, if there is a keyframe; if not, the list is ignored from
        now on.
        """
        keyframes = self._head.keyframes
        if keyframes is None:
            return None
        position = int(keyframes.position[row])
        data = await reader.read(
            Span(position, position + flv.TAG_HEADER_SIZE_BYTES + flv.CLASSIFIED_BYTES)
        )
        tag_ms = self._keyframe_ms(data)
        if tag_ms is None or abs(tag_ms - int(keyframes.time_ms[row])) > LISTED_TIME_ERROR_MS:
            self._trusts_keyframe_list = False
            return None
        return self._mark(position, tag_ms)

    def _keyframe_ms(self, data: bytes) -> int | None:
        """The time of the keyframe, or of its sequence header, at the start of ``data``."""
        if len(data) <= flv.TAG_HEADER_SIZE_BYTES:
            return None
        header = flv.parse_tag_header(data[: flv.TAG_HEADER_SIZE_BYTES])
        if header.type != flv.TagType.VIDEO:
            return None
        tag = flv.classify(header.type, data[flv.TAG_HEADER_SIZE_BYTES :])
        if not tag.flags & (TagFlag.KEYFRAME | TagFlag.SEQUENCE_HEADER):
            return None
        return self._medium_ms(header.timestamp_ms)

    async def _first_after(self, reader: Reader, time_ms: int) -> Position:
        position = (await self._search(reader, time_ms)).position
        while position < self._size_bytes:
            tags, base = await self._tags_at(reader, position)
            later = np.flatnonzero(self._medium_times(tags) > time_ms)
            if len(later):
                row = int(later[0])
                at_ms = int(self._medium_times(tags)[row])
                return self._mark(base + int(tags.position[row]), at_ms)
            if tags.count == 0:
                break
            position = base + tags.end
        return self._mark(self._size_bytes, time_ms)

    def _medium_times(self, tags: Tags) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return tags.timestamp_ms + self._start.video_shift_ms

    async def _search(self, reader: Reader, time_ms: int) -> Position:
        """A tag at or shortly before a time; the first tag if there is none."""
        low = self._mark(self._head.first_media, 0)
        high, high_ms = self._size_bytes, self._head.duration_ms or 0
        at = bisect.bisect_right(self._anchors, (time_ms, self._size_bytes))
        if at:
            low = self._mark(self._anchors[at - 1][1], self._anchors[at - 1][0])
        if at < len(self._anchors):
            high_ms, high = self._anchors[at]
        for step in range(SEARCH_STEPS_MAX):
            if time_ms - low.time_ms <= SEARCH_NEAR_MS or high - low.position <= WINDOW_BYTES:
                break
            share = 0.5
            if step % 3 < 2 and high_ms > low.time_ms:  # interpolates, and halves every third time
                share = (time_ms - SEARCH_NEAR_MS / 2 - low.time_ms) / (high_ms - low.time_ms)
            guess = low.position + int((high - low.position) * min(0.98, max(0.02, share)))
            tag = await self._tag_near(reader, guess, high)
            if tag is None or tag.position >= high:
                high, high_ms = guess, min(high_ms, time_ms)
            elif tag.time_ms > time_ms:
                high, high_ms = guess, tag.time_ms
            else:
                low = tag
                bisect.insort(self._anchors, (tag.time_ms, tag.position))
        del self._anchors[ANCHORS_MAX:]
        return low

    async def _tag_near(self, reader: Reader, guess: int, high: int) -> Position | None:
        """The first tag that begins at or after a position, before ``high``."""
        size = WINDOW_BYTES
        while True:
            window = Span(guess, min(guess + size, self._size_bytes))
            data = await reader.read(window)
            offset = resynchronise(data, is_file_end=window.end == self._size_bytes)
            if offset is not None:
                header = flv.parse_tag_header(data[offset : offset + flv.TAG_HEADER_SIZE_BYTES])
                return self._mark(guess + offset, self._medium_ms(header.timestamp_ms))
            if window.end >= min(high + WINDOW_BYTES, self._size_bytes) or size >= WINDOW_BYTES_MAX:
                return None
            size *= 2

    async def _last_keyframe(
        self, reader: Reader, start: Position, time_ms: int
    ) -> Position | None:
        """The last keyframe (without video: sample) between ``start`` and a time."""
        flags_needed = TagFlag.KEYFRAME if self._head.has_video else TagFlag.MEDIA
        position = start.position
        keyframe: Position | None = None
        while position < self._size_bytes:
            tags, base = await self._tags_at(reader, position)
            if tags.count == 0:
                break
            times = self._medium_times(tags)
            is_in_time = times <= time_ms
            rows = np.flatnonzero((tags.flags & flags_needed != 0) & is_in_time)
            if len(rows):
                row = int(rows[-1])
                keyframe = self._mark(base + int(tags.position[row]), int(times[row]))
            if not is_in_time.all():
                break
            position = base + tags.end
        return keyframe

    async def _tags_at(self, reader: Reader, position: int) -> tuple[Tags, int]:
        """Complete tags from a position on, and the file position that their positions count from.

        At least one tag, after any damaged bytes, unless the file ends before.
        """
        size = WINDOW_BYTES
        while True:
            window = Span(position, min(position + size, self._size_bytes))
            is_file_end = window.end == self._size_bytes
            data = await reader.read(window)
            tags = scan_tags(
                data, file_end=self._size_bytes - position, multitrack=self._multitrack
            )
            if tags.count:
                return tags, position
            if tags.stop is Stop.DAMAGE:
                offset = resynchronise(
                    memoryview(data)[tags.end + 1 :], is_file_end=is_file_end, tags_needed=SKIP_TAGS
                )
                if offset is not None:
                    position += tags.end + 1 + offset
                    continue
            if tags.end and tags.stop is Stop.BUFFER_END:  # only tags that are not played
                position += tags.end
                continue
            if is_file_end or size > WINDOW_BYTES_MAX:
                return tags, position
            size *= 2


def _tag_range_of(mark: Position, tags: Tags, count: int, *, has_multitrack: bool) -> TagRange:
    """The range of the first ``count`` of ``tags``, which were scanned from ``mark`` on."""
    flags, times = tags.flags[:count], tags.timestamp_ms[:count]
    is_all = count == tags.count
    end = tags.end if is_all else int(tags.position[count])
    times_ms, timeline = place_tags(mark.timeline, times, flags)
    following_ms = int(times_ms[-1])
    if not is_all:
        next_times_ms, _ = place_tags(
            timeline, tags.timestamp_ms[count : count + 1], tags.flags[count : count + 1]
        )
        following_ms = int(next_times_ms[0])
    has_one_shift = bool(np.all(times_ms - times == times_ms[0] - times[0]))
    is_sent_unchanged = tags.is_plain and int(tags.position[0]) == 0 and has_one_shift
    return TagRange(
        mark.position + end,
        int(tag_type_of(int(flags[0]))) if count == 1 else None,
        bool((flags & TagFlag.VIDEO).any()),
        int(times_ms[0]),
        Position(mark.position + end, following_ms, timeline=timeline),
        None if is_sent_unchanged else times_ms,
        has_multitrack,
    )
