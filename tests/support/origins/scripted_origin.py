"""A scripted HTTP origin: serves objects like a correct server, or fails as scripted.

It listens on 127.0.0.1, records every request, and lets a test wait for events instead of
sleeping.

    async with ScriptedOrigin() as origin:
        origin.put("film.mp4", Pattern(10 << 30), etag='"v1"')
        origin.hold("film.mp4", at=1000)           # sends no byte from position 1000 on
        ...                                        # the code under test reads origin.url
        await origin.wait_for_requests(1)                       # one request has come
        await origin.until(lambda: origin.body_bytes_sent == 1000)
        origin.release("film.mp4", 500)            # 500 more bytes; without a count: all
        origin.script(Reply(status=503), times=2) # the responses to the next two requests

Everything runs in the test's own event loop.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from streamedge.origin import OriginRead
from streamedge.spans import Span
from tests.support.origins.scripted_responses import (
    BytesContent,
    Content,
    OriginObject,
    Pattern,
    ReceivedRequest,
    Reply,
    Response,
    decide,
    encode_chunk,
    encode_head,
    encode_last_chunk,
    encode_status,
    parse_request,
)
from tests.support.patience import PATIENCE_S
from tests.support.process.ports import HeldPort

__all__ = ["Content", "Pattern", "ReceivedRequest", "Reply", "ScriptedOrigin", "read_all"]

SEND_PIECE_BYTES = 64 << 10
REQUEST_MAX_BYTES = 64 << 10
PACED_PIECES_PER_S = 20  # a limited rate is sent in so many pieces


async def read_all(read: OriginRead | None) -> bytes:
    """Reads an origin's response to its end and closes it."""
    assert read is not None
    try:
        return b"".join([piece async for piece in read.pieces()])
    finally:
        await read.close()


@dataclass(slots=True)
class _Pace:
    """Delays sends one after another, to limit their rate."""

    free_at_s: float = 0.0

    async def wait(self, time_s: float) -> None:
        now_s = asyncio.get_running_loop().time()
        self.free_at_s = max(self.free_at_s, now_s) + time_s
        await asyncio.sleep(self.free_at_s - now_s)


