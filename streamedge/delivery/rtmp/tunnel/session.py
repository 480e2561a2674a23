"""One RTMP session in a tunnel: its transport, its writer, and the requests that carry its bytes.

    OPEN ──request without data──▸ HELD ──data, or HOLD_S──▸ OPEN      any ──close──▸ CLOSED

An idle is held until there is data, so that a client asks twice a second at most; a send is
answered in the loop iteration after it, because clients wait for its response with their next
command. What the session sends is copied into memory: a response must name its length before its
first byte, and the bytes of a run are not known to be sent before its request has come.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from enum import Enum
from typing import Any

from streamedge.cache.storage.extent import Ready
from streamedge.delivery.net.accept import Peer
from streamedge.delivery.net.writers import TLS_WRITE_BYTES, VirtualTransport, Writer
from streamedge.delivery.rtmp.tunnel.rules import Kind, Order, Poll, RequestOrder, TunnelRequest

HOLD_S = 0.5  # an idle without data
WAIT_S = 5.0  # for an earlier request
SILENCE_S = 30.0  # a client that vanished sends no close
RESPONSE_BYTES_MAX = 1 << 20
BUFFER_BYTES_MAX = RESPONSE_BYTES_MAX  # bytes that no request has fetched yet

Respond = Callable[[bytes | None], None]
"""Sends the body of a response; None: 404."""


class TunnelState(Enum):
    OPEN = "open"
    HELD = "held"
    CLOSED = "closed"


class Tunnel:
    """A session from ``open`` to its end. ``on_end`` is called once."""

    def __init__(
        self,
        session_id: str,
        peer: Peer,
        loop: asyncio.AbstractEventLoop,
        on_end: Callable[[Tunnel], None],
        *,
        is_secure: bool,
    ) -> None:
        self.id = session_id
        self.state = TunnelState.OPEN
        self.requested_s = loop.time()
        self.transport = TunnelTransport(self, peer, is_secure=is_secure)
        self._loop = loop
        self._on_end = on_end
        self._order = RequestOrder()
        self._poll = Poll()
        self._buffer = bytearray()
        self._respond: Respond | None = None
        self._answer_at: asyncio.TimerHandle | asyncio.Handle | None = None
        self._waiting: dict[int, tuple[TunnelRequest, bytes, Respond, float]] = {}
        self._protocol: asyncio.Protocol | None = None

    def start(self, protocol: asyncio.Protocol) -> None:
        """Begins the RTMP session."""
        self.set_protocol(protocol)
        protocol.connection_made(self.transport)

    def set_protocol(self, protocol: asyncio.Protocol) -> None:
        """Gives what comes from now on to another protocol."""
        self._protocol = protocol

    def __repr__(self) -> str:
        size = len(self._buffer)
        return f"Tunnel({self.state.value}, {size} bytes, {len(self._waiting)} waiting)"

    # Requests

    def serve(self, request: TunnelRequest, body: bytes, respond: Respond) -> None:
        """Serves a request of this session, now or after those before it."""
        self.requested_s = self._loop.time()
        if self.state is TunnelState.CLOSED:
            respond(None)
            return
        order = self._order.decide(request.number)
        if order is Order.REPEAT:
            respond(self._order.response)
        elif order is Order.SERVE:
            self._serve(request, body, respond)
            self._serve_waiting()
        elif order is Order.WAIT and request.number is not None:
            repeated = self._waiting.pop(request.number, None)
            if repeated is not None:
                repeated[2](None)  # the client has sent it once more
            self._waiting[request.number] = (request, body, respond, self.requested_s)
        else:
            respond(None)

    def _serve_waiting(self) -> None:
        while self.state is not TunnelState.CLOSED:
            latest = self._order.latest
            waiting = None if latest is None else self._waiting.pop(latest + 1, None)
            if waiting is None:
                return
            self._serve(*waiting[:3])

    def _serve(self, request: TunnelRequest, body: bytes, respond: Respond) -> None:
        self._answer()  # the one that is held
        self._order.begin(request.number)
        self._respond, self.state = respond, TunnelState.HELD
        if request.kind is Kind.CLOSE:
            self._answer()
            self.end(None)
        elif request.kind is Kind.SEND:
            if self._protocol is not None and body:
                self._protocol.data_received(body)
            self._answer_soon()
        elif self._buffer:
            self._answer_soon()
        else:
            self._answer_at = self._loop.call_later(HOLD_S, self._answer)

    def _answer_soon(self) -> None:
        """Answers after this loop iteration, so that one response has all that is sent in it."""
        if self._answer_at is not None:
            self._answer_at.cancel()
        if not self.transport.is_paused:
            self._answer_at = self._loop.call_soon(self._answer)

    def _answer(self) -> None:
        respond, self._respond = self._respond, None
        if self._answer_at is not None:
            self._answer_at.cancel()
            self._answer_at = None
        if respond is None:
            return
        if self.state is TunnelState.HELD:
            self.state = TunnelState.OPEN
        data = bytes(self._buffer[:RESPONSE_BYTES_MAX])
        del self._buffer[:RESPONSE_BYTES_MAX]
        response = bytes((self._poll.next(has_data=bool(data)),)) + data
        self._order.answered(response)
        respond(response)
        if data and not self._buffer:
            self.transport.buffer_is_empty()

    # Called by the transport

    @property
    def buffered_bytes(self) -> int:
        """Bytes that no request has fetched yet."""
        return len(self._buffer)

    def append(self, *parts: bytes | memoryview) -> None:
        """Adds bytes of the session for the next response."""
        for part in parts:
            self._buffer += part
        if self._respond is not None:
            self._answer_soon()

    def resumed(self) -> None:
        """The session reads again: the send that waited for that gets its response."""
        if self._respond is not None and (self._answer_at is None or self._buffer):
            self._answer_soon()

    # The end

    def sweep(self, now_s: float) -> None:
        """Ends a session whose client has vanished, and requests that wait for one that is lost."""
        for number, (_request, _body, respond, since_s) in list(self._waiting.items()):
            if now_s - since_s > WAIT_S:
                del self._waiting[number]
                respond(None)
        if now_s - self.requested_s > SILENCE_S:
            self.end(TimeoutError("the tunnel's client sends no requests"))

    def end(self, cause: Exception | None) -> None:
        """Ends the session. May be called twice."""
        if self.state is TunnelState.CLOSED:
            return
        self._answer()
        self.state = TunnelState.CLOSED
        for _request, _body, respond, _since_s in self._waiting.values():
            respond(None)
        self._waiting.clear()
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            protocol.connection_lost(cause)
        self._on_end(self)


class TunnelTransport(VirtualTransport):
    """What an RTMP session sees as its connection."""

    def __init__(self, tunnel: Tunnel, peer: Peer, *, is_secure: bool) -> None:
        super().__init__()
        self._tunnel = tunnel
        self._is_closing = False
        self._writable: Callable[[], None] | None = None
        self.is_paused = False
        self._extra = {
            "peername": (peer.address, peer.port),
            "rtmp_transport": "rtmpts" if is_secure else "rtmpt",
        }

    def writer(self) -> Writer:
        return TunnelWriter(self._tunnel, self)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._extra.get(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        if not isinstance(protocol, asyncio.Protocol):
            raise TypeError(f"a tunnel's protocol receives bytes: {protocol!r}")
        self._tunnel.set_protocol(protocol)

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        """Ends the session once all bytes are fetched."""
        self._is_closing = True
        if not self._tunnel.buffered_bytes:
            asyncio.get_running_loop().call_soon(self._tunnel.end, None)

    def abort(self) -> None:
        self._is_closing = True
        asyncio.get_running_loop().call_soon(self._tunnel.end, None)

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False
        self._tunnel.resumed()

    def is_reading(self) -> bool:
        return not self.is_paused

    def when_writable(self, call: Callable[[], None] | None) -> None:
        """Calls ``call`` once, when all bytes are fetched; None cancels that."""
        self._writable = call
        if call is not None and not self._tunnel.buffered_bytes:
            asyncio.get_running_loop().call_soon(self.buffer_is_empty)

    def buffer_is_empty(self) -> None:
        """A response has taken all bytes."""
        writable, self._writable = self._writable, None
        if writable is not None:
            writable()
        if self._is_closing and not self._tunnel.buffered_bytes:
            self.close()


class TunnelWriter:
    """Writes into a tunnel's memory, which is as a kernel's send buffer of BUFFER_BYTES_MAX."""

    __slots__ = ("_transport", "_tunnel", "piece_bytes")

    def __init__(self, tunnel: Tunnel, transport: TunnelTransport) -> None:
        self._tunnel = tunnel
        self._transport = transport
        self.piece_bytes = TLS_WRITE_BYTES

    def send(self, data: bytes | memoryview, *, more: bool) -> int:
        count = min(len(data), self._space())
        self._tunnel.append(data if count == len(data) else memoryview(data)[:count])
        return count

    def send_file(self, file: int, offset: int, count: int) -> int:
        piece = os.pread(file, min(count, self._space()), offset)
        self._tunnel.append(piece)
        return len(piece)

    def send_together(self, head: bytes | memoryview, ready: Ready) -> int:
        file, offset, size = ready
        try:
            if len(head) >= self._space():
                return 0
            piece = os.pread(file, min(size, self._space() - len(head)), offset)
        except OSError:
            return 0  # the next call reports why
        self._tunnel.append(head, piece)
        return len(head) + len(piece)

    def unsent_bytes(self) -> int:
        return 0

    def watch(self, writable: Callable[[], None]) -> None:
        self._transport.when_writable(writable)

    def unwatch(self) -> None:
        self._transport.when_writable(None)

    def close(self) -> None:
        self.unwatch()

    def _space(self) -> int:
        """How many bytes the buffer takes. Raises OSError if it takes none."""
        if self._tunnel.state is TunnelState.CLOSED:
            raise ConnectionResetError
        space = BUFFER_BYTES_MAX - self._tunnel.buffered_bytes
        if space <= 0:
            raise BlockingIOError
        return space
