"""Compresses cached objects; for the cache, the compressor is an origin of compressed objects.

A compressed object is cached like any object. Its key has the version of the identity object and
the compressor's edition, so it is never stale, and a changed object gets another one.
``negotiation`` decides whether to compress and builds the head. Freshness, age and fields come from
the identity object, so a later update by the origin applies to all its representations.

A cached version has a size, and the compressed size is known only at the end. So all of an object
is compressed before its first byte can be sent (at most 10 MB, which take half a second; 100 KB
take 10 ms). Compression starts when the whole object is cached, so that it never holds a slot while
it waits for an origin. Viewers of the identity object are served meanwhile, as it arrives.
"""

from __future__ import annotations

import asyncio

from streamedge.cache.objects import Cache
from streamedge.cache.reader import Reader
from streamedge.cache.rfc9111.freshness import IMMUTABLE
from streamedge.cache.storage.records import Asset, version_parts
from streamedge.delivery.http.compression.encoders import edition, start_encoder
from streamedge.delivery.http.compression.negotiation import ContentCoding, encoded_etag
from streamedge.errors import OriginError
from streamedge.keys import join_key
from streamedge.origin import OriginHead, OriginRead, Version
from streamedge.origin.whole_objects import PIECE_BYTES, read_whole
from streamedge.spans import Span

COMPRESSIONS_MAX = 2  # concurrent, per worker: they need CPU time, and memory for their windows


def encoded_key(key: str, version: Version, encoding: ContentCoding) -> str:
    """The cache key of a compressed object. ``key`` and ``version`` are those of its source."""
    return join_key("compressed", key, encoding.value, edition(encoding), *version_parts(version))


class Compressor:
    """The compressions of a worker: at most COMPRESSIONS_MAX run at a time."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._slots = asyncio.Semaphore(COMPRESSIONS_MAX)

    def encoded_asset(self, source: Asset, head: OriginHead, encoding: ContentCoding) -> Asset:
        """The compressed asset of the version ``head`` of ``source``.

        Opening it compresses the whole object, so open it only to read its bytes.
        """
        return Asset(
            key=encoded_key(source.key, head.version, encoding),
            name=source.name,
            origin=CompressedOrigin(self._cache, source, head, encoding, self._slots),
            origin_name="compressor",
            rules=IMMUTABLE,
        )


class CompressedOrigin:
    """The origin of one object: a version of ``source`` in one content coding."""

    def __init__(
        self,
        cache: Cache,
        source: Asset,
        source_head: OriginHead,
        encoding: ContentCoding,
        slots: asyncio.Semaphore,
    ) -> None:
        self._cache = cache
        self._source = source
        self._source_head = source_head
        self._encoding = encoding
        self._slots = slots

    async def head(self, name: str) -> OriginHead:
        return self._compressed_head(await self._compressed_bytes())

    async def read(
        self,
        name: str,
        span: Span | None = None,
        *,
        if_match: Version | None = None,
        if_none_match: Version | None = None,
    ) -> OriginRead | None:
        """Reads like any origin, but always returns the whole object, from its first byte on."""
        if if_none_match is not None:
            return None  # the key has the version, so the cached object is current
        compressed = await self._compressed_bytes()
        head = self._compressed_head(compressed)
        return read_whole(name, head, compressed, span, if_match, "compressed again")

    async def close(self) -> None:
        """Does nothing: no resource is held between reads."""

    def _compressed_head(self, compressed: bytes) -> OriginHead:
        source = self._source_head
        etag = encoded_etag(source.version.etag, self._encoding)
        return OriginHead(
            Version(etag, len(compressed), source.version.last_modified_s), source.content_type
        )

    async def _compressed_bytes(self) -> bytes:
        """Compresses the object."""
        source = self._cache.reopen(self._source, self._source_head)
        try:
            await _wait_for_whole(source)
            async with self._slots:
                return await self._compress(source)
        except OriginError as exc:
            # The fill of the source has retried already; another retry here would multiply them.
            raise OriginError(exc.failure, str(exc), retried=True) from exc
        finally:
            source.close()

    async def _compress(self, source: Reader) -> bytes:
        encoder = start_encoder(self._encoding, source.size_bytes)
        pieces = []
        for piece in Span(0, source.size_bytes).split(PIECE_BYTES):
            data = await source.read(piece)
            pieces.append(await asyncio.to_thread(encoder.compress, data))
        pieces.append(await asyncio.to_thread(encoder.flush))
        return b"".join(pieces)


async def _wait_for_whole(source: Reader) -> None:
    """Waits until the whole object is cached."""
    at = 0
    while (at := source.ready_end(at, source.size_bytes)) < source.size_bytes:
        await source.wait(Span(at, source.size_bytes), eager=True)
