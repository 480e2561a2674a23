"""An MP4 as FLV: an origin like any other, that makes bytes out of another object's bytes.

Owns the way from a span of the FLV to the source's samples, read through the same cache. What it
makes is cached as any object is, under a key that holds the source's version, so it is never
stale. It never looks at media: ``flv_layout`` has planned all of it.

The layout is held only while bytes are made: a cache keeps its assets' origins for long, and the
memory of layouts is bounded by whoever gives them out.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

from streamedge.cache.objects import Cache
from streamedge.cache.reader import Reader
from streamedge.cache.rfc9111.freshness import IMMUTABLE
from streamedge.cache.storage.records import Asset, version_parts
from streamedge.errors import MediaError, OriginError, OriginFailure
from streamedge.keys import join_key
from streamedge.media.flv.layout import FlvLayout
from streamedge.media.index_memory import Lease
from streamedge.origin import OriginHead, OriginRead, Version
from streamedge.spans import Span

PIECE_BYTES = 256 * 1024  # made at once where the source has all it needs
SMALL_PIECE_BYTES = 64 * 1024  # … and where that is still arriving, since viewers wait for it
LAYOUT_EDITION = 2  # part of every packaged version: raise it when a layout's bytes change


LayoutSource = Callable[[], Awaitable[Lease[FlvLayout]]]
"""Gives out the layout of a title, made anew if need be. Raises OriginError, MediaError."""


def packaged_asset(
    cache: Cache, source: Asset, head: OriginHead, size_bytes: int, layouts: LayoutSource
) -> Asset:
    """The asset that is ``source``, in the version of ``head``, as FLV of that size."""
    edition = str(LAYOUT_EDITION)  # what an edge of another edition has cached is another thing
    return Asset(
        key=join_key("flv", source.key, edition, *version_parts(head.version)),
        name=source.name,
        origin=Packager(cache, source, head, size_bytes, layouts),
        origin_name="packager",
        rules=IMMUTABLE,
    )


class Packager:
    """The origin of one title's FLV."""

    def __init__(
        self,
        cache: Cache,
        source: Asset,
        head: OriginHead,
        size_bytes: int,
        layouts: LayoutSource,
    ) -> None:
        self._cache = cache
        self._source = source
        self._source_head = head
        self._layouts = layouts
        version = head.version
        etag = f'"{version.etag.strip(chr(34))}-flv{LAYOUT_EDITION}"'
        self._head = OriginHead(Version(etag, size_bytes, version.last_modified_s), "video/x-flv")

    async def head(self, name: str) -> OriginHead:
        return self._head

    async def read(
        self,
        name: str,
        span: Span | None = None,
        *,
        if_match: Version | None = None,
        if_none_match: Version | None = None,
    ) -> OriginRead | None:
        if if_none_match == self._head.version:
            return None
        if if_match is not None and if_match != self._head.version:
            raise OriginError(OriginFailure.CHANGED, f"{name}: packaged anew")
        whole = Span(0, self._head.version.size_bytes)
        wanted = whole if span is None else whole.intersect(span)
        if not wanted.size:
            raise OriginError(OriginFailure.RANGE_OUTSIDE, f"{name}: ends before {span}")
        layout = await self._layout(name)
        source = self._cache.reopen(self._source, self._source_head)
        return _PackagedRead(self._head, wanted, source, layout)

    async def _layout(self, name: str) -> Lease[FlvLayout]:
        try:
            layout = await self._layouts()
        except MediaError as exc:  # though it could be read before
            raise OriginError(OriginFailure.CHANGED, f"{name}: {exc}") from exc
        if layout.value.size_bytes != self._head.version.size_bytes:
            layout.close()
            raise OriginError(OriginFailure.CHANGED, f"{name}: packaged in another size")
        return layout

    async def close(self) -> None:
        """Nothing is held between reads."""


class _PackagedRead:
    """A running packaging of one span."""

    def __init__(
        self, head: OriginHead, span: Span, source: Reader, layout: Lease[FlvLayout]
    ) -> None:
        self._head = head
        self._span = span
        self._source = source
        self._lease = layout
        self._layout = layout.value

    @property
    def head(self) -> OriginHead:
        return self._head

    @property
    def span(self) -> Span:
        return self._span

    async def pieces(self) -> AsyncIterator[bytes]:
        for wanted in self._layout.plan(self._span):
            self._source.prefetch(wanted)
        position = self._span.start
        while position < self._span.end:
            piece = self._next_piece(position)
            yield await self._make(piece)
            position = piece.end

    async def close(self) -> None:
        self._source.close()
        self._lease.close()

    def _next_piece(self, position: int) -> Span:
        piece = Span(position, min(position + PIECE_BYTES, self._span.end))
        for wanted in self._layout.plan(piece):
            if self._source.ready_end(wanted.start, wanted.end) < wanted.end:
                return Span(position, min(position + SMALL_PIECE_BYTES, self._span.end))
        return piece

    async def _make(self, piece: Span) -> bytes:
        try:
            sources = [await self._source.read(wanted) for wanted in self._layout.plan(piece)]
        except OriginError as exc:
            # The source's own fill has used up its attempts: this one must not multiply them.
            raise OriginError(exc.failure, str(exc), retried=True) from exc
        return self._layout.assemble(piece, sources)
