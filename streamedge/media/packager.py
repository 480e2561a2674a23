"""Packages an MP4 as FLV: an origin that builds its bytes from another object's bytes.

A span of the FLV is built from the source's samples, which are read through the same cache. The
result is cached like any object, under a key with the source's version, so it is never stale.
``flv.layout`` maps the bytes of the FLV to those of the source.

A layout is leased only while bytes are built, because the cache keeps the origins of its assets for
long, and the memory of layouts is limited.
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

PIECE_BYTES = 256 * 1024  # built at once when the source bytes are in the cache
SMALL_PIECE_BYTES = 64 * 1024  # … and while they arrive, because viewers wait for them
LAYOUT_EDITION = 2  # part of each packaged version: raise it when the bytes of a layout change


LayoutSource = Callable[[], Awaitable[Lease[FlvLayout]]]
"""Returns the layout of a title, built again if needed. Raises OriginError, MediaError."""


def packaged_asset(
    cache: Cache,
    source: Asset,
    head: OriginHead,
    size_bytes: int,
    layouts: LayoutSource,
    selection: str = "",
) -> Asset:
    """The asset of ``source``, in the version of ``head``, packaged as an FLV of ``size_bytes``.

    ``selection``: as ``Title.selection``; each has a key of its own.
    """
    # Other editions are cached under other keys.
    edition = f"{LAYOUT_EDITION}-{selection}" if selection else str(LAYOUT_EDITION)
    return Asset(
        key=join_key("flv", source.key, edition, *version_parts(head.version)),
        name=source.name,
        origin=Packager(cache, source, head, size_bytes, layouts, edition),
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
        edition: str,
    ) -> None:
        self._cache = cache
        self._source = source
        self._source_head = head
        self._layouts = layouts
        version = head.version
        etag = f'"{version.etag.strip(chr(34))}-flv{edition}"'
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
            raise OriginError(OriginFailure.CHANGED, f"{name}: packaged from another version")
        whole = Span(0, self._head.version.size_bytes)
        requested_span = whole if span is None else whole.intersect(span)
        if not requested_span.size:
            raise OriginError(OriginFailure.RANGE_OUTSIDE, f"{name}: ends before {span}")
        layout = await self._layout(name)
        source = self._cache.reopen(self._source, self._source_head)
        return _PackagedRead(self._head, requested_span, source, layout)

    async def _layout(self, name: str) -> Lease[FlvLayout]:
        try:
            layout = await self._layouts()
        except MediaError as exc:  # the title was valid when it was opened
            raise OriginError(OriginFailure.CHANGED, f"{name}: {exc}") from exc
        if layout.value.size_bytes != self._head.version.size_bytes:
            layout.close()
            raise OriginError(OriginFailure.CHANGED, f"{name}: packaged in another size")
        return layout

    async def close(self) -> None:
        """Does nothing: there is no state between reads."""


class _PackagedRead:
    """A read of one span."""

    def __init__(
        self, head: OriginHead, span: Span, source: Reader, layout: Lease[FlvLayout]
    ) -> None:
        self._head = head
        self._span = span
        self._source = source
        self._source.read_ahead()
        self._lease = layout
        self._layout = layout.value

    @property
    def head(self) -> OriginHead:
        return self._head

    @property
    def span(self) -> Span:
        return self._span

    async def pieces(self) -> AsyncIterator[bytes]:
        for source_span in self._layout.plan(self._span):
            self._source.prefetch(source_span)
        position = self._span.start
        while position < self._span.end:
            piece = self._next_piece(position)
            yield await self._build(piece)
            position = piece.end

    def expedite(self) -> None:
        """As ``PrioritizedRead.expedite``: the reads of the source become urgent."""
        self._source.expedite()

    async def close(self) -> None:
        self._source.close()
        self._lease.close()

    def _next_piece(self, position: int) -> Span:
        piece = Span(position, min(position + PIECE_BYTES, self._span.end))
        for source_span in self._layout.plan(piece):
            if self._source.ready_end(source_span.start, source_span.end) < source_span.end:
                return Span(position, min(position + SMALL_PIECE_BYTES, self._span.end))
        return piece

    async def _build(self, piece: Span) -> bytes:
        try:
            sources = [
                await self._source.read(source_span) for source_span in self._layout.plan(piece)
            ]
        except OriginError as exc:
            # The source's fill has used its retries: this fill must not multiply them.
            raise OriginError(exc.failure, str(exc), retried=True) from exc
        return self._layout.assemble(piece, sources)
