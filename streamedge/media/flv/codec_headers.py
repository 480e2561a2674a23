"""The codec headers of an FLV file that apply at a position.

A recording whose encoder was restarted, or that was joined from several, has codec headers in its
middle. A viewer that starts after them needs them. The search goes backwards from the position,
through the parts that were not searched yet, within limits of time and bytes. The results are
cached for all viewers.
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

SEARCH_S = 0.5  # the longest delay that a search for headers may cause a viewer
SEARCH_BYTES_MAX = 64 * 1024 * 1024  # most bytes that one search reads, if they are in the cache
COLD_BYTES_MAX = 3 * 512 * 1024  # searched before a position if not cached
HEADERS_MAX = 1024  # cached for one file

_WINDOW_BYTES = 512 * 1024
_WINDOW_BYTES_MAX = 16 * 1024 * 1024
_CLASSIC_WITH_HEADERS = frozenset({7, 10, 12, 13, 14})


class CodecHeaders:
    """The codec headers of one file that were found so far.

    ``multitrack``: those of multitrack packets are included.
    """

    def __init__(self, head: FlvHead, *, multitrack: bool = False) -> None:
        self._head = head
        self._multitrack = multitrack
        self._headers: list[tuple[int, int, bytes]] = []  # position, tag type, body
        self._searched: list[tuple[int, int]] = [(0, head.first_media)]  # apart, in order
        self._lock = asyncio.Lock()

    def headers_at(self, position: int) -> tuple[tuple[int, bytes], ...]:
        """Tag types and bodies, video first, of the last headers before a position, as far as the
        file was searched.
        """
        head_headers = (
            (int(TagType.VIDEO), self._head.video_sequence_header),
            (int(TagType.AUDIO), self._head.audio_sequence_header),
        )
        bodies = {(kind, 0): body for kind, body in head_headers if body is not None}
        if self._multitrack:
            bodies |= {
                (kind, flv.header_track(kind, body)): body
                for kind, body in self._head.multitrack_headers
            }
        headers_before = self._headers[: bisect.bisect_left(self._headers, (position,))]
        bodies |= {(kind, flv.header_track(kind, body)): body for _, kind, body in headers_before}
        ordered = sorted(bodies, key=lambda track: (-track[0], track[1]))
        return tuple((track[0], bodies[track]) for track in ordered)

    async def search_before(self, reader: Reader, position: int) -> None:
        """Searches for the headers before a position, for at most SEARCH_S."""
        try:
            async with asyncio.timeout(SEARCH_S), self._lock:
                await self._search(reader, position)
        except TimeoutError:
            return

    async def _search(self, reader: Reader, position: int) -> None:
        end = position
        missing_kinds = self._kinds_with_headers()
        left_bytes = SEARCH_BYTES_MAX
        while missing_kinds and left_bytes > 0:
            end = self._unsearched_end(end)
            if end <= self._head.first_media:
                return
            is_cold = reader.ready_end(max(0, end - _WINDOW_BYTES), end) < end
            if is_cold and position - end >= COLD_BYTES_MAX:
                return
            start, headers = await self._window(reader, end)
            left_bytes -= end - start
            self._remember(start, end, headers)
            missing_kinds -= {
                kind
                for at, kind, body in self._headers
                if start <= at < position and flv.header_track(kind, body) == 0
            }
            end = start
            await asyncio.sleep(0)  # cached bytes are read without waiting: let other tasks run

    def _kinds_with_headers(self) -> set[int]:
        """The kinds of tags that may need a header, which includes tracks that the head has not
        seen.
        """
        codecs = {
            int(TagType.VIDEO): self._head.video_codec, int(TagType.AUDIO): self._head.audio_codec
        }  # fmt: skip
        return {
            kind
            for kind, codec in codecs.items()
            if codec is None or isinstance(codec, str) or codec in _CLASSIC_WITH_HEADERS
        }

    def _unsearched_end(self, end: int) -> int:
        """The end of the last part before ``end`` that was not searched."""
        for start, searched_end in reversed(self._searched):
            if start < end <= searched_end:
                return start
        return end

    async def _window(self, reader: Reader, end: int) -> tuple[int, list[tuple[int, int, bytes]]]:
        """The position of the first tag in a window before ``end``, and the window's headers."""
        lowest = max(
            (searched_end for _, searched_end in self._searched if searched_end < end),
            default=self._head.first_media,
        )
        size = _WINDOW_BYTES
        while True:
            start = max(lowest, end - size)
            data = await reader.read(Span(start, end))
            first = 0 if start == lowest else resynchronise(data, is_file_end=True)
            if first is not None:
                break
            if size >= _WINDOW_BYTES_MAX:
                first = 0
                break
            size *= 2
        headers: list[tuple[int, int, bytes]] = []
        position = first
        while True:
            tags = scan_tags(data, position, file_end=len(data), multitrack=self._multitrack)
            for row in range(tags.count):
                if tags.flags[row] & TagFlag.SEQUENCE_HEADER:
                    at = int(tags.position[row])
                    header = flv.parse_tag_header(data[at : at + flv.TAG_HEADER_SIZE_BYTES])
                    body = data[at + flv.TAG_HEADER_SIZE_BYTES :][: header.size_bytes]
                    headers.append((start + at, int(tag_type_of(int(tags.flags[row]))), body))
            if tags.stop is not Stop.DAMAGE:
                break
            offset = resynchronise(memoryview(data)[tags.end + 1 :], is_file_end=True)
            if offset is None:
                break
            position = tags.end + 1 + offset
        return start + first, headers

    def _remember(self, start: int, end: int, headers: list[tuple[int, int, bytes]]) -> None:
        for header in headers[-HEADERS_MAX:]:
            bisect.insort(self._headers, header)
        del self._headers[: max(0, len(self._headers) - HEADERS_MAX)]
        parts = [*self._searched, (start, end)]
        parts.sort()
        merged = parts[:1]
        for low, high in parts[1:]:
            if low <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(merged[-1][1], high))
            else:
                merged.append((low, high))
        self._searched = merged
