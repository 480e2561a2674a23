"""An FLV in the cache as a medium, be it a file or a packaged title.

It has one viewer's reader; the index finds the tags.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from streamedge.cache.open_object import Failure
from streamedge.cache.reader import Reader
from streamedge.media.flv.head import FlvHead
from streamedge.media.flv.index import AHEAD_BYTES, TagIndex, TagRange
from streamedge.media.flv.scan import rewrite_tags
from streamedge.media.index_memory import Lease
from streamedge.media.medium import End, MediumHead, NeedData, Position, Run, Skip, track_maps
from streamedge.media.script_data import ScriptObject
from streamedge.spans import Span

AHEAD_LEAD_BYTES = AHEAD_BYTES // 2  # request more when less than this is on its way


class FlvMedium:
    """``reader`` reads the FLV, and is closed with the medium.

    ``source`` is a reader of the object: a packaged FLV belongs to its version and does not change.
    ``owned`` are closed with the medium: the lease on its index, and a reader of a source without a
    validator, so that its running response continues while the medium plays.
    """

    def __init__(
        self,
        name: str,
        head: MediumHead,
        index: TagIndex,
        reader: Reader,
        source: Reader,
        *owned: Reader | Lease[Any],
    ) -> None:
        self.name = name
        self.head = head
        self.result = source.result
        self.is_current = source.is_current
        self.provenance = source.provenance
        self._index = index
        self._reader = reader
        self._owned = owned

    async def locate(self, time_ms: int) -> Position:
        return await self._index.locate(self._reader, time_ms)

    async def locate_after(self, time_ms: int) -> Position:
        return await self._index.locate_after(self._reader, time_ms)

    def sequence_headers(self, mark: Position) -> tuple[tuple[int, bytes], ...]:
        return self._index.sequence_headers(mark)

    def next_run(
        self, mark: Position, length_ms: int, until_ms: int | None
    ) -> Run | Skip | NeedData | End:
        tag_range = self._index.tag_range(self._reader, mark, length_ms, until_ms)
        if not isinstance(tag_range, TagRange):
            return tag_range
        ahead = Span(tag_range.end, min(tag_range.end + AHEAD_BYTES, self._reader.size_bytes))
        if not self._reader.is_complete(ahead.start):
            self._reader.prefetch(ahead, AHEAD_LEAD_BYTES)
        span = Span(mark.position, tag_range.end)
        body = None
        if tag_range.times_ms is not None:
            body = rewrite_tags(
                self._reader.copy(span),
                tag_range.times_ms,
                multitrack=tag_range.has_multitrack,
            )
        return Run(
            self._reader,
            span,
            body,
            tag_range.tag_type,
            tag_range.has_video,
            tag_range.time_ms,
            tag_range.following,
        )

    def when_ready(
        self, span: Span, callback: Callable[[Failure | None], None]
    ) -> Callable[[], None]:
        return self._reader.when_ready(span, callback, eager=True, lead_bytes=AHEAD_LEAD_BYTES)

    def close(self) -> None:
        self._reader.close()
        for each in self._owned:
            each.close()


def medium_head(head: FlvHead, *, multitrack: bool = False) -> MediumHead:
    """The head of an FLV file. ``multitrack``: its metadata describe all tracks."""
    metadata: ScriptObject = {
        name: value
        for name, value in head.metadata.items()
        if isinstance(value, bool | int | float | str)
    }
    duration_ms = head.duration_ms or 0
    metadata["duration"] = duration_ms / 1000
    for name, codec in (("videocodecid", head.video_codec), ("audiocodecid", head.audio_codec)):
        if codec is not None:
            metadata[name] = (
                int.from_bytes(codec.encode("latin-1")) if isinstance(codec, str) else codec
            )
    return MediumHead(
        duration_ms=duration_ms,
        metadata=metadata,
        enhanced=frozenset(
            codec for codec in (head.video_codec, head.audio_codec) if isinstance(codec, str)
        ),
        has_video=head.has_video,
        track_maps=track_maps(head.metadata) if multitrack else {},
    )