class ScriptedOrigin:
    """An HTTP/1.1 server with keep-alive; the module's docstring has an example.

    It serves objects for GET and HEAD; other methods need a scripted reply.
    ``first_byte_delay_s`` and ``rate_bytes_per_s`` make it slow. The rate applies to each request,
    with ``rate_shared`` to the whole server. All three may be changed at any time. With ``tls``
    its URL is https://localhost.
    """

    def __init__(
        self,
        *,
        first_byte_delay_s: float = 0.0,
        rate_bytes_per_s: float | None = None,
        rate_shared: bool = False,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.first_byte_delay_s = first_byte_delay_s
        self.rate_bytes_per_s = rate_bytes_per_s
        self.rate_shared = rate_shared
        self._tls = tls
        self.requests: list[ReceivedRequest] = []
        self.connections_accepted = 0
        self.connections_open = 0
        self.port = 0
        self._objects: dict[str, OriginObject] = {}
        self._holds: dict[str, int] = {}
        self._responses_held = False
        self._bodies_paused = False
        self._script: deque[Reply] = deque()
        self._shared_pace = _Pace()
        self._changed = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._held_port = HeldPort()
        self._handlers: set[asyncio.Task[None]] = set()

    # --- start and stop -------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self.accept()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.refuse()
        self._held_port.release()

    @property
    def url(self) -> str:
        """Base URL, without a final slash."""
        if self._tls is not None:
            return f"https://localhost:{self.port}"
        return f"http://127.0.0.1:{self.port}"

    async def accept(self) -> None:
        """Listens, on the same port as before if there was one."""
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Connection(self._handle), "127.0.0.1", self.port, ssl=self._tls
        )
        self.port = self._server.sockets[0].getsockname()[1]
        self._held_port.release()

    async def refuse(self) -> None:
        """Stops listening and resets every open connection; new ones are refused."""
        if self._server is not None:
            self._server.close()
            self._server = None
            self._held_port.hold(self.port)
        handlers = list(self._handlers)
        for handler in handlers:
            handler.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)

    # --- objects and the script -----------------------------------------------------------

    def put(
        self,
        name: str,
        content: bytes | Content,
        *,
        etag: str = '"1"',
        last_modified_s: int | None = 1_700_000_000,
        content_type: str = "application/octet-stream",
        headers: tuple[tuple[str, str], ...] = (),
        status: int = 200,
    ) -> None:
        """Adds or replaces an object; responses that are running keep the old one.

        ``etag`` includes its quotes. An empty ``etag`` or ``content_type`` is not sent. With
        another ``status`` than 200 the origin ignores conditions and ranges.
        """
        stored = BytesContent(content) if isinstance(content, bytes) else content
        self._objects[name] = OriginObject(
            stored, etag, last_modified_s, content_type, headers, status
        )

    def remove(self, name: str) -> None:
        del self._objects[name]

    def script(self, reply: Reply, times: int = 1) -> None:
        """Queues ``reply`` for ``times`` requests, behind the replies queued before."""
        self._script.extend([reply] * times)

    def clear_script(self) -> None:
        """Answers normally from now on."""
        self._script.clear()

    def hold(self, name: str, at: int = 0) -> None:
        """Holds back every byte of the object from position ``at`` on; headers are still sent."""
        self._holds[name] = at

    def release(self, name: str, size_bytes: int | None = None) -> None:
        """Releases ``size_bytes`` more of a held object, or all of it."""
        if size_bytes is None:
            del self._holds[name]
        else:
            self._holds[name] += size_bytes
        self._notify()

    def hold_responses(self) -> None:
        """Holds back complete responses, with headers; requests are still read."""
        self._responses_held = True

    def release_responses(self) -> None:
        self._responses_held = False
        self._notify()

    def pause_bodies(self) -> None:
        """Reads no request body; heads are still read."""
        self._bodies_paused = True

    def resume_bodies(self) -> None:
        self._bodies_paused = False
        self._notify()

    # --- observations ---------------------------------------------------------------------

    @property
    def body_bytes_sent(self) -> int:
        """Bytes of objects that all requests together have written to sockets."""
        return sum(request.body_bytes_sent for request in self.requests)

    async def wait_for_requests(self, count: int) -> list[ReceivedRequest]:
        """Waits for ``count`` requests; returns all requests so far."""
        await self.until(lambda: len(self.requests) >= count)
        return self.requests

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits until ``condition`` holds; checks it after each action of this origin.

        Raises TimeoutError after PATIENCE_S.
        """
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                await self._changed.wait()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    # --- one connection -------------------------------------------------------------------

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handler = asyncio.current_task()
        assert handler is not None
        self._handlers.add(handler)
        self.connections_accepted += 1
        self.connections_open += 1
        connection = self.connections_accepted
        # With these limits drain() waits for the kernel; with 0, asyncio's TLS pauses for ever.
        writer.transport.set_write_buffer_limits(0 if self._tls is None else 1)
        try:
            while await self._serve_one(reader, writer, connection):
                pass
            writer.close()
            await writer.wait_closed()
        except (OSError, asyncio.IncompleteReadError):
            # The client left; the test decides whether that is right.
            writer.transport.abort()
        except (_ResetScriptedError, asyncio.CancelledError):
            _reset(writer)
        finally:
            self._handlers.discard(handler)
            self.connections_open -= 1
            self._notify()

    async def _serve_one(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int
    ) -> bool:
        """Responds to one request; returns whether the connection can carry another."""
        request = parse_request(await reader.readuntil(b"\r\n\r\n"), connection)
        reply = self._script.popleft() if self._script else Reply()
        # Chosen before the test sees the request, because the test may then replace the object.
        response = decide(request, reply, self._objects.get(request.name))
        self.requests.append(request)
        self._notify()
        protocol = writer.transport.get_protocol()
        assert isinstance(protocol, _Connection)
        if reply.echoes:
            return await self._echo(reader, writer, reply)
        receiving = asyncio.ensure_future(self._receive_body(reader, request))
        responding = asyncio.ensure_future(self._respond(writer, request, reply, response))
        leaving = asyncio.ensure_future(protocol.client_left.wait())
        try:
            await asyncio.wait((responding, leaving), return_when=asyncio.FIRST_COMPLETED)
            is_kept_alive = responding.done() and responding.result()
            is_last = request.headers.get("connection") == "close"
            return is_kept_alive and request.has_ended and not is_last
        finally:
            responding.cancel()
            receiving.cancel()
            leaving.cancel()
            await asyncio.gather(responding, receiving, leaving, return_exceptions=True)

    async def _receive_body(self, reader: asyncio.StreamReader, request: ReceivedRequest) -> None:
        """Records a request's body as it arrives."""
        left = int(request.headers.get("content-length", "0"))
        if "transfer-encoding" in request.headers:
            while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
                await self._receive_bytes(reader, request, size)
                assert await reader.readexactly(2) == b"\r\n"
            while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
                request.trailers.append(line.decode("latin-1").strip())
        else:
            await self._receive_bytes(reader, request, left)
        request.has_ended = True
        self._notify()

    async def _receive_bytes(
        self, reader: asyncio.StreamReader, request: ReceivedRequest, count: int
    ) -> None:
        while count:
            while self._bodies_paused:
                await self._changed.wait()
            piece = await reader.read(count)
            if not piece:
                raise asyncio.IncompleteReadError(b"", count)
            request.body += piece
            count -= len(piece)
            self._notify()

    async def _echo(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, reply: Reply
    ) -> bool:
        fields = (("Connection", "upgrade"), ("Upgrade", "websocket"))
        headers = tuple((name, value) for name, value in reply.headers if value is not None)
        writer.write(encode_status(101, (*fields, *headers)))
        while data := await reader.read(SEND_PIECE_BYTES):
            writer.write(data)
            await writer.drain()
        return False

    async def _respond(
        self,
        writer: asyncio.StreamWriter,
        request: ReceivedRequest,
        reply: Reply,
        response: Response,
    ) -> bool:
        if reply.silent:
            await _forever()
        for status, fields in reply.interim:
            writer.write(encode_status(status, fields))
        while not (request.has_ended or reply.early):
            await self._changed.wait()
        while self._responses_held:
            await self._changed.wait()
        if reply.after is not None:
            await reply.after.wait()
        if self.first_byte_delay_s:
            await asyncio.sleep(self.first_byte_delay_s)
        if reply.raw is not None:
            writer.write(reply.raw)
            await writer.drain()
            return reply.keeps_open
        writer.write(encode_head(response))
        await writer.drain()
        names = {name.lower() for name, _ in response.headers}
        if request.method == "HEAD" or response.status == 304:
            return True
        await self._send_body(writer, request, reply, response, "transfer-encoding" in names)
        return reply.cut_at is None and bool(names & {"content-length", "transfer-encoding"})

    async def _send_body(
        self,
        writer: asyncio.StreamWriter,
        request: ReceivedRequest,
        reply: Reply,
        response: Response,
        chunked: bool,
    ) -> None:
        span = response.span
        stops = [at for at in (reply.cut_at, reply.reset_at, reply.stall_at) if at is not None]
        end = min([span.end, *(span.start + at for at in stops)])
        async for piece in self._paced_pieces(
            request.name, response.content, Span(span.start, end)
        ):
            writer.write(encode_chunk(piece) if chunked else piece)
            request.body_bytes_sent += len(piece)
            await writer.drain()
            self._notify()
        if reply.stall_at is not None:
            await _forever()
        if reply.reset_at is not None:
            raise _ResetScriptedError
        if reply.cut_at is not None:
            return
        if reply.extra:
            writer.write(encode_chunk(reply.extra) if chunked else reply.extra)
        if chunked:
            writer.write(encode_last_chunk(reply.trailers))
        await writer.drain()

    async def _paced_pieces(self, name: str, content: Content, span: Span) -> AsyncIterator[bytes]:
        """The content in pieces, limited by holds and the rate."""
        own_pace = _Pace()
        position = span.start
        while position < span.end:
            held_at = self._holds.get(name, span.end)
            if position >= held_at:
                await self._changed.wait()
                continue
            size_bytes = min(SEND_PIECE_BYTES, span.end - position, held_at - position)
            if self.rate_bytes_per_s is not None:
                size_bytes = min(
                    size_bytes, max(1, int(self.rate_bytes_per_s / PACED_PIECES_PER_S))
                )
                pace = self._shared_pace if self.rate_shared else own_pace
                await pace.wait(size_bytes / self.rate_bytes_per_s)
            yield content.read(Span(position, position + size_bytes))
            position += size_bytes


class _ResetScriptedError(Exception):
    """The scripted reply resets the connection here."""


class _Connection(asyncio.StreamReaderProtocol):
    """Streams, and an event for the end of the client, which a busy writer would not notice."""

    def __init__(
        self, handler: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
    ) -> None:
        super().__init__(asyncio.StreamReader(limit=REQUEST_MAX_BYTES), handler)
        self.client_left = asyncio.Event()

    def eof_received(self) -> bool | None:
        self.client_left.set()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self.client_left.set()
        super().connection_lost(exc)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Closes with RST in place of FIN."""
    connected = writer.get_extra_info("socket")
    if connected is not None and connected.fileno() >= 0:
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _forever() -> None:
    """Waits until it is cancelled, when the client leaves."""
    await asyncio.Event().wait()
