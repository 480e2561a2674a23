"""A small HTTP server that forwards S3 requests through ``S3Writer``, for tests with S3's clients.

It has no cache and does not serve GET or HEAD of objects.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import unquote

import h11

from streamedge.origin.s3.protocol import read_call
from streamedge.origin.s3.writing import S3Writer
from streamedge.origin.writing import Write, WriteRefusedError, WriteResponse, object_fields, refuse
from tests.support.http.h11_server import H11Server


class S3Bridge(H11Server):
    """Serves ``writer`` on 127.0.0.1; ``requests``: method and target of all requests."""

    def __init__(self, writer: S3Writer, bucket: str) -> None:
        super().__init__()
        self._writer = writer
        self._bucket = bucket
        self.requests: list[tuple[str, str]] = []

    async def respond(
        self, request: h11.Request, body: AsyncIterator[bytes]
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        answer = await self._answer(request, body)
        return answer.status, [*answer.fields], answer.body

    async def _answer(self, request: h11.Request, body: AsyncIterator[bytes]) -> WriteResponse:
        method, target = request.method.decode(), request.target.decode()
        self.requests.append((method, target))
        path, _, query = target.partition("?")
        fields = [(name.decode(), value.decode()) for name, value in request.headers]
        headers = dict(fields)
        size_bytes = int(headers["content-length"]) if "content-length" in headers else None
        name = unquote(path).lstrip("/").removeprefix(f"{self._bucket}/")
        try:
            call = read_call(method, name, query, fields, size_bytes)
        except WriteRefusedError as exc:
            return exc.response
        if call is not None:
            return await self._writer.relay(call, body)
        if method not in ("PUT", "DELETE"):
            return refuse(405, "MethodNotAllowed", method).response
        write = Write(method, name, object_fields(fields), size_bytes)
        return await self._writer.write(write, body)
