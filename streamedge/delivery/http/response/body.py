"""The pieces of a body that is sent part by part.

A piece is bytes, or a span of an object in the cache, which the sender sends from the cache file.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from streamedge.cache.reader import Reader
from streamedge.origin import OriginResponse
from streamedge.spans import Span

Piece = bytes | tuple[Reader, Span]


def with_reader(reader: Reader, parts: Sequence[bytes | Span]) -> list[Piece]:
    """Parts of a response as pieces; ``reader`` has the bytes of the spans."""
    return [(reader, part) if isinstance(part, Span) else part for part in parts]


async def reader_pieces(reader: Reader) -> AsyncGenerator[Piece, None]:
    """The bytes of a version as they arrive; its size may become known only at the end."""
    position = 0
    while position < reader.size_bytes:
        end = reader.ready_end(position, reader.size_bytes)
        if end == position:
            await reader.wait(Span(position, reader.size_bytes), eager=True)
        else:
            yield reader, Span(position, end)
            position = end


async def body_pieces(response: OriginResponse) -> AsyncGenerator[Piece, None]:
    """The body of an origin's response as it arrives; closes the response at the end."""
    try:
        async for piece in response.body():
            yield piece
    finally:
        response.close()
