"""One RTMP session in a tunnel: its transport, its writer, and the requests that carry its bytes.

    OPEN ──request without data──▸ HELD ──data, or HOLD_S──▸ OPEN      any ──close──▸ CLOSED

An idle is held until there is data, so that a client asks once a second while nothing is due; a
send is answered in the loop iteration after it, because clients wait for its response with their
next command. What the session sends is gathered into the body of the next response, since a
response must name its length before its first byte: short pieces in memory, long ones as parts of
cache files. The latest response is kept for a client that has not received it; where that is
impossible and the client asks, the session ends, so that the client never gets a stream with a hole
in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum
from typing import Any, NamedTuple

from streamedge.cache.storage.extent import Ready
from streamedge.delivery.net.accept import Peer
from streamedge.delivery.net.writers import VirtualTransport, Writer
from streamedge.delivery.rtmp.timers import CoalescedTimers, TimerHandle
from streamedge.delivery.rtmp.tunnel.exchange import Exchange
from streamedge.delivery.rtmp.tunnel.response_body import ResponseBody, is_copied
from streamedge.delivery.rtmp.tunnel.rules import Kind, Order, Poll, RequestOrder, TunnelRequest

HOLD_S = 1.0  # an idle without data
WAIT_S = 5.0  # for an earlier request
WAITING_BYTES_MAX = 256 << 10  # in the bodies of requests that wait for an earlier one
SILENCE_S = 30.0  # a client that vanished sends no close
POLL_BYTES = 1  # before the bytes of the session in each response
RESPONSE_BYTES_MAX = 2 << 20  # of the next response, which no request has fetched yet
MEMORY_BYTES_MAX = 1 << 20  # of these, outside of cache files
REPEATED_BYTES_MAX = 64 << 10  # in memory, of a response that is kept for a repeated request

WINDOW_SIZE_BYTES = (1 << 31) - 1
"""After which the client acknowledges: practically never. librtmp posts Acknowledgements (of each
tenth of it) while it receives a response, and fails if the head of the next response, which is then
behind it at once, is cut by the end of its buffer of 16 KiB.
"""


class TunnelState(Enum):
    OPEN = "open"
    HELD = "held"
    CLOSED = "closed"


class _Arrival(NamedTuple):
    """A request that waits for an earlier one."""

    request: TunnelRequest
    body: bytes
    exchange: Exchange
    since_s: float


class Tunnel:
    """A session from ``open`` to its end. ``on_end`` is called once."""

    def __init__(
        self,
        session_id: str,
        peer: Peer,
        loop: asyncio.AbstractEventLoop,
        timers: CoalescedTimers,
        on_end: Callable[[Tunnel], None],
        *,
        is_secure: bool,
    ) -> None:
        self.id = session_id
        self.state = TunnelState.OPEN
        self.transport = TunnelTransport(self, peer, is_secure=is_secure)
        self._loop = loop
        self._timers = timers
        self._on_end = on_end
        self._order = RequestOrder()
        self._poll = Poll()
        self._next = _new_body()
        self._held: Exchange | None = None
        self._answer_at: TimerHandle | asyncio.Handle | None = None
        self._waiting: dict[int, _Arrival] = {}
        self._waiting_bytes = 0
        self._latest: Exchange | None = None  # answered last
        self._repeatable: ResponseBody | None = None  # its response, if it can be sent again
        self._is_lost = False  # the client has not received it
        self._sending: set[Exchange] = set()
        self._active_s = loop.time()  # the last request, or the end of the last response
        self._protocol: asyncio.Protocol | None = None

    def start(self, protocol: asyncio.Protocol) -> None:
        """Begins the RTMP session."""
        self._protocol = protocol
        protocol.connection_made(self.transport)

    def set_protocol(self, protocol: asyncio.Protocol) -> None:
        """Gives the session to another protocol, as a transport does."""
        self._protocol = protocol

    def __repr__(self) -> str:
        size, waiting = self.buffered_bytes, len(self._waiting)
        return f"Tunnel({self.state.value}, {size} bytes, {waiting} waiting)"

    # Requests

    def serve(self, request: TunnelRequest, body: bytes, exchange: Exchange) -> None:
        """Serves a request of this session, now or after those before it."""
        self._active_s = self._loop.time()
        if self.state is TunnelState.CLOSED:
            exchange.respond(None)
            return
        order = self._order.decide(request.number)
        if order is Order.REPEAT:
            self._repeat(request, exchange)
        elif order is Order.SERVE and not self._is_occupied:
            self._serve(request, body, exchange)
            self._serve_waiting()
        elif order is not Order.REFUSE and request.number is not None:
            self._wait(request.number, _Arrival(request, body, exchange, self._active_s))
        else:
            exchange.respond(None)

    @property
    def _is_occupied(self) -> bool:
        """Whether a send waits until the session reads again."""
        return self._held is not None and self.transport.is_paused

    def _wait(self, number: int, arrival: _Arrival) -> None:
        repeated = self._remove_waiting(number)
        if repeated is not None:
            repeated.exchange.respond(None)  # the client has sent it once more
        if self._waiting_bytes + len(arrival.body) > WAITING_BYTES_MAX:
            arrival.exchange.respond(None)
            return
        self._waiting[number] = arrival
        self._waiting_bytes += len(arrival.body)
        arrival.exchange.on_finish = lambda _exchange, _is_sent: self._forget(number)

    def _forget(self, number: int) -> None:
        """The connection of a request that waits is lost; the request may come again."""
        self._remove_waiting(number)

    def _remove_waiting(self, number: int) -> _Arrival | None:
        arrival = self._waiting.pop(number, None)
        if arrival is not None:
            arrival.exchange.on_finish = None
            self._waiting_bytes -= len(arrival.body)
        return arrival

    def _serve_waiting(self) -> None:
        while self.state is not TunnelState.CLOSED and not self._is_occupied:
            arrival = self._remove_waiting(self._order.latest + 1)
            if arrival is None:
                return
            self._serve(arrival.request, arrival.body, arrival.exchange)

    def _serve(self, request: TunnelRequest, body: bytes, exchange: Exchange) -> None:
        self._answer()  # the one that is held
        if self._is_lost and request.kind is not Kind.CLOSE:
            exchange.respond(None)
            self.end(ConnectionResetError("the client has not received a response"))
            return
        self._order.begin(request.number)
        self._hold(exchange)
        if request.kind is Kind.CLOSE:
            self._answer()
            self.end(None)
        elif request.kind is Kind.SEND:
            if self._protocol is not None and body:
                self._protocol.data_received(body)
            self._answer_soon()
        else:
            self._answer_in_time()

    def _repeat(self, request: TunnelRequest, exchange: Exchange) -> None:
        """Answers the latest request, which has come once more. Its body is not read again."""
        before = self._held
        if before is not None:
            before.on_finish = None
            before.respond(None)  # its connection may be dead
            self._hold(exchange)
        elif self._latest is None:  # its connection was lost while it was held
            self._hold(exchange)
            if request.kind is Kind.SEND:
                self._answer_soon()
            else:
                self._answer_in_time()
        elif self._repeatable is not None:
            self._sending.discard(self._latest)
            self._latest.on_finish = None
            self._send(exchange, self._repeatable)
        else:
            exchange.respond(None)
            self.end(ConnectionResetError("a response that the client has lost is not kept"))

    def _hold(self, exchange: Exchange) -> None:
        self._latest = self._repeatable = None
        self._held, self.state = exchange, TunnelState.HELD
        exchange.on_finish = self._finished

    def _answer_soon(self) -> None:
        """Answers after this loop iteration, so that one response has all that is sent in it."""
        self._cancel_answer()
        if not self.transport.is_paused:
            self._answer_at = self._loop.call_soon(self._answer_due)

    def _answer_in_time(self) -> None:
        """Answers once there is data, or after HOLD_S."""
        if self.buffered_bytes:
            self._answer_soon()
        else:
            self._answer_at = self._timers.call_at(self._loop.time() + HOLD_S, self._answer_due)

    def _answer_due(self) -> None:
        self._answer()
        self._serve_waiting()

    def _answer(self) -> None:
        exchange, self._held = self._held, None
        self._cancel_answer()
        if exchange is None:
            return
        if self.state is TunnelState.HELD:
            self.state = TunnelState.OPEN
        body, self._next = self._next, _new_body()
        has_data = body.size_bytes > POLL_BYTES
        body.begin_with(self._poll.next(has_data=has_data))
        self._repeatable = body if body.memory_bytes <= REPEATED_BYTES_MAX else None
        self._send(exchange, body)
        if has_data:
            self.transport.buffer_is_empty()

    def _send(self, exchange: Exchange, body: ResponseBody) -> None:
        self._latest, self._is_lost = exchange, False
        exchange.on_finish = self._finished
        self._sending.add(exchange)
        exchange.respond(body)

    def _finished(self, exchange: Exchange, is_sent: bool) -> None:
        """A response is sent, or the connection of a request is lost."""
        self._active_s = self._loop.time()
        self._sending.discard(exchange)
        if exchange is self._held:
            self._held = None
            self._cancel_answer()
            if self.state is TunnelState.HELD:
                self.state = TunnelState.OPEN
        elif is_sent:
            return
        elif exchange is self._latest:
            self._is_lost = True
        else:
            self.end(ConnectionResetError("a response before the latest one was lost"))

    def _cancel_answer(self) -> None:
        if self._answer_at is not None:
            self._answer_at.cancel()
            self._answer_at = None

    # Called by the transport

    @property
    def buffered_bytes(self) -> int:
        """Bytes that no request has fetched yet."""
        return self._next.size_bytes - POLL_BYTES

    @property
    def buffered_memory_bytes(self) -> int:
        """Those of them that are not in a cache file."""
        return self._next.memory_bytes - POLL_BYTES

    def append(self, data: bytes | memoryview) -> None:
        """Adds bytes of the session to the next response."""
        self._next.append(data)
        if self._held is not None:
            self._answer_soon()

    def append_file(self, file: int, offset: int, count: int) -> int:
        """Appends up to ``count`` bytes of a file; returns how many. Raises OSError."""
        added = self._next.append_file(file, offset, count)
        if added and self._held is not None:
            self._answer_soon()
        return added

    def resumed(self) -> None:
        """The session reads again: the send that waited for that gets its response."""
        if self._held is not None and (self._answer_at is None or self.buffered_bytes):
            self._answer_soon()

    # The end

    def sweep(self, now_s: float) -> None:
        """Ends a session whose client has vanished, and requests that wait for one that is lost."""
        for number, arrival in list(self._waiting.items()):
            if now_s - arrival.since_s > WAIT_S:
                self._remove_waiting(number)
                arrival.exchange.respond(None)
        is_silent = self._held is None and not self._sending
        if is_silent and now_s - self._active_s > SILENCE_S:
            self.end(TimeoutError("the tunnel's client sends no requests"))

    def end(self, cause: Exception | None) -> None:
        """Ends the session. May be called twice."""
        if self.state is TunnelState.CLOSED:
            return
        self._answer()
        self.state = TunnelState.CLOSED
        for number, arrival in list(self._waiting.items()):
            self._remove_waiting(number)
            arrival.exchange.respond(None)
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            protocol.connection_lost(cause)
        self.transport.drop()
        self._on_end(self)


def _new_body() -> ResponseBody:
    return ResponseBody(bytes(POLL_BYTES))


class TunnelTransport(VirtualTransport):
    """What an RTMP session sees as its connection."""

    def __init__(self, tunnel: Tunnel, peer: Peer, *, is_secure: bool) -> None:
        super().__init__()
        self._tunnel: Tunnel | None = tunnel  # None: it has ended
        self._is_closing = False
        self._writable: Callable[[], None] | None = None
        self.is_paused = False
        self._extra = {
            "peername": (peer.address, peer.port),
            "rtmp_transport": "rtmpts" if is_secure else "rtmpt",
            "rtmp_window_size": WINDOW_SIZE_BYTES,
        }

    def drop(self) -> None:
        """Drops the tunnel, which has ended: they refer to each other."""
        self._is_closing = True
        self._writable = self._tunnel = None

    def writer(self) -> Writer:
        if self._tunnel is None:
            raise ConnectionResetError("the tunnel has ended")
        return TunnelWriter(self._tunnel, self)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._extra.get(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        if not isinstance(protocol, asyncio.Protocol):
            raise TypeError(f"a tunnel's protocol receives bytes: {protocol!r}")
        if self._tunnel is not None:
            self._tunnel.set_protocol(protocol)

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        """Ends the session once all bytes are fetched."""
        self._is_closing = True
        if self._tunnel is not None and not self._tunnel.buffered_bytes:
            asyncio.get_running_loop().call_soon(self._tunnel.end, None)

    def abort(self) -> None:
        self._is_closing = True
        if self._tunnel is not None:
            asyncio.get_running_loop().call_soon(self._tunnel.end, None)

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False
        if self._tunnel is not None:
            self._tunnel.resumed()

    def is_reading(self) -> bool:
        return not self.is_paused

    def when_writable(self, call: Callable[[], None] | None) -> None:
        """Calls ``call`` once, when all bytes are fetched; None cancels that."""
        if self._tunnel is None:
            return
        self._writable = call
        if call is not None and not self._tunnel.buffered_bytes:
            asyncio.get_running_loop().call_soon(self.buffer_is_empty)

    def buffer_is_empty(self) -> None:
        """A response has taken all bytes."""
        writable, self._writable = self._writable, None
        if writable is not None:
            writable()
        if self._is_closing:
            self.close()


class TunnelWriter:
    """Writes into the next response, which is as a kernel's send buffer of RESPONSE_BYTES_MAX."""

    __slots__ = ("_transport", "_tunnel", "piece_bytes")

    def __init__(self, tunnel: Tunnel, transport: TunnelTransport) -> None:
        self._tunnel = tunnel
        self._transport = transport
        self.piece_bytes = RESPONSE_BYTES_MAX

    def send(self, data: bytes | memoryview, *, more: bool) -> int:
        count = min(len(data), self._space(in_memory=True))
        self._tunnel.append(data if count == len(data) else memoryview(data)[:count])
        return count

    def send_file(self, file: int, offset: int, count: int) -> int:
        space = self._space(in_memory=is_copied(count))
        return self._tunnel.append_file(file, offset, min(count, space))

    def send_together(self, head: bytes | memoryview, ready: Ready) -> int:
        file, offset, size = ready
        sent = 0
        try:
            sent = self.send(head, more=True)
            if sent == len(head):
                sent += self.send_file(file, offset, size)
        except OSError:
            return sent  # the response is full; the next call reports why
        return sent

    def unsent_bytes(self) -> int:
        return 0

    def watch(self, writable: Callable[[], None]) -> None:
        self._transport.when_writable(writable)

    def unwatch(self) -> None:
        self._transport.when_writable(None)

    def close(self) -> None:
        self.unwatch()

    def _space(self, *, in_memory: bool) -> int:
        """How many bytes the response takes. Raises OSError if it takes none."""
        if self._tunnel.state is TunnelState.CLOSED:
            raise ConnectionResetError
        space = RESPONSE_BYTES_MAX - self._tunnel.buffered_bytes
        if in_memory:
            space = min(space, MEMORY_BYTES_MAX - self._tunnel.buffered_memory_bytes)
        if space <= 0:
            raise BlockingIOError
        return space
