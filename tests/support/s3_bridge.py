"""A small HTTP server that forwards S3 requests through ``S3Writer``, for tests with S3's clients.

It has no cache and does not serve GET or HEAD of objects.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Self
from urllib.parse import unquote

import h11

from streamedge.origin.s3.protocol import read_call
from streamedge.origin.s3.writing import S3Writer
from streamedge.origin.writing import Write, WriteAnswer, WriteRefusedError, object_fields, refuse


class S3Bridge:
    """Serves ``writer`` on 127.0.0.1; ``requests`` are method and target of all that came."""

    def __init__(self, writer: S3Writer, bucket: str) -> None:
        self._writer = writer
        self._bucket = bucket
        self.requests: list[tuple[str, str]] = []
        self._talks: set[asyncio.Task[None]] = set()
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self._server.close()
        for talk in self._talks:
            talk.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._talks.add(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        http = h11.Connection(h11.SERVER)

        async def next_event() -> object:
            while (event := http.next_event()) is h11.NEED_DATA:
                if http.they_are_waiting_for_100_continue:
                    go_on = h11.InformationalResponse(status_code=100, headers=[])
                    writer.write(http.send(go_on) or b"")
                http.receive_data(await reader.read(256 << 10))
            return event

        async def body() -> AsyncIterator[bytes]:
            while isinstance(event := await next_event(), h11.Data):
                yield bytes(event.data)

        try:
            while isinstance(request := await next_event(), h11.Request):
                pieces = body()
                answer = await self._answer(request, pieces)
                async for _left in pieces:
                    pass
                fields = [*answer.fields, ("Content-Length", str(len(answer.body)))]
                writer.write(http.send(h11.Response(status_code=answer.status, headers=fields)))
                writer.write(http.send(h11.Data(data=answer.body)))
                writer.write(http.send(h11.EndOfMessage()))
                await writer.drain()
                http.start_next_cycle()
        except (OSError, h11.RemoteProtocolError):
            return
        finally:
            writer.close()

    async def _answer(self, request: h11.Request, body: AsyncIterator[bytes]) -> WriteAnswer:
        method, target = request.method.decode(), request.target.decode()
        self.requests.append((method, target))
        path, _, query = target.partition("?")
        fields = [(name.decode(), value.decode()) for name, value in request.headers]
        said = dict(fields)
        size_bytes = int(said["content-length"]) if "content-length" in said else None
        name = unquote(path).lstrip("/").removeprefix(f"{self._bucket}/")
        try:
            call = read_call(method, name, query, fields, size_bytes)
        except WriteRefusedError as exc:
            return exc.answer
        if call is not None:
            return await self._writer.relay(call, body)
        if method not in ("PUT", "DELETE"):
            return refuse(405, "MethodNotAllowed", method).answer
        write = Write(method, name, object_fields(fields), size_bytes)
        return await self._writer.write(write, body)
