"""Writes to an origin that is any HTTP server, by PUT and DELETE (RFC 9110 §9.3.4, §9.3.5)."""

from __future__ import annotations

from collections.abc import AsyncIterator

from streamedge.http_fields import HOP_BY_HOP
from streamedge.origin import OriginRequest, Upstream
from streamedge.origin.names import site_path, site_target
from streamedge.origin.writing import RESPONSE_BODY_MAX_BYTES, Write, WriteResponse

_DROPPED_FIELDS = HOP_BY_HOP | {"content-length"}


class SiteWriter:
    """A ``WritableOrigin`` over an HTTP server."""

    def __init__(self, upstream: Upstream, read_timeout_s: float = 0.0) -> None:
        self._upstream = upstream
        self._read_timeout_s = read_timeout_s

    def lingers_s(self, write: Write) -> float:
        """As ``WritableOrigin.lingers_s``: the time that a response is waited for."""
        return self._read_timeout_s

    async def end_abandoned(self) -> int:
        """As ``WritableOrigin.end_abandoned``: a server keeps nothing of a truncated request."""
        return 0

    async def check(self, write: Write) -> None:
        """As ``WritableOrigin.check``: the name alone."""
        site_target("", site_path(write.name))

    async def write(self, write: Write, body: AsyncIterator[bytes] | None) -> WriteResponse:
        """As ``WritableOrigin.write``; a long response body is truncated."""
        fields = list(write.fields)
        if write.size_bytes is not None and write.method != "DELETE":
            fields.append(("content-length", str(write.size_bytes)))
        response = await self._upstream.send(
            OriginRequest(write.method, write.name, fields=tuple(fields), body=body)
        )
        response_body = bytearray()
        try:
            async for piece in response.body():
                response_body += piece
                if len(response_body) >= RESPONSE_BODY_MAX_BYTES:
                    break
        finally:
            response.close()
        fields_passed = tuple(
            field for field in response.fields if field[0].lower() not in _DROPPED_FIELDS
        )
        return WriteResponse(
            response.status, fields_passed, bytes(response_body[:RESPONSE_BODY_MAX_BYTES])
        )
