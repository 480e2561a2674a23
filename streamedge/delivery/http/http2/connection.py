"""One HTTP/2 connection of a viewer: its streams, and what they may send when.

The engine (``engine``) has the protocol. A request that the fast path can answer is answered in the
loop iteration in which it came, without a task. All others become an ``Http2Exchange`` that the
handler answers in a task of its own.

Bodies are read from the cache only when they can be sent: when the windows of the stream and of the
connection have room for them, and the kernel has taken all bytes before them. ``schedule`` chooses
whose turn it is. So a viewer that does not read costs the memory of its requests, and no more.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from http import HTTPStatus
from typing import Any, Final, NamedTuple

from streamedge.access.client_address import IpNetwork, is_trusted
from streamedge.cache.open_object import Failure
from streamedge.cache.reader import CacheResult, Reader
from streamedge.cache.storage.records import Provenance
from streamedge.delivery.http.connections import Connections
from streamedge.delivery.http.fast_path.remembered import Hit, RememberedRequest, SentHit
from streamedge.delivery.http.fast_path.request_memo import ByteRange
from streamedge.delivery.http.handler import HttpHandler, Upgraded
from streamedge.delivery.http.http2.encoding import (
    Head,
    RequestHead,
    decode_request,
    encode_fields,
    encode_head,
)
from streamedge.delivery.http.http2.engine import (
    REQUESTS_MAX,
    STREAMS_MAX,
    DataReceived,
    Ended,
    Engine,
    ErrorCode,
    Event,
    PingAcknowledged,
    PriorityUpdateReceived,
    RequestReceived,
    SettingsReceived,
    StreamClosed,
    TrailersReceived,
    WindowUpdated,
)
from streamedge.delivery.http.http2.exchange import Http2Exchange
from streamedge.delivery.http.http2.outgoing import OutgoingBody
from streamedge.delivery.http.http2.schedule import Priority, Schedule
from streamedge.delivery.http.request.request import (
    HEAD_BYTES_MAX,
    WebRequest,
    request_size_bytes,
    web_request,
)
from streamedge.delivery.http.request.trailers import TRAILER_BYTES_MAX
from streamedge.delivery.http.response.body import with_reader
from streamedge.delivery.http.response.build import Response
from streamedge.delivery.http.response.response import ResponseHead
from streamedge.delivery.net.accept import Peer
from streamedge.delivery.net.tls import LINGER_S, TlsConnection
from streamedge.errors import CacheFullError, OriginError
from streamedge.spans import Span

FIELDS_MAX: Final = 100
"""Fields of a request's head."""

PIECE_BYTES: Final = 16 << 10
"""Received bytes that are parsed before the clock is read again: at most ``STREAMS_MAX`` requests,
some milliseconds."""

ROUND_BYTES: Final = 256 << 10
"""Bytes of bodies that are read, framed, encrypted and written at once; no more of them wait."""

QUANTUM_BYTES: Final = 1 << 20
"""Bytes that are sent before other connections have their turn."""

ANNOUNCEMENT_S: Final = 1.0
"""How long requests are accepted after the first GOAWAY, if the viewer does not answer its PING."""

Remembered = RememberedRequest[Head, Head]
FinishedCall = Callable[[int, float, str | None], None]
"""Logs and counts a response: bytes of its body, seconds taken, and why it was cut off."""


class Http2Stats(NamedTuple):
    """The state of a connection, for tests and debugging.

    ``exchanges``: requests that are being handled or answered; ``responses``: that are being sent;
    ``blocked``: those of them that wait for the peer's window. ``handling``: tasks, including those
    for viewers that have left. ``unsent_bytes``: of bodies, in memory. ``is_blocked``: the kernel
    takes no bytes now; ``is_window_closed``: nor does the peer, on any stream.
    """

    exchanges: int
    responses: int
    blocked: int
    handling: int
    unsent_bytes: int
    is_blocked: bool
    is_window_closed: bool
    is_draining: bool


