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
from dataclasses import dataclass
from typing import Any

import httptools

from streamedge.cache.open_object import Failure
from streamedge.delivery.net.accept import OnClose, Peer
from streamedge.delivery.net.sender import Sender
from streamedge.delivery.net.tls import TlsConnection
from streamedge.delivery.net.writers import BorrowedSocket
from streamedge.delivery.rtmp.tunnel.exchange import Exchange
from streamedge.delivery.rtmp.tunnel.response_body import FilePart, ResponseBody
from streamedge.delivery.rtmp.tunnel.rules import Kind, TunnelRequest, parse_target
from streamedge.spans import Span

TARGET_BYTES_MAX = 256
HEAD_BYTES_MAX = 8 << 10
BODY_BYTES_MAX = 256 << 10
UNANSWERED_MAX = 16  # requests of one connection
HEAD_S = 10.0  # from the first byte of a request to its last
IDLE_S = 60.0  # without a request
STALL_S = 30.0  # in which the client reads nothing of a response
QUEUED_BYTES_MAX = 256 << 10  # in memory, of responses that the client does not read
SILENCE_S = 30.0  # without a request of a session, which counts as ended then


def encode_response(
    body: ResponseBody | None, *, is_last: bool = False
) -> list[bytes | tuple[FilePart, Span]]:
    """The parts of a response, for a sender. None: 404. ``is_last``: the connection ends then."""
    connection = b"close" if is_last else b"keep-alive"
    if body is None:
        return [
            b"HTTP/1.1 404 Not Found\r\nContent-Type: application/x-fcs\r\nContent-Length: 1\r\n"
            b"Connection: %s\r\n\r\n\0" % connection
        ]
    head = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/x-fcs\r\nCache-Control: no-cache\r\n"
        b"Content-Length: %d\r\nConnection: %s\r\n\r\n" % (body.size_bytes, connection)
    )
    return body.sent_parts(head)


@dataclass(frozen=True, slots=True)
class ConnectionCallbacks:
    """``serve`` responds to a request, now or later; None is none of RTMPT's. ``ended``: the
    connection has ended.
    """

    serve: Callable[[TunnelRequest | None, bytes, Exchange, TunnelConnection], None]
    ended: Callable[[TunnelConnection], None]


class TunnelConnection(asyncio.Protocol):
    """A connection, from its first byte. ``is_peer``: another worker's, not a client's."""

    def __init__(
        self,
        callbacks: ConnectionCallbacks,
        loop: asyncio.AbstractEventLoop,
        peer: Peer,
        on_close: OnClose,
        *,
        is_peer: bool = False,
    ) -> None:
        self.peer = peer
        self.is_peer = is_peer
        self.is_secure = False
        self.forwarded_for = ""
        """X-Forwarded-For of the latest request, all lines joined by commas; "" without."""
        self._callbacks = callbacks
        self._loop = loop
        self._on_close = on_close
        self._transport: asyncio.Transport | None = None
        self._tcp: BorrowedSocket | None = None  # without it: a Unix socket
        self._sender: Sender  # from ``connection_made`` on, the first call that asyncio makes
        self._parser: Any = httptools.HttpRequestParser(self)  # None: the connection is lost
        self._target = b""
        self._body = bytearray()
        self._head_bytes = 0
        self._pending: deque[Exchange] = deque()  # in the order of the requests
        self._sending: deque[Exchange] = deque()
        self._is_reading = True
        self._has_ended = False  # no further requests come, or are served
        self._active_s = loop.time()
        self._began_s: float | None = None  # the request that is incomplete

    def __repr__(self) -> str:
        state = "idle" if self._began_s is None else f"receiving {self._target!r}"
        return f"TunnelConnection({state}, {len(self._pending)} pending)"

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self.is_secure = isinstance(transport, TlsConnection)
        connected = transport.get_extra_info("socket")
        if connected.family != socket.AF_UNIX:
            self._tcp = BorrowedSocket(connected.family, connected.type, 0, connected.fileno())
        self._sender = Sender(transport, self._loop, self._sent, self._failed)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserUpgrade, httptools.HttpParserError):
            self.abort()
        if self._began_s is not None and self._tcp is not None:
            # FFmpeg sends head and body apart, and waits for the ACK of the head, which the kernel
            # would delay by 40 ms.
            with contextlib.suppress(OSError):  # reset
                self._tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def eof_received(self) -> bool:
        """The client sends no more, but may still read: it gets its responses."""
        self._has_ended = True
        return bool(self._pending or self._sending)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._sender.close()
        if self._tcp is not None:
            self._tcp.detach()
            self._tcp = None
        for exchanges in (self._sending, self._pending):
            while exchanges:
                exchanges.popleft().finish(is_sent=False)
        self._on_close()
        self._callbacks.ended(self)
        self._parser = None  # refers to this object

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
        if self._transport is None or self._has_ended or self._transport.is_closing():
            return
        request = parse_target(self._target) if self._parser.get_method() == b"POST" else None
        exchange = Exchange(self._send)
        self._pending.append(exchange)
        self._pause_or_resume()
        self._callbacks.serve(request, bytes(self._body), exchange, self)

    # Called by the server

    def sweep(self, now_s: float) -> None:
        """Closes a connection whose client sends or reads too slowly, or sends no requests."""
        blocked_since_s = self._sender.blocked_since_s
        is_slow = self._began_s is not None and now_s - self._began_s > HEAD_S
        is_stalled = blocked_since_s is not None and now_s - blocked_since_s > STALL_S
        is_idle = not (self._pending or self._sending) and now_s - self._active_s > IDLE_S
        if is_slow or is_stalled or is_idle:
            self.abort()

    def abort(self) -> None:
        """Closes the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Closes the connection behind the responses that are due."""
        self._has_ended = True
        if self._transport is not None and not self._pending and not self._sending:
            self._transport.close()

    def _send(self) -> None:
        """Sends the responses that are due, in the order of their requests."""
        if self._transport is None:
            return
        while self._pending and self._pending[0].is_answered:
            exchange = self._pending.popleft()
            self._sending.append(exchange)
            is_last = self._has_ended and not self._pending
            self._sender.push(*encode_response(exchange.body, is_last=is_last))
        self._pause_or_resume()

    def _sent(self) -> None:
        """The kernel has all responses."""
        self._active_s = self._loop.time()
        while self._sending:
            self._sending.popleft().finish(is_sent=True)
        if self._has_ended:
            self.close()
        else:
            self._pause_or_resume()

    def _failed(self, _cause: Failure | None) -> None:
        self.abort()

    def _pause_or_resume(self) -> None:
        """Reads no further requests while many wait, or many bytes of responses."""
        if self._transport is None or self._transport.is_closing():
            return
        unanswered = len(self._pending) + len(self._sending)
        is_full = unanswered >= UNANSWERED_MAX or (
            bool(self._sending) and self._sender.queued_bytes > QUEUED_BYTES_MAX
        )
        if is_full is self._is_reading:
            self._is_reading = not is_full
            if is_full:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def _check(self, is_allowed: bool) -> None:
        """Raises ValueError at a limit; httptools passes it on as HttpParserCallbackError."""
        if not is_allowed:
            raise ValueError("a request of a tunnel is longer than allowed")


