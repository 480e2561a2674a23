"""An HTTP client that sends any bytes and checks every byte of the responses.

It implements only as much of RFC 9112 as it takes to find the end of a response, so that it
reports exactly what was on the wire.

    async with open_viewer(port) as viewer:
        response = await viewer.get("/film.mp4", range="bytes=0-99")
        await viewer.send(b"GET /a HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n" * 2)
        first, second = await viewer.receive(), await viewer.receive()
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from tests.support.patience import PATIENCE_S

STREAM_LIMIT_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Response:
    """A response; ``fields`` have lower-case names, ``cookies`` are the Set-Cookie lines."""

    status: int
    fields: dict[str, str]
    body: bytes = b""
    cookies: tuple[str, ...] = ()
    trailers: tuple[str, ...] = ()

    @property
    def cache(self) -> str:
        """X-Cache without " from streamedge"."""
        return self.fields["x-cache"].removesuffix(" from streamedge")


class TruncatedError(Exception):
    """The connection ended within a response; ``received`` is the part of its body."""

    def __init__(self, received: bytes) -> None:
        super().__init__(f"truncated after {len(received)} bytes")
        self.received = received


class Viewer:
    """One connection; the module's docstring has an example."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @property
    def name(self) -> str:
        """This end's address in the form of the edge's log."""
        host, port = self._writer.get_extra_info("sockname")[:2]
        return f"{host}:{port}"

    async def send(self, raw: bytes) -> None:
        self._writer.write(raw)
        await self._writer.drain()

    async def send_request(
        self, path: str, method: str = "GET", *, host: str = "edge", **fields: str
    ) -> None:
        """Sends a request; underscores in field names become hyphens."""
        await self.send(request(path, method, host=host, **fields))

    async def get(
        self, path: str, method: str = "GET", *, host: str = "edge", **fields: str
    ) -> Response:
        """Sends a request and receives the complete response."""
        await self.send_request(path, method, host=host, **fields)
        return await self.receive(method)

    async def receive(self, method: str = "GET") -> Response:
        """The next final response; skips 1xx. Raises TruncatedError when the connection ends
        before its Content-Length or its last chunk.
        """
        head = await self.receive_head()
        while head.status < 200:
            head = await self.receive_head()
        if method == "HEAD" or head.status in {204, 304}:
            return head
        if "transfer-encoding" in head.fields:
            body = bytearray()
            while chunk := await self.receive_chunk(bytes(body)):
                body += chunk
            return replace(head, body=bytes(body), trailers=await self._receive_trailers())
        return replace(head, body=await self.receive_body(int(head.fields["content-length"])))

    async def receive_head(self) -> Response:
        """Status and fields of the next response."""
        async with asyncio.timeout(PATIENCE_S):
            raw = await self._reader.readuntil(b"\r\n\r\n")
        status_line, *lines = raw.decode("latin-1").split("\r\n")[:-2]
        protocol, status, _ = status_line.split(" ", 2)
        assert protocol == "HTTP/1.1"
        fields: dict[str, str] = {}
        cookies = []
        for line in lines:
            name, _, value = line.partition(":")
            if name.lower() == "vary" and "vary" in fields:  # a list, on several lines
                fields["vary"] += f", {value.strip()}"
                continue
            assert name.lower() not in fields
            if name.lower() == "set-cookie":
                cookies.append(value.strip())
            else:
                fields[name.lower()] = value.strip()
        return Response(int(status), fields, cookies=tuple(cookies))

    async def receive_chunk(self, before: bytes = b"") -> bytes:
        """The next chunk of a chunked body, b"" for the last one. Raises TruncatedError."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                size = int(await self._reader.readuntil(b"\r\n"), 16)
                chunk = await self._reader.readexactly(size)
                assert not size or await self._reader.readexactly(2) == b"\r\n"
            except (ConnectionError, asyncio.IncompleteReadError) as exc:
                raise TruncatedError(before) from exc
        return chunk

    async def _receive_trailers(self) -> tuple[str, ...]:
        async with asyncio.timeout(PATIENCE_S):
            lines = []
            while (line := await self._reader.readuntil(b"\r\n")) != b"\r\n":
                lines.append(line.decode("latin-1").strip())
        return tuple(lines)

    async def receive_body(self, count: int) -> bytes:
        """The next ``count`` bytes. Raises TruncatedError when the connection ends before."""
        received = bytearray()
        async with asyncio.timeout(PATIENCE_S):
            while len(received) < count:
                try:
                    piece = await self._reader.read(min(1 << 20, count - len(received)))
                except ConnectionError as exc:
                    raise TruncatedError(bytes(received)) from exc
                if not piece:
                    raise TruncatedError(bytes(received))
                received += piece
        return bytes(received)

    async def receive_rest(self) -> bytes:
        """All data until the connection ends, also by a reset."""
        received = bytearray()
        async with asyncio.timeout(PATIENCE_S):
            try:
                while piece := await self._reader.read(1 << 20):
                    received += piece
            except ConnectionError:
                pass  # a reset also ends the connection
        return bytes(received)

    async def end_input(self) -> None:
        """Closes the sending direction alone (half-close)."""
        self._writer.write_eof()
        await self._writer.drain()

    def reset(self) -> None:
        """Resets the connection."""
        connected = self._writer.get_extra_info("socket")
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


def request(path: str, method: str = "GET", *, host: str = "edge", **fields: str) -> bytes:
    """A request's bytes; underscores in field names become hyphens."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


@asynccontextmanager
async def open_viewer(
    port: int,
    *,
    receive_buffer_bytes: int | None = None,
    local_host: str = "127.0.0.1",
    tls: ssl.SSLContext | None = None,
    server_name: str = "",
) -> AsyncIterator[Viewer]:
    """A connection from ``local_host`` to 127.0.0.1; with a small receive buffer, the server's
    sends block soon.

    ``tls`` is the client's context; without a ``server_name`` no name is sent (RFC 6066 §3).
    """
    client_socket = socket.socket()
    try:
        client_socket.bind((local_host, 0))
        if receive_buffer_bytes is not None:
            client_socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        client_socket.setblocking(False)
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.get_running_loop().sock_connect(client_socket, ("127.0.0.1", port))
    except BaseException:
        client_socket.close()
        raise
    limit = STREAM_LIMIT_BYTES if receive_buffer_bytes is None else receive_buffer_bytes
    reader, writer = await asyncio.open_connection(
        sock=client_socket,
        limit=limit,
        ssl=tls,
        server_hostname=None if tls is None else server_name,
    )
    try:
        yield Viewer(reader, writer)
    finally:
        writer.transport.abort()


async def fetch(port: int, path: str, method: str = "GET", **fields: str) -> Response:
    """Sends one request on a new connection."""
    async with open_viewer(port) as viewer:
        return await viewer.get(path, method, **fields)