class StreamResponse:
    """A response in flight on a stream. ``exchange`` is None for a hit of the fast path."""

    __slots__ = (
        "blocked_since_s",
        "body",
        "done",
        "exchange",
        "finished",
        "is_ending",
        "provenance",
        "pushing",
        "reader",
        "sent_bytes",
        "started_s",
        "stream_id",
        "trailers",
    )

    def __init__(
        self,
        stream_id: int,
        exchange: Http2Exchange | None,
        reader: Reader | None,
        finished: FinishedCall,
        *,
        started_s: float,
        provenance: Callable[[], Provenance] | None,
    ) -> None:
        self.stream_id = stream_id
        self.exchange = exchange
        self.reader = reader
        self.finished = finished
        self.started_s = started_s
        self.provenance = provenance  # None: no invalidation applies
        self.body = OutgoingBody()
        self.is_ending = False  # nothing will be pushed behind what the body has
        self.trailers: Head = ()
        self.sent_bytes = 0
        self.blocked_since_s: float | None = None  # since when the peer's window is closed
        self.done: asyncio.Future[None] | None = None  # set when all pushed bytes are sent
        self.pushing: asyncio.Task[Any] | None = None  # the task that pushes pieces


class Http2Connection(asyncio.Protocol):
    """One connection, from its first byte to its end.

    ``connections`` are the open ones of the server; ``on_close`` is called when this one is lost.
    ``failed(client, ended)`` is called when it ends with an error.
    """

    __slots__ = (
        "_blocked_since_s",
        "_connections",
        "_drain_timer",
        "_engine",
        "_exchanges",
        "_failed",
        "_fast_path",
        "_handler",
        "_handling",
        "_is_draining",
        "_is_held",
        "_is_lost",
        "_is_parse_due",
        "_is_refusing",
        "_is_writing",
        "_linger_timer",
        "_next_quantum",
        "_on_close",
        "_responses",
        "_schedule",
        "_serves",
        "_unparsed",
        "_window_closed_since_s",
        "client",
        "loop",
        "peer",
        "proxies",
        "quiet_since_s",
        "secure",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(
        self,
        handler: HttpHandler,
        connections: Connections,
        peer: Peer,
        on_close: Callable[[], None],
        failed: Callable[[str, Ended], None],
    ) -> None:
        self.loop = connections.loop
        self.peer = peer
        self.client = str(peer)
        self.secure = True
        self.proxies: Sequence[IpNetwork] = ()  # all trusted proxies, if the peer is one
        self.quiet_since_s = 0.0
        self._handler = handler
        self._connections = connections
        self._on_close = on_close
        self._failed = failed
        self._serves: Callable[[str], bool] | None = None  # whether TLS covers a host
        self._engine = Engine()
        self._schedule = Schedule()
        self._exchanges: dict[int, Http2Exchange] = {}  # by stream, until their response has ended
        self._responses: dict[int, StreamResponse] = {}
        self._handling = 0  # tasks of requests
        self._unparsed = b""  # received bytes that wait for their share of the loop's time
        self._is_parse_due = False
        self._is_held = False  # whether the socket is not read meanwhile
        self._is_writing = False
        self._is_draining = False  # a GOAWAY has announced the end
        self._is_refusing = False  # another one has named the last stream
        self._is_lost = False
        self._drain_timer: asyncio.TimerHandle | None = None
        self._linger_timer: asyncio.TimerHandle | None = None
        self._next_quantum: asyncio.Handle | None = None
        self._blocked_since_s: float | None = None  # since when the kernel takes no bytes
        self._window_closed_since_s: float | None = None  # since when the peer takes none

    def stats(self) -> Http2Stats:
        """Its present state."""
        return Http2Stats(
            len(self._exchanges),
            len(self._responses),
            sum(one.blocked_since_s is not None for one in self._responses.values()),
            self._handling,
            self._engine.unsent_bytes(),
            self._blocked_since_s is not None,
            self._window_closed_since_s is not None,
            self._is_draining,
        )

    def __repr__(self) -> str:
        return f"<Http2Connection {self.client} {self.stats()}>"

    # --- the transport's callbacks ------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        if is_trusted(self.peer.address, self._handler.proxies):
            self.proxies = self._handler.proxies
        elif isinstance(transport, TlsConnection):
            self._serves = transport.serves  # a trusted proxy may reuse connections (RFC 9110 §7.4)
        self._fast_path = self._handler.http2_fast_paths[bool(self.proxies)]
        self.quiet_since_s = self.loop.time()
        if not self._connections.add(self):
            transport.abort()
            return
        self._write()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._is_lost:
            return
        self._is_lost = True
        self._unparsed = b""
        for timer in (self._drain_timer, self._linger_timer, self._next_quantum):
            if timer is not None:
                timer.cancel()
        for exchange in list(self._exchanges.values()):
            exchange.cut()
        for response in list(self._responses.values()):
            self._finish(response, "viewer left")
        self._exchanges.clear()
        self._connections.remove(self)
        self._on_close()

    def pause_writing(self) -> None:
        if self._blocked_since_s is None:
            self._blocked_since_s = self.loop.time()

    def resume_writing(self) -> None:
        self._blocked_since_s = None
        if not self._is_writing:
            self._write()

    def data_received(self, data: bytes) -> None:
        if self._unparsed or len(data) > PIECE_BYTES:
            self._unparsed += data
            if not self._is_parse_due:
                self._is_parse_due = True
                if self._connections.read_scheduler.start(self._parse_piece):
                    self._hold()
        else:
            self._parse(data)

    # --- what the server calls ----------------------------------------------------------------

    def shutdown(self) -> None:
        """Ends the connection behind the requests that the viewer has sent or is sending."""
        if self._is_draining or self._is_lost:
            return
        self._is_draining = True
        self._engine.announce_end()
        self._drain_timer = self.loop.call_later(ANNOUNCEMENT_S, self._refuse_new)
        self._write()

    def abort(self) -> None:
        """Closes the connection now."""
        self.transport.abort()

    def sweep(self, now_s: float, idle_s: float, stall_s: float, body_rate: int = 0) -> None:
        """Closes the connection when it was idle, or its peer accepted nothing, for too long.

        Resets streams whose window was closed for ``stall_s``, and those whose request has stopped
        to come, or comes with less than ``body_rate`` bytes a second.
        """
        if self.transport.is_closing():
            return
        since_s = self._blocked_since_s
        if since_s is None and self._schedule:
            since_s = self._window_closed_since_s
        if since_s is not None and now_s - since_s > stall_s:
            for response in list(self._responses.values()):
                self._finish(response, "viewer stalled")
            self.transport.abort()
            return
        if not self._exchanges and not self._responses:
            if now_s - self.quiet_since_s > idle_s:
                self._engine.end(ErrorCode.NO_ERROR, "")
                self._write()
            return
        for response in list(self._responses.values()):
            blocked_s = response.blocked_since_s
            if blocked_s is not None and now_s - blocked_s > stall_s:
                self._cut(response, "viewer stalled")
        for exchange in list(self._exchanges.values()):
            if _is_too_slow(exchange, now_s, stall_s, body_rate):
                self._engine.reset(exchange.stream_id, ErrorCode.ENHANCE_YOUR_CALM)
                self._close_stream(exchange.stream_id, "viewer stalled")
        self._write()

    def revoke(self, is_revoked: Callable[[Provenance], bool]) -> None:
        """Resets the streams whose responses have been revoked."""
        for response in list(self._responses.values()):
            if response.provenance is not None and is_revoked(response.provenance()):
                self._cut(response, "revoked")
        self._write()

    # --- receiving ----------------------------------------------------------------------------

    def _parse_piece(self) -> bool:
        """Parses one piece of the received bytes; returns whether another can follow."""
        if self._is_lost or self.transport.is_closing():
            self._unparsed = b""
            return False
        data, self._unparsed = self._unparsed[:PIECE_BYTES], self._unparsed[PIECE_BYTES:]
        self._parse(data)
        if self._unparsed:
            return True
        self._is_parse_due = False
        self._release()
        return False

    def _hold(self) -> None:
        if not self._is_held:
            self._is_held = True
            self.transport.pause_reading()

    def _release(self) -> None:
        if self._is_held:
            self._is_held = False
            self.transport.resume_reading()

    def _parse(self, data: bytes) -> None:
        """Parses received bytes and answers what can be answered at once."""
        try:
            self._engine.receive(data)
            self._process()
            self._write()
        except Exception as cause:  # noqa: BLE001 - a defect of ours ends this connection alone
            context = {"message": "a connection failed", "exception": cause, "protocol": self}
            self.loop.call_exception_handler(context)
            self.transport.abort()

    def _process(self) -> bool:
        """Handles what the engine reports; returns whether the engine may have more to send now."""
        loop_s = self.loop.time()
        events = self._engine.events(loop_s)
        if not events or self._engine.ended is not None:
            return False
        may_send = False
        now_s = time.time()
        hits: list[SentHit] = []
        for event in events:
            if type(event) is RequestReceived:
                self._request_received(event, hits, now_s, loop_s)
            elif type(event) is StreamClosed:
                self._stream_closed(event.stream_id)
                continue
            else:
                self._other_received(event, loop_s)
            may_send = True
        if hits:
            self.quiet_since_s = loop_s
            self._handler.hits_finished(hits)
        if self._engine.requests >= REQUESTS_MAX:
            self.shutdown()
        return may_send

    def _stream_closed(self, stream_id: int) -> None:
        is_refused = self._engine.was_refused(stream_id)
        is_logged = stream_id in self._exchanges or stream_id in self._responses
        self._close_stream(stream_id, "viewer left")
        if is_refused and not is_logged:  # a malformed head, which the engine keeps to itself
            self._handler.refused_connection(self.client, HTTPStatus.BAD_REQUEST)

    def _other_received(self, event: Event, loop_s: float) -> None:
        if isinstance(event, DataReceived):
            self._data_received(event, loop_s)
        elif isinstance(event, WindowUpdated):
            self._window_opened(event.stream_id)
        elif isinstance(event, SettingsReceived):
            self._window_opened(0)
            for stream_id in self._responses:
                self._window_opened(stream_id)
        elif isinstance(event, TrailersReceived):
            self._trailers_received(event)
        elif isinstance(event, PriorityUpdateReceived):
            if event.prioritized_stream_id in self._schedule:
                self._ready(event.prioritized_stream_id)
        elif isinstance(event, PingAcknowledged) and self._is_draining:
            self._refuse_new()

    def _request_received(
        self, event: RequestReceived, hits: list[SentHit], now_s: float, loop_s: float
    ) -> None:
        stream_id, fields = event.stream_id, event.headers
        match = self._fast_path.memo.get(fields) if event.end_stream else None
        if match is not None:
            remembered, byte_range = match
            if self._handler.admits(remembered, self._serves, self.peer.address, now_s):
                hit = self._fast_path.decide(remembered, byte_range, now_s)
                if hit is not None:
                    sent = self._send_hit(stream_id, remembered, byte_range, hit, loop_s)
                    if sent is not None:
                        hits.append(sent)
                    return
        head = decode_request(fields)
        if head is None:
            self._refuse(stream_id, HTTPStatus.BAD_REQUEST)
        elif (
            len(fields) > FIELDS_MAX
            or request_size_bytes(head.target, head.fields) > HEAD_BYTES_MAX
        ):
            self._refuse(stream_id, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        elif self._handling >= STREAMS_MAX:
            # The viewer has reset streams whose requests are still being handled.
            self._engine.reset(stream_id, ErrorCode.REFUSED_STREAM)
        else:
            self._handle(event, head, hits, now_s, loop_s)

    def _handle(
        self,
        event: RequestReceived,
        head: RequestHead,
        hits: list[SentHit],
        now_s: float,
        loop_s: float,
    ) -> None:
        """Interprets a request, and answers it by the fast path or in a task."""
        stream_id, ends = event.stream_id, event.end_stream
        request = self._web_request(head, has_body=not ends)
        outcome = self._handler.dispatch(request)
        if ends:
            match = self._fast_path.prepare(request, outcome)
            if match is not None:
                self._fast_path.remember(event.headers, *match)
                hit = None
                if self._handler.admits(match[0], self._serves, self.peer.address, now_s):
                    hit = self._fast_path.decide(*match, now_s)
                if hit is not None:
                    sent = self._send_hit(stream_id, *match, hit, loop_s)
                    if sent is not None:
                        hits.append(sent)
                    return
        exchange = Http2Exchange(
            stream_id,
            request,
            outcome,
            self._send_interim,
            self._consumed,
            is_received=ends,
        )
        self._exchanges[stream_id] = exchange
        self._handling += 1
        self._connections.start(self._run(exchange), "request")

    def _web_request(self, head: RequestHead, *, has_body: bool) -> WebRequest:
        method, target, fields = head
        return web_request(
            method.decode("latin-1"),
            target,
            fields,
            client=self.client,
            address=self.peer.address,
            proxies=self.proxies,
            keep_alive=True,
            started_s=self.loop.time(),
            secure=self.secure,
            http_version="2",
            serves=self._serves,
            has_unstated_length=has_body
            and not any(name == b"content-length" for name, _value in fields),
        )

    def _data_received(self, event: DataReceived, loop_s: float) -> None:
        exchange = self._exchanges.get(event.stream_id)
        if exchange is None:
            self._consumed(event.stream_id, len(event.data))
            return
        exchange.received(event.data, loop_s)
        if event.end_stream:
            exchange.end()

    def _trailers_received(self, event: TrailersReceived) -> None:
        exchange = self._exchanges.get(event.stream_id)
        if exchange is None:
            return
        if request_size_bytes(b"", list(event.headers)) > TRAILER_BYTES_MAX:
            self._engine.reset(event.stream_id, ErrorCode.ENHANCE_YOUR_CALM)
            self._close_stream(event.stream_id, "too many trailer fields")
            return
        exchange.received_trailers(event.headers)
        exchange.end()

    def _consumed(self, stream_id: int, count: int) -> None:
        """The handler has taken bytes of a request's body: the viewer may send as many again."""
        if count and not self._is_lost:
            self._engine.consumed(stream_id, count)
            self._write_soon()

    def _refuse(self, stream_id: int, status: HTTPStatus) -> None:
        """Answers a request that no route is looked for."""
        head = ResponseHead(status, [("content-length", "0")])
        self._engine.respond(stream_id, encode_head(head), ends=True)
        self._handler.refused_connection(self.client, status)

    # --- the fast path ------------------------------------------------------------------------

    def _send_hit(
        self,
        stream_id: int,
        remembered: Remembered,
        byte_range: ByteRange | None,
        hit: Hit[Head],
        loop_s: float,
    ) -> SentHit | None:
        """Sends a hit. Returns None when it is not sent at once; then it is logged at its end."""
        status, head, ready, start, end, opened, message = hit
        size, body = end - start, b""
        parts: Sequence[bytes | Span] = ()
        response = None
        if message is not None:
            response = message.response
            body, parts = response.message.body, response.message.parts
        engine = self._engine
        if not size and not body and not parts:
            engine.respond(stream_id, head, ends=True)
            return remembered, byte_range, status, self.client, 0, response
        is_small = size + engine.unsent_bytes() <= ROUND_BYTES
        is_small = is_small and not parts and (ready is not None or not size)
        if is_small and not self._schedule and self._blocked_since_s is None:
            if ready is not None:
                # A rest is in another file; a short read means that bytes are missing.
                body = os.pread(ready.fd, size, ready.offset) if ready.size_bytes == size else b""
            if body and len(body) >= size and len(body) <= engine.room(stream_id):
                engine.respond_whole(stream_id, head, body)
                return remembered, byte_range, status, self.client, len(body), response
            if ready is not None:
                body = b""
        reader = None if opened is None else Reader(opened, CacheResult.HIT)
        sending = StreamResponse(
            stream_id,
            None,
            reader,
            partial(
                self._handler.hit_finished, remembered, byte_range, status, self.client, response
            ),
            started_s=loop_s,
            provenance=remembered.provenance(response),
        )
        sending.is_ending = True
        if reader is None or body:
            sending.body.push(body)
        elif parts:
            sending.body.push(*with_reader(reader, parts))
        else:
            sending.body.push((reader, Span(start, end)))
        self._begin(sending, head)
        return None

    # --- handling -----------------------------------------------------------------------------

    async def _run(self, exchange: Http2Exchange) -> None:
        """Has an exchange answered, and its response sent."""
        try:
            await self._answer(exchange)
        finally:
            self._handling -= 1

    async def _answer(self, exchange: Http2Exchange) -> None:
        try:
            response = await self._handler.respond(exchange)
        except asyncio.CancelledError:
            raise  # the edge is stopping and has closed the connection
        except BaseException:
            self._send_failure(exchange)
            raise
        if isinstance(response, Upgraded):  # cannot happen: HTTP/2 has no Upgrade field
            response.response.close()
            self._send_failure(exchange)
        elif exchange.is_cut:
            await response.close()
            duration_s = self.loop.time() - exchange.request.started_s
            self._handler.finished(exchange.request, response, 0, duration_s, "viewer left")
        else:
            await self._send(exchange, response)

    async def _send(self, exchange: Http2Exchange, response: Response) -> None:
        """Sends a response; returns when all of it is queued or the viewer has left."""
        exchange.has_response = True
        message, reader, stream = response.message, response.reader, response.stream
        sending = StreamResponse(
            exchange.stream_id,
            exchange,
            reader,
            partial(self._handler.finished, exchange.request, response),
            started_s=exchange.request.started_s,
            provenance=response.provenance,
        )
        head = encode_head(message.head)
        if stream is not None:
            self._begin(sending, head)
            self._write()
            await self._send_stream(sending, response)
            return
        if reader is None:
            sending.body.push(message.body)
        elif message.span is not None:
            sending.body.push((reader, message.span))
        else:
            sending.body.push(*with_reader(reader, message.parts))
        sending.is_ending = True
        self._begin(sending, head)
        self._write()

    async def _send_stream(self, sending: StreamResponse, response: Response) -> None:
        """Sends the pieces of a body, each when the previous one has been sent.

        An exception in them resets the stream, so that the viewer detects the error. When the
        viewer leaves, they are cancelled.
        """
        if response.stream is None:
            return
        sending.pushing = asyncio.current_task()
        try:
            async with contextlib.aclosing(response.stream) as pieces:
                async for piece in pieces:
                    if self._has_ended(sending):
                        return
                    sending.body.push(piece)
                    await self._sent(sending)
                if self._has_ended(sending):
                    return
                sending.trailers = encode_fields(response.trailers())
                sending.is_ending = True
                self._ready(sending.stream_id)
                self._write()
        except asyncio.CancelledError:
            if not self._has_ended(sending):
                raise  # the edge is stopping
        except (OriginError, CacheFullError) as failure:
            self._cut(sending, str(failure))
            self._write()
        except BaseException as failure:
            self._cut(sending, str(failure))
            self._write()
            raise

    async def _sent(self, sending: StreamResponse) -> None:
        """Sends what was pushed; returns when the transport has it or the stream has ended."""
        self._ready(sending.stream_id)
        self._write()
        while not sending.body.is_empty and not self._has_ended(sending):
            sending.done = self.loop.create_future()
            await sending.done

    def _has_ended(self, sending: StreamResponse) -> bool:
        return self._responses.get(sending.stream_id) is not sending

    def _send_failure(self, exchange: Http2Exchange) -> None:
        """Answers 500 to a request that a defect of ours prevents from being answered."""
        if exchange.is_cut or self._is_lost:
            return
        if exchange.has_response:
            self._engine.reset(exchange.stream_id, ErrorCode.INTERNAL_ERROR)
        else:
            self._refuse(exchange.stream_id, HTTPStatus.INTERNAL_SERVER_ERROR)
        self._end_exchange(exchange)
        self._write()

    def _send_interim(self, stream_id: int, fields: Head) -> None:
        self._engine.interim(stream_id, fields)
        self._write_soon()

    # --- sending ------------------------------------------------------------------------------

    def _begin(self, sending: StreamResponse, head: Head) -> None:
        """Sends the head of a response, and schedules its body."""
        stream_id = sending.stream_id
        ends = sending.is_ending and sending.body.is_empty
        self._responses[stream_id] = sending
        if not self._engine.respond(stream_id, head, ends=ends):
            self._finish(sending, "viewer left")
        elif ends:
            self._finish(sending, None)
        else:
            self._ready(stream_id)

    def _ready(self, stream_id: int) -> None:
        """A stream has something to send, and may be able to."""
        self._schedule.add(stream_id, Priority(*self._engine.priority(stream_id)))

    def _window_opened(self, stream_id: int) -> None:
        """The peer accepts more bytes of a stream, or (0) of the connection."""
        if not stream_id:
            self._window_closed_since_s = None
            return
        sending = self._responses.get(stream_id)
        if sending is not None and sending.blocked_since_s is not None:
            sending.blocked_since_s = None
            self._ready(stream_id)

    def _write_soon(self) -> None:
        """Writes before the loop waits again."""
        if self._next_quantum is None:
            self._next_quantum = self.loop.call_soon(self._write)

    def _write(self) -> None:
        """Sends what can be sent: frames of the engine, and bytes of bodies in turns."""
        if self._next_quantum is not None:
            self._next_quantum.cancel()
            self._next_quantum = None
        if self._is_writing or self._is_lost:
            return
        self._is_writing = True
        quantum_bytes = 0
        try:
            while self._blocked_since_s is None and self._engine.ended is None:
                fed_bytes, may_go_on = self._write_round()
                if not may_go_on:
                    break  # nothing is left, or all that is left waits
                quantum_bytes += fed_bytes
                if quantum_bytes >= QUANTUM_BYTES:
                    self._write_soon()
                    break
        finally:
            self._is_writing = False
        if self._is_refusing and not self._exchanges and not self._responses:
            self._engine.end(ErrorCode.NO_ERROR, "")
        if self._engine.ended is not None:
            self._close()

    def _write_round(self) -> tuple[int, bool]:
        """Sends one round; returns the count of bytes of bodies, and whether there may be more."""
        completed: list[StreamResponse] = []
        fed_bytes = self._feed(completed) if self._schedule else 0
        output = self._engine.to_send()
        if output:
            self.transport.write(output)
        has_resets = False
        for sending in completed:
            has_resets |= sending.exchange is not None and not sending.exchange.is_received
            self._finish(sending, None)
        may_send = self._process()
        return fed_bytes, may_send or has_resets or (bool(output) and len(self._schedule) > 0)

    def _feed(self, completed: list[StreamResponse]) -> int:
        """Gives the engine bytes of bodies, in turns; returns how many."""
        fed_bytes, round_bytes = 0, ROUND_BYTES - self._engine.unsent_bytes()
        while fed_bytes < round_bytes and (turn := self._schedule.next()) is not None:
            stream_id, turn_bytes = turn
            sending = self._responses[stream_id]
            room = self._engine.room(stream_id)
            if room <= 0:
                if self._engine.connection_room() <= 0:
                    if self._window_closed_since_s is None:
                        self._window_closed_since_s = self.loop.time()
                    break
                sending.blocked_since_s = self.loop.time()
                self._schedule.remove(stream_id)
                continue
            count = self._feed_stream(sending, min(room, turn_bytes, round_bytes - fed_bytes))
            fed_bytes += count
            if stream_id not in self._responses:
                continue
            self._schedule.sent(stream_id, count)
            if sending.body.is_empty:
                self._schedule.remove(stream_id)
                if sending.is_ending:
                    completed.append(sending)
                elif sending.done is not None and not sending.done.done():
                    sending.done.set_result(None)
        return fed_bytes

    def _feed_stream(self, sending: StreamResponse, count: int) -> int:
        """Gives the engine at most ``count`` bytes of a body; returns how many."""
        stream_id, body = sending.stream_id, sending.body
        data = b""
        if not body.is_empty:
            try:
                data = body.read(count)
            except OSError as exc:
                self._cut(sending, str(exc))
                return 0
            if not data:
                self._schedule.remove(stream_id)
                body.wait(partial(self._woken, sending))
                return 0
        ends = sending.is_ending and body.is_empty
        if ends and sending.trailers:
            self._engine.data(stream_id, data, ends=False)
            self._engine.trailers(stream_id, sending.trailers)
        else:
            self._engine.data(stream_id, data, ends=ends)
        sending.sent_bytes += len(data)
        return len(data)

    def _woken(self, sending: StreamResponse, failure: Failure | None) -> None:
        """Bytes of a body have come into the cache, or cannot come."""
        if self._has_ended(sending):
            return
        if failure is None:
            self._ready(sending.stream_id)
        else:
            self._cut(sending, str(failure))
        self._write_soon()

    # --- ends ---------------------------------------------------------------------------------

    def _finish(self, sending: StreamResponse, cut: str | None) -> None:
        """Ends a response in flight. ``cut``: why it ends early, or None."""
        if self._responses.pop(sending.stream_id, None) is None:
            return
        self._schedule.remove(sending.stream_id)
        sending.body.close()
        if sending.reader is not None:
            sending.reader.close()
        self.quiet_since_s = self.loop.time()
        sending.finished(sending.sent_bytes, self.quiet_since_s - sending.started_s, cut)
        if sending.exchange is not None:
            self._end_exchange(sending.exchange)
        pushing = sending.pushing
        if cut is not None and pushing is not None and pushing is not asyncio.current_task():
            pushing.cancel()
        if sending.done is not None and not sending.done.done():
            sending.done.set_result(None)

    def _cut(self, sending: StreamResponse, cut: str) -> None:
        """Resets the stream of a response, so that the viewer knows that it is not complete."""
        if not self._has_ended(sending):
            self._engine.reset(sending.stream_id, ErrorCode.INTERNAL_ERROR)
            self._finish(sending, cut)

    def _end_exchange(self, exchange: Http2Exchange) -> None:
        """Ends an exchange; a rest of its request is not needed (RFC 9113 §8.1)."""
        if self._exchanges.pop(exchange.stream_id, None) is None:
            return
        if not exchange.is_received:
            self._engine.reset(exchange.stream_id, ErrorCode.NO_ERROR)
        exchange.cut()

    def _close_stream(self, stream_id: int, cut: str) -> None:
        """A stream has ended."""
        sending = self._responses.get(stream_id)
        if sending is not None:
            self._finish(sending, cut)
        exchange = self._exchanges.pop(stream_id, None)
        if exchange is not None:
            exchange.cut()

    def _refuse_new(self) -> None:
        """Accepts no more requests; closes the connection behind those that were accepted."""
        if self._is_refusing or self._is_lost:
            return
        self._is_refusing = True
        self._engine.refuse_new()
        self._write()

    def _close(self) -> None:
        """Closes the connection, whose engine has ended it."""
        ended = self._engine.ended
        if ended is None or self.transport.is_closing():
            return
        output = self._engine.to_send()
        if output:
            self.transport.write(output)
        for response in list(self._responses.values()):
            self._finish(response, "viewer left")
        if ended.code:
            self._failed(self.client, ended)
        elif self._is_refusing:
            # The viewer still sends window updates. Behind a close the kernel would answer them
            # with a reset and drop what it has not sent, so the viewer closes first.
            if self._linger_timer is None:
                self.transport.write_eof()
                self._linger_timer = self.loop.call_later(LINGER_S, self.transport.abort)
            return
        self.transport.close()


def _is_too_slow(exchange: Http2Exchange, now_s: float, stall_s: float, body_rate: int) -> bool:
    """Whether the rest of a request comes too slowly for the handler that waits for it."""
    if exchange.owes_body:
        return exchange.pace.is_too_slow(now_s, stall_s, body_rate)
    exchange.pace.excuse(now_s)
    return False