class TunnelLink(asyncio.Protocol):
    """A connection to another worker of this edge, which has the sessions of some requests.

    ``on_lost`` is called when it is lost, ``on_session_end`` when a client no longer uses a session
    over it.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_lost: Callable[[], None],
        on_session_end: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._on_lost = on_lost
        self._on_session_end = on_session_end
        self._transport: asyncio.Transport | None = None
        self._is_closed = False
        self._queued: list[bytes] = []
        self._exchanges: deque[tuple[TunnelRequest, Exchange]] = deque()
        self._sessions: dict[str, float] = {}  # the time of the latest request or response
        self._body = bytearray()
        self._parser: Any = httptools.HttpResponseParser(self)  # None: the connection is lost

    def forward(self, request: TunnelRequest, body: bytes, exchange: Exchange) -> None:
        """Sends a request; ``exchange`` gets the other worker's response, or 404 if it is gone."""
        number = "" if request.number is None else f"/{request.number}"
        target = f"/{request.kind.value.decode()}/{request.session}{number}"
        head = f"POST {target} HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        self._exchanges.append((request, exchange))
        self._sessions[request.session] = self._loop.time()
        if self._transport is None:
            self._queued.append(head + body)
        else:
            self._transport.write(head + body)

    @property
    def has_sessions(self) -> bool:
        """Whether clients use sessions of the other worker over this connection."""
        return bool(self._sessions)

    def sweep(self, now_s: float) -> None:
        """Forgets sessions whose client has vanished, or uses another connection."""
        for session, active_s in list(self._sessions.items()):
            if now_s - active_s > SILENCE_S:
                self._forget(session)

    def fail(self) -> None:
        """The other worker cannot be reached: all requests get 404."""
        while self._exchanges:
            _request, exchange = self._exchanges.popleft()
            exchange.respond(None)
        self._sessions.clear()
        self._on_lost()
        self._on_session_end()

    def close(self) -> None:
        """Closes the connection, also one that is not there yet: all requests get 404."""
        self._is_closed = True
        self.fail()
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        if self._is_closed:
            transport.abort()
            return
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
        self._parser = None  # refers to this object

    def on_message_begin(self) -> None:
        self._body = bytearray()

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        if not self._exchanges:
            return
        request, exchange = self._exchanges.popleft()
        is_found = self._parser.get_status_code() == 200
        if is_found and request.kind is not Kind.CLOSE:
            self._sessions[request.session] = self._loop.time()
        else:
            self._forget(request.session)
        exchange.respond(ResponseBody(self._body) if is_found else None)

    def _forget(self, session: str) -> None:
        self._sessions.pop(session, None)
        self._on_session_end()
