"""A bucket in the test's own loop: objects in memory, every request on record, no signature read.

It answers what the edge may ask a bucket, and 501 to everything else.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import Self
from urllib.parse import parse_qs, unquote, urlsplit

import h11

BUCKET = "bucket"
_LISTING = (
    "<ListBucketResult><Name>bucket</Name><IsTruncated>false</IsTruncated></ListBucketResult>"
)


class FakeBucket:
    """Serves BUCKET on 127.0.0.1. ``asked`` are method, key ("" is the bucket) and query."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.asked: list[tuple[str, str, str]] = []
        self.url = ""
        self._talks: set[asyncio.Task[None]] = set()

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
        talk = asyncio.create_task(self._serve(reader, writer))
        self._talks.add(talk)
        talk.add_done_callback(self._talks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        http = h11.Connection(h11.SERVER)

        async def next_event() -> object:
            while (event := http.next_event()) is h11.NEED_DATA:
                if http.they_are_waiting_for_100_continue:
                    go_on = h11.InformationalResponse(status_code=100, headers=[])
                    writer.write(http.send(go_on) or b"")
                http.receive_data(await reader.read(256 << 10))
            return event

        try:
            while isinstance(request := await next_event(), h11.Request):
                body = bytearray()
                while isinstance(event := await next_event(), h11.Data):
                    body += event.data
                method = request.method.decode()
                status, fields, content = self._answer(method, request.target.decode(), bytes(body))
                length = fields.pop("Content-Length", str(len(content)))
                headers = [*fields.items(), ("Content-Length", length)]
                writer.write(http.send(h11.Response(status_code=status, headers=headers)))
                if method != "HEAD" and status != 304:
                    writer.write(http.send(h11.Data(data=content)))
                writer.write(http.send(h11.EndOfMessage()))
                await writer.drain()
                http.start_next_cycle()
        except (OSError, h11.ProtocolError):
            return
        finally:
            writer.close()

    def _answer(self, method: str, target: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        parts = urlsplit(target)
        bucket, _, key = unquote(parts.path).removeprefix("/").partition("/")
        assert bucket == BUCKET
        query = parse_qs(parts.query, keep_blank_values=True)
        self.asked.append((method, key, parts.query))
        etag = {"ETag": f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'}
        if not key:
            return 200, {}, b"" if "location" in query else _LISTING.encode()
        match method, "uploads" in query, "uploadId" in query:
            case "POST", True, _:
                return 200, {}, b"<Result><UploadId>id</UploadId></Result>"
            case "POST", _, True:
                self.objects[key] = b"in parts"
                return 200, {}, b"<Result><ETag>&quot;e&quot;</ETag></Result>"
            case "PUT", _, True:
                return 200, etag, b""
            case "DELETE", _, True:
                return 204, {}, b""
            case "GET", _, True:
                return 200, {}, b"<ListPartsResult/>"
            case "PUT", _, _:
                self.objects[key] = body
                return 200, etag, b""
            case "DELETE", _, _:
                self.objects.pop(key, None)
                return 204, {}, b""
            case (("GET" | "HEAD"), _, _):
                if key not in self.objects:
                    return 404, {}, b"<Error><Code>NoSuchKey</Code></Error>"
                content = self.objects[key]
                tag = hashlib.md5(content, usedforsecurity=False).hexdigest()
                return 200, {"ETag": f'"{tag}"', "Content-Length": str(len(content))}, content
        return 501, {}, b""
