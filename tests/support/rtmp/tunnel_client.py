"""Clients of RTMPT: one that a test steers request by request, over any number of connections, and
a relay through which a client of RTMP speaks it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.support.patience import PATIENCE_S


class HttpConnection:
    """One connection; requests may be sent without waiting for responses."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.says_close = False
        """Whether the latest response had ``Connection: close``."""

    def send(self, target: str, body: bytes = b"\0", *, fields: str = "") -> None:
        """Sends a request."""
        head = f"POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n{fields}\r\n"
        self._writer.write(head.encode() + body)

    def send_raw(self, data: bytes) -> None:
        self._writer.write(data)

    def send_end(self) -> None:
        """Sends no more; the connection can still receive, unless the server has closed it."""
        with contextlib.suppress(OSError):
            self._writer.write_eof()

    async def receive(self) -> tuple[int, bytes]:
        """The status and the body of the next response."""
        async with asyncio.timeout(PATIENCE_S):
            head = await self._reader.readuntil(b"\r\n\r\n")
            lines = head.split(b"\r\n")
            self.says_close = b"Connection: close" in lines
            size = next(
                int(line.partition(b":")[2]) for line in lines if line.startswith(b"Content-Length")
            )
            return int(lines[0].split()[1]), await self._reader.readexactly(size)

    async def request(
        self, target: str, body: bytes = b"\0", *, fields: str = ""
    ) -> tuple[int, bytes]:
        """Sends a request and returns its response."""
        self.send(target, body, fields=fields)
        return await self.receive()

    async def open(self) -> str:
        """Opens a session; returns its id."""
        status, body = await self.request("/open/1")
        assert status == 200
        assert body.endswith(b"\n")
        return body.decode().rstrip("\n")

    async def is_closed(self) -> bool:
        """Waits until the server closes the connection."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                return await self._reader.read(1) == b""
            except ConnectionError:
                return True

    def close(self) -> None:
        self._writer.transport.abort()


@asynccontextmanager
async def open_unix_connection(address: bytes) -> AsyncIterator[HttpConnection]:
    """A connection to a worker, as another worker makes it."""
    connected = socket.socket(socket.AF_UNIX)
    connected.setblocking(False)
    connected.connect(address)
    connection = HttpConnection(*await asyncio.open_unix_connection(sock=connected))
    try:
        yield connection
    finally:
        connection.close()
        await asyncio.sleep(0)


@asynccontextmanager
async def open_connection(
    port: int, context: ssl.SSLContext | None = None
) -> AsyncIterator[HttpConnection]:
    """A client's connection to a port of this machine; with ``context`` over TLS."""
    host = "127.0.0.1" if context is None else "localhost"
    reader, writer = await asyncio.open_connection(host, port, limit=4 << 20, ssl=context)
    connection = HttpConnection(reader, writer)
    try:
        yield connection
    finally:
        connection.close()
        await asyncio.sleep(0)


WORKER_DIGITS = 2  # at the begin of a session's id
READ_S = 0.02  # how long a relay waits for its client's data before it sends an idle request


@asynccontextmanager
async def run_tunnel_relay(
    port: int, *, keeps_connection: bool = True, is_forwarded: bool = False
) -> AsyncIterator[int]:
    """A port of this machine whose one client reaches the edge's ``port`` over RTMPT.

    ``keeps_connection``: all requests use one connection; else each has one of its own.
    ``is_forwarded``: another worker than that of this connection has the session.
    """
    tasks: set[asyncio.Task[None]] = set()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await _tunnel(
                port,
                reader,
                writer,
                keeps_connection=keeps_connection,
                is_forwarded=is_forwarded,
            )
        finally:
            writer.close()

    server = await asyncio.start_server(relay, "127.0.0.1")
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _tunnel(
    port: int,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    *,
    keeps_connection: bool,
    is_forwarded: bool,
) -> None:
    """Carries the bytes of one client until it or the session ends."""
    async with open_connection(port) as connection:

        async def request(target: str, body: bytes = b"\0") -> tuple[int, bytes]:
            if keeps_connection:
                return await connection.request(target, body)
            async with open_connection(port) as own:
                return await own.request(target, body)

        session, number, status = await connection.open(), 0, 200
        if is_forwarded:
            session = await _open_elsewhere(port, session[:WORKER_DIGITS])
        while status == 200 and not reader.at_eof():
            data = b""
            try:
                async with asyncio.timeout(READ_S):
                    data = await reader.read(1 << 16)
            except TimeoutError:
                pass
            except ConnectionError:
                break  # the client has left without reading all
            if data:
                status, received = await request(f"/send/{session}/{number}", data)
            else:
                status, received = await request(f"/idle/{session}/{number}")
            number += 1
            writer.write(received[1:])
            with contextlib.suppress(ConnectionError):
                await writer.drain()
        if status == 200:
            await request(f"/close/{session}/{number}")


async def _open_elsewhere(port: int, worker: str) -> str:
    """Opens a session at another worker; returns its id, which begins with its worker's number."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            async with open_connection(port) as connection:
                session = await connection.open()
                if session[:WORKER_DIGITS] != worker:
                    return session
                await connection.request(f"/close/{session}/0")
