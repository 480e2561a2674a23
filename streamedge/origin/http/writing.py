"""Writing to an origin that is any HTTP server: PUT and DELETE as RFC 9110 §9.3.4 and §9.3.5 mean.

Owns the way from a queued write to a request. What the server makes of it is its own business.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from streamedge.origin import OriginRequest, Upstream
from streamedge.origin.writing import ANSWER_BODY_MAX_BYTES, Write, WriteAnswer

_NOT_PASSED = frozenset({"connection", "content-length", "keep-alive", "transfer-encoding"})


class SiteWriter:
    """A ``WritableOrigin`` over an HTTP server."""

    def __init__(self, upstream: Upstream, read_timeout_s: float = 0.0) -> None:
        self._upstream = upstream
        self._read_timeout_s = read_timeout_s

    def lingers_s(self, write: Write) -> float:
        """As ``WritableOrigin.lingers_s``: as long as an answer would have been waited for."""
        return self._read_timeout_s

    async def end_abandoned(self) -> int:
        """As ``WritableOrigin.end_abandoned``: a server keeps nothing of a request that was cut."""
        return 0

    async def write(self, write: Write, body: AsyncIterator[bytes] | None) -> WriteAnswer:
        """As ``WritableOrigin.write``; of a long answer the beginning."""
        fields = list(write.fields)
        if write.size_bytes is not None and write.method != "DELETE":
            fields.append(("content-length", str(write.size_bytes)))
        response = await self._upstream.send(
            OriginRequest(write.method, write.name, fields=tuple(fields), body=body)
        )
        said = bytearray()
        try:
            async for piece in response.body():
                said += piece
                if len(said) >= ANSWER_BODY_MAX_BYTES:
                    break
        finally:
            response.close()
        kept = tuple(field for field in response.fields if field[0].lower() not in _NOT_PASSED)
        return WriteAnswer(response.status, kept, bytes(said[:ANSWER_BODY_MAX_BYTES]))
