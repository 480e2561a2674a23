"""The codec headers of an FLV file that apply at a position.

A recording whose encoder was restarted, or that was joined from several, has headers in its middle.
A viewer that starts behind them needs those. They are searched backwards from the position, in the
parts not searched yet, within limits of time and bytes. The results are remembered for all viewers.
"""

from __future__ import annotations

import asyncio
import bisect

from streamedge.cache.reader import Reader
from streamedge.media.flv import tags as flv
from streamedge.media.flv.head import FlvHead
from streamedge.media.flv.scan import Stop, resynchronise, scan_tags, tag_type_of
from streamedge.media.flv.tags import TagFlag, TagType
from streamedge.spans import Span

SEARCH_S = 0.5  # that a search for headers may delay a viewer
SEARCH_BYTES_MAX = 64 * 1024 * 1024  # that one may look through where they are in the cache
COLD_BYTES_MAX = 3 * 512 * 1024  # before a place, that are read from the origin for this alone
HEADERS_MAX = 1024  # remembered of one file

_WINDOW_BYTES = 512 * 1024
_WINDOW_BYTES_MAX = 16 * 1024 * 1024
_CLASSIC_WITH_HEADERS = frozenset({7, 10, 12, 13, 14})


class CodecHeaders:
    """What is known of one file's headers."""

    def __init__(self, head: FlvHead) -> None:
        self._head = head
        self._at: list[tuple[int, int, bytes]] = []  # position, tag type, body
        self._looked: list[tuple[int, int]] = [(0, head.first_media)]  # apart, in order
        self._lock = asyncio.Lock()

    def in_force(self, position: int) -> tuple[tuple[int, bytes], ...]:
        """Tag types and bodies, video first, of the headers before a position, if it is known."""
        first = (
            (int(TagType.VIDEO), self._head.video_sequence_header),
            (int(TagType.AUDIO), self._head.audio_sequence_header),
        )
        found = {kind: body for kind, body in first if body is not None}
        passed = self._at[: bisect.bisect_left(self._at, (position,))]
        found |= {kind: body for _, kind, body in passed}
        return tuple(sorted(found.items(), reverse=True))

    async def look_before(self, reader: Reader, position: int) -> None:
        """Looks for the headers before a position; gives up where that takes too long."""
        try:
            async with asyncio.timeout(SEARCH_S), self._lock:
                await self._look(reader, position)
        except TimeoutError:
            return

    async def _look(self, reader: Reader, position: int) -> None:
        end = position
        lacking = self._kinds_with_headers()
        left_bytes = SEARCH_BYTES_MAX
        while lacking and left_bytes > 0:
            end = self._unlooked_end(end)
            if end <= self._head.first_media:
                return
            is_cold = reader.ready_end(max(0, end - _WINDOW_BYTES), end) < end
            if is_cold and position - end >= COLD_BYTES_MAX:
                return
            start, found = await self._window(reader, end)
            left_bytes -= end - start
            self._remember(start, end, found)
            lacking -= {kind for at, kind, _ in self._at if start <= at < position}
            end = start
            await asyncio.sleep(0)  # whatever was there already must not keep others waiting

    def _kinds_with_headers(self) -> set[int]:
        """The kinds of tags that need a header; what the head does not know of may."""
        codecs = {
            int(TagType.VIDEO): self._head.video_codec, int(TagType.AUDIO): self._head.audio_codec
        }  # fmt: skip
        return {
            kind
            for kind, codec in codecs.items()
            if codec is None or isinstance(codec, str) or codec in _CLASSIC_WITH_HEADERS
        }

    def _unlooked_end(self, end: int) -> int:
        """Where the part begins, counted backwards from ``end``, that was not looked through."""
        for start, looked_end in reversed(self._looked):
            if start < end <= looked_end:
                return start
        return end

    async def _window(self, reader: Reader, end: int) -> tuple[int, list[tuple[int, int, bytes]]]:
        """Headers in a window before ``end``, and where its first tag begins."""
        floor = max(
            (looked for _, looked in self._looked if looked < end), default=self._head.first_media
        )
        size = _WINDOW_BYTES
        while True:
            start = max(floor, end - size)
            data = await reader.read(Span(start, end))
            first = 0 if start == floor else resynchronise(data, is_file_end=True)
            if first is not None:
                break
            if size >= _WINDOW_BYTES_MAX:
                first = 0
                break
            size *= 2
        found: list[tuple[int, int, bytes]] = []
        position = first
        while True:
            tags = scan_tags(data, position, file_end=len(data))
            for row in range(tags.count):
                if tags.flags[row] & TagFlag.SEQUENCE_HEADER:
                    at = int(tags.position[row])
                    header = flv.parse_tag_header(data[at : at + flv.TAG_HEADER_SIZE_BYTES])
                    body = data[at + flv.TAG_HEADER_SIZE_BYTES :][: header.size_bytes]
                    found.append((start + at, int(tag_type_of(int(tags.flags[row]))), body))
            if tags.stop is not Stop.DAMAGE:
                break
            behind = resynchronise(memoryview(data)[tags.end + 1 :], is_file_end=True)
            if behind is None:
                break
            position = tags.end + 1 + behind
        return start + first, found

    def _remember(self, start: int, end: int, found: list[tuple[int, int, bytes]]) -> None:
        for header in found[-HEADERS_MAX:]:
            bisect.insort(self._at, header)
        del self._at[: max(0, len(self._at) - HEADERS_MAX)]
        joined = [*self._looked, (start, end)]
        joined.sort()
        merged = joined[:1]
        for low, high in joined[1:]:
            if low <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(merged[-1][1], high))
            else:
                merged.append((low, high))
        self._looked = merged
