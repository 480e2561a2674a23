"""How a body goes out whose length nobody knows yet: RFC 9112 §6 and §7.1.

Owns the chunked coding towards viewers. The bytes of a cache file stand in it as spans.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable

from streamedge.cache.reader import Reader
from streamedge.origin import Fields, OriginResponse
from streamedge.spans import Span

CHUNKED = "transfer-encoding: chunked\r\n"

Piece = bytes | tuple[Reader, Span]
Parts = tuple[Piece, ...]
"""What is pushed at once of an answer that comes part by part."""


def framing_line(size_bytes: int | None, http_version: str) -> str:
    """The header line that says where the body ends; "": where the connection does."""
    if size_bytes is not None:
        return f"content-length: {size_bytes}\r\n"
    return CHUNKED if http_version == "1.1" else ""


async def frame_body(
    pieces: AsyncIterator[Piece], framing: str, trailers: Callable[[], Fields] = list
) -> AsyncGenerator[Parts, None]:
    """The pieces of a body as they go out under ``framing``."""
    async for piece in pieces:
        if framing == CHUNKED:
            size_bytes = len(piece) if isinstance(piece, bytes) else piece[1].size
            yield b"%x\r\n" % size_bytes, piece, b"\r\n"
        else:
            yield (piece,)
    if framing == CHUNKED:
        lines = "".join(f"{name}: {value}\r\n" for name, value in trailers())
        yield (f"0\r\n{lines}\r\n".encode("latin-1", "replace"),)


async def reader_pieces(reader: Reader) -> AsyncIterator[Piece]:
    """A version's bytes as they land, up to an end that is found meanwhile."""
    position = 0
    while position < reader.size_bytes:
        end = reader.ready_end(position, reader.size_bytes)
        if end == position:
            await reader.wait(Span(position, reader.size_bytes), eager=True)
        else:
            yield reader, Span(position, end)
            position = end


async def body_pieces(response: OriginResponse) -> AsyncIterator[Piece]:
    """An origin's body as it comes; closed when there are no more readers."""
    try:
        async for piece in response.body():
            yield piece
    finally:
        response.close()
