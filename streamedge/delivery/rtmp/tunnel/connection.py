"""One HTTP connection of RTMPT's clients: parses requests, and sends responses in their order.

The responses are as librtmp needs them: literally ``HTTP/1.1 200``, ``Content-Length`` with capital
letters and at least 1, no chunks; the id ends with one LF.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Callable
from typing import Protocol

import httptools

from streamedge.delivery.net.accept import OnClose, Peer
from streamedge.delivery.net.tls import TlsConnection
from streamedge.delivery.rtmp.tunnel.rules import TunnelRequest, parse_target
from streamedge.delivery.rtmp.tunnel.session import Respond

TARGET_BYTES_MAX = 256
HEAD_BYTES_MAX = 8 << 10
BODY_BYTES_MAX = 256 << 10
UNANSWERED_MAX = 16  # requests of one connection
HEAD_S = 10.0  # from the first byte of a request to its last
IDLE_S = 60.0  # without a request

_NOT_FOUND = (
    b"HTTP/1.1 404 Not Found\r\nContent-Type: application/x-fcs\r\nContent-Length: 1\r\n"
    b"Connection: keep-alive\r\n\r\n\0"
)


def encode_response(body: bytes | None) -> bytes:
    """A response; None: 404."""
    if body is None:
        return _NOT_FOUND
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/x-fcs\r\nCache-Control: no-cache\r\n"
        b"Content-Length: %d\r\nConnection: keep-alive\r\n\r\n" % len(body)
    ) + body


class TunnelService(Protocol):
    """The sessions of this worker, and the way to those of others."""

    def serve(
        self,
        request: TunnelRequest | None,
        body: bytes,
        respond: Respond,
        client: TunnelClient,
    ) -> None:
        """Responds to a request, now or later. ``request``: None if it is none of RTMPT's."""
        ...

    def ended(self, connection: TunnelConnection) -> None:
        """The connection has ended."""
        ...


class TunnelClient(Protocol):
    """The client of a request."""

    @property
    def peer(self) -> Peer: ...

    @property
    def is_secure(self) -> bool: ...

    @property
    def forwarded_for(self) -> str:
        """X-Forwarded-For of the request, all lines joined by commas; "" without."""
        ...


class _Pending:
    """A request whose response is not sent yet."""

    __slots__ = ("response",)

    def __init__(self) -> None:
        self.response: bytes | None = None


class TunnelConnection(asyncio.Protocol):
    """A client's connection, from its first byte."""

    def __init__(
        self,
        service: TunnelService,
        loop: asyncio.AbstractEventLoop,
        peer: Peer,
        on_close: OnClose,
    ) -> None:
        self.peer = peer
        self.is_secure = False
        self.forwarded_for = ""
        self._service = service
        self._loop = loop
        self._on_close = on_close
        self._transport: asyncio.Transport | None = None
        self._socket: socket.socket | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._target = b""
        self._body = bytearray()
        self._head_bytes = 0
        self._is_post = False
        self._pending: deque[_Pending] = deque()
        self._is_paused = False
        self._active_s = loop.time()
        self._began_s: float | None = None  # the request that is incomplete

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self.is_secure = isinstance(transport, TlsConnection)
        self._socket = transport.get_extra_info("socket")

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserUpgrade, httptools.HttpParserError):
            self.abort()
        if self._began_s is not None and self._socket is not None:
            # FFmpeg sends head and body apart, and waits for the ACK of the head, which the kernel
            # would delay by 40 ms.
            with contextlib.suppress(OSError):  # a socket without TCP
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self._is_paused = True
        self._pause_or_resume()

    def resume_writing(self) -> None:
        self._is_paused = False
        self._pause_or_resume()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._pending.clear()
        self._on_close()
        self._service.ended(self)

    # Called by the parser

    def on_message_begin(self) -> None:
        self._target, self._body, self._head_bytes = b"", bytearray(), 0
        self.forwarded_for = ""
        self._began_s = self._loop.time()

    def on_url(self, target: bytes) -> None:
        self._target += target
        self._check(len(self._target) <= TARGET_BYTES_MAX)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value)
        self._check(self._head_bytes <= HEAD_BYTES_MAX)
        if name.lower() == b"x-forwarded-for":
            before = f"{self.forwarded_for}, " if self.forwarded_for else ""
            self.forwarded_for = before + value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body += body
        self._check(len(self._body) <= BODY_BYTES_MAX)

    def on_message_complete(self) -> None:
        self._active_s, self._began_s = self._loop.time(), None
        if self._transport is None or self._transport.is_closing():
            return
        request = parse_target(self._target) if self._parser.get_method() == b"POST" else None
        pending = _Pending()
        self._pending.append(pending)
        self._pause_or_resume()
        self._service.serve(request, bytes(self._body), self._responder(pending), self)

    # Called by the service

    def sweep(self, now_s: float) -> None:
        """Closes a connection without requests, or with one that does not come to its end."""
        is_slow = self._began_s is not None and now_s - self._began_s > HEAD_S
        if is_slow or (not self._pending and now_s - self._active_s > IDLE_S):
            self.abort()

    def abort(self) -> None:
        """Closes the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Closes the connection behind its responses."""
        if self._transport is not None:
            self._transport.close()

    def _responder(self, pending: _Pending) -> Respond:
        def respond(body: bytes | None) -> None:
            if pending.response is None:
                pending.response = encode_response(body)
                self._send()

        return respond

    def _send(self) -> None:
        """Sends the responses that are due, in the order of their requests."""
        while self._pending and (response := self._pending[0].response) is not None:
            self._pending.popleft()
            self._active_s = self._loop.time()
            if self._transport is not None:
                self._transport.write(response)
        self._pause_or_resume()

    def _pause_or_resume(self) -> None:
        """Reads no further requests while many wait, or while the client reads no responses."""
        if self._transport is None or self._transport.is_closing():
            return
        if self._is_paused or len(self._pending) >= UNANSWERED_MAX:
            self._transport.pause_reading()
        elif not self._transport.is_reading():
            self._transport.resume_reading()

    def _check(self, is_allowed: bool) -> None:
        """Raises ValueError at a limit; httptools passes it on as HttpParserCallbackError."""
        if not is_allowed:
            raise ValueError("a request of a tunnel is longer than allowed")


class TunnelLink(asyncio.Protocol):
    """A connection to another worker of this edge, which has the session of some requests."""

    def __init__(self, on_lost: Callable[[], None]) -> None:
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._queued: list[bytes] = []
        self._responds: deque[Respond] = deque()
        self._body = bytearray()
        self._parser = httptools.HttpResponseParser(self)

    def forward(self, request: TunnelRequest, body: bytes, respond: Respond) -> None:
        """Sends a request; ``respond`` gets the other worker's response, or 404 if it is gone."""
        number = "" if request.number is None else f"/{request.number}"
        target = f"/{request.kind.value.decode()}/{request.session}{number}"
        head = f"POST {target} HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        self._responds.append(respond)
        if self._transport is None:
            self._queued.append(head + body)
        else:
            self._transport.write(head + body)

    def fail(self) -> None:
        """The other worker cannot be reached: all requests get 404."""
        responds, self._responds = self._responds, deque()
        for respond in responds:
            respond(None)
        self._on_lost()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        for data in self._queued:
            transport.write(data)
        self._queued.clear()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.fail()

    def on_message_begin(self) -> None:
        self._body = bytearray()

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        is_found = self._parser.get_status_code() == 200
        if self._responds:
            self._responds.popleft()(bytes(self._body) if is_found else None)
