"""Frames response bodies for viewers, with the chunked coding too: RFC 9112 §6 and §7.1.

Bytes of a cache file stay spans, so that they can be sent with sendfile.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable

from streamedge.cache.reader import Reader
from streamedge.origin import Fields, OriginResponse
from streamedge.spans import Span

CHUNKED = "transfer-encoding: chunked\r\n"

Piece = bytes | tuple[Reader, Span]
Parts = tuple[Piece, ...]
"""Pieces that are passed to the sender in one call."""


def framing_line(size_bytes: int | None, http_version: str) -> str:
    """The header line that delimits the body; "" when only closing the connection can.

    ``size_bytes`` is None when the length is not known yet.
    """
    if size_bytes is not None:
        return f"content-length: {size_bytes}\r\n"
    return CHUNKED if http_version == "1.1" else ""


async def frame_body(
    pieces: AsyncIterator[Piece], framing: str, trailers: Callable[[], Fields] = list
) -> AsyncGenerator[Parts, None]:
    """The pieces of a body with the framing of ``framing``, a result of ``framing_line``.

    ``trailers`` is called when the body has ended; only the chunked coding sends its fields.
    """
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
    """The bytes of a reader's version as they become available, up to its end.

    The end may become known only while the bytes are read.
    """
    position = 0
    while position < reader.size_bytes:
        end = reader.ready_end(position, reader.size_bytes)
        if end == position:
            await reader.wait(Span(position, reader.size_bytes), eager=True)
        else:
            yield reader, Span(position, end)
            position = end


async def body_pieces(response: OriginResponse) -> AsyncIterator[Piece]:
    """The body of an origin's response as it arrives. Closes the response at the end."""
    try:
        async for piece in response.body():
            yield piece
    finally:
        response.close()
