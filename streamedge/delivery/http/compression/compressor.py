"""An object in compressed form: an origin like any other, made of the identity form in the cache.

Owns the way from a version of an object to its compressed bytes. What it makes is cached as any
object is, beside the identity form, under a key that holds that version and the compressor's
edition: so it is never stale, and a changed object has another. Whether to compress, and what the
answer says of itself, is decided in ``encodings``; freshness, age and header fields are the
identity form's, so that what the origin says later of an unchanged object holds for all its forms.

The size of a compressed form is known at its end only, and a cached version has a size: so an
object is compressed to its end before the first byte of that form can be answered (10 MB at most,
which take half a second; 100 KB take 10 ms). It begins when all of the object has come, because
whoever has his turn at compressing should not have to wait for an origin. Meanwhile viewers of the
identity form are served as it arrives.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from streamedge.cache.objects import Cache
from streamedge.cache.reader import Reader
from streamedge.cache.rfc9111.freshness import IMMUTABLE
from streamedge.cache.storage.records import Asset, version_parts
from streamedge.delivery.http.compression.encoders import edition, start_encoder
from streamedge.delivery.http.compression.negotiation import Encoding, encoded_etag
from streamedge.errors import OriginError, OriginFailure
from streamedge.keys import join_key
from streamedge.origin import OriginHead, OriginRead, Version
from streamedge.spans import Span

COMPRESSIONS_MAX = 2  # at once, each worker: they take processor time, and memory for their windows
PIECE_BYTES = 256 * 1024  # copied at once where viewers wait for the same thread


def encoded_key(key: str, version: Version, encoding: Encoding) -> str:
    """The cache key of the compressed form of ``version`` of the object that ``key`` names."""
    return join_key("compressed", key, encoding.value, edition(encoding), *version_parts(version))


class Compressor:
    """What a worker's compressions have in common: the cache they read, and whose turn it is."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._turns = asyncio.Semaphore(COMPRESSIONS_MAX)

    def encoded_asset(self, source: Asset, head: OriginHead, encoding: Encoding) -> Asset:
        """The asset that is ``source``, in the version of ``head``, compressed.

        Open it for any of its bytes: it is made whole or not at all. An open for the version alone
        would make it in vain.
        """
        return Asset(
            key=encoded_key(source.key, head.version, encoding),
            name=source.name,
            origin=CompressedOrigin(self._cache, source, head, encoding, self._turns),
            origin_name="compressor",
            rules=IMMUTABLE,
        )


class CompressedOrigin:
    """The origin of one version's form in one coding."""

    def __init__(
        self,
        cache: Cache,
        source: Asset,
        source_head: OriginHead,
        encoding: Encoding,
        turns: asyncio.Semaphore,
    ) -> None:
        self._cache = cache
        self._source = source
        self._source_head = source_head
        self._encoding = encoding
        self._turns = turns

    async def head(self, name: str) -> OriginHead:
        return self._head_of(await self._make())

    async def read(
        self,
        name: str,
        span: Span | None = None,
        *,
        if_match: Version | None = None,
        if_none_match: Version | None = None,
    ) -> OriginRead | None:
        """As every origin's, but what it answers is all of the form, from its first byte on."""
        if if_none_match is not None:
            return None  # whatever is known by this asset's key was made of the same version
        made = await self._make()
        head = self._head_of(made)
        if if_match is not None and if_match != head.version:
            raise OriginError(OriginFailure.CHANGED, f"{name}: compressed anew")
        if span is not None and span.start >= len(made):
            raise OriginError(OriginFailure.RANGE_OUTSIDE, f"{name}: ends before {span}")
        return _CompressedRead(head, made)

    async def close(self) -> None:
        """Nothing is held between reads."""

    def _head_of(self, made: bytes) -> OriginHead:
        source = self._source_head
        etag = encoded_etag(source.version.etag, self._encoding)
        return OriginHead(
            Version(etag, len(made), source.version.last_modified_s), source.content_type
        )

    async def _make(self) -> bytes:
        """All of the compressed form."""
        source = self._cache.reopen(self._source, self._source_head)
        try:
            await _whole(source)
            async with self._turns:
                return await self._compress(source)
        except OriginError as exc:
            # The source's own fill has used up its attempts: this one must not multiply them.
            raise OriginError(exc.failure, str(exc), retried=True) from exc
        finally:
            source.close()

    async def _compress(self, source: Reader) -> bytes:
        encoder = start_encoder(self._encoding, source.size_bytes)
        made = []
        for piece in Span(0, source.size_bytes).split(PIECE_BYTES):
            data = await source.read(piece)
            made.append(await asyncio.to_thread(encoder.compress, data))
        made.append(await asyncio.to_thread(encoder.flush))
        return b"".join(made)


async def _whole(source: Reader) -> None:
    """Returns once all of the object is here."""
    at = 0
    while (at := source.ready_end(at, source.size_bytes)) < source.size_bytes:
        await source.wait(Span(at, source.size_bytes), eager=True)


class _CompressedRead:
    """A form that has been made, being handed over."""

    def __init__(self, head: OriginHead, made: bytes) -> None:
        self._head = head
        self._made = made

    @property
    def head(self) -> OriginHead:
        return self._head

    @property
    def span(self) -> Span:
        return Span(0, len(self._made))

    async def pieces(self) -> AsyncIterator[bytes]:
        for piece in self.span.split(PIECE_BYTES):
            yield self._made[piece.start : piece.end]

    async def close(self) -> None:
        """Nothing is to be given back."""
