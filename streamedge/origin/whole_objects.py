"""Origins that make an object whole before its first byte: its reads are from memory.

Their cache keys have the source's version, so a cached object is current.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from streamedge.errors import OriginError, OriginFailure
from streamedge.origin import OriginHead, OriginRead, Version
from streamedge.spans import Span

PIECE_BYTES = 256 * 1024  # copied in one step on the event loop, where viewers wait


def read_whole(
    name: str,
    head: OriginHead,
    data: bytes,
    span: Span | None,
    if_match: Version | None,
    changed: str,
) -> OriginRead:
    """A read of the whole object from its first byte on, whatever ``span`` is.

    Raises OriginError: CHANGED, with the reason ``changed``, if its version is not ``if_match``;
    RANGE_OUTSIDE if it ends before ``span``.
    """
    if if_match is not None and if_match != head.version:
        raise OriginError(OriginFailure.CHANGED, f"{name}: {changed}")
    if span is not None and span.start >= len(data):
        raise OriginError(OriginFailure.RANGE_OUTSIDE, f"{name}: ends before {span}")
    return _MemoryRead(head, data)


class _MemoryRead:
    """A read from memory."""

    def __init__(self, head: OriginHead, data: bytes) -> None:
        self._head = head
        self._data = data

    @property
    def head(self) -> OriginHead:
        return self._head

    @property
    def span(self) -> Span:
        return Span(0, len(self._data))

    async def pieces(self) -> AsyncIterator[bytes]:
        for piece in self.span.split(PIECE_BYTES):
            yield self._data[piece.start : piece.end]

    async def buffered(self, within_s: float) -> bytes | None:
        """As ``BufferedBody.buffered``."""
        return self._data

    async def close(self) -> None:
        """Does nothing: no resource is held."""
