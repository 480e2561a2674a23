"""One HTTP/2 connection of a viewer: its requests, from their heads to their responses' ends.

``Engine`` has the protocol, ``Http2Responder`` sends the responses; this module decides what
happens with a request between the two. A request that the fast path can answer is answered in the
loop iteration in which it came, without a task. All others become an ``Http2Exchange`` that the
handler answers in a task of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence, Set
from http import HTTPStatus
from typing import Final, NamedTuple

from streamedge.access.client_address import IpNetwork, is_trusted
from streamedge.cache.storage.records import Provenance
from streamedge.delivery.http.connections import Connections
from streamedge.delivery.http.fast_path.remembered import SentHit
from streamedge.delivery.http.forwarding import Upgraded
from streamedge.delivery.http.handler import HttpHandler
from streamedge.delivery.http.http2.encoding import RequestHead, decode_request, encode_head
from streamedge.delivery.http.http2.engine import (
    DataReceived,
    Ended,
    Engine,
    ErrorCode,
    Event,
    PingAcknowledged,
    PriorityUpdateReceived,
    RawField,
    RequestReceived,
    SettingsReceived,
    StreamClosed,
    TrailersReceived,
    WindowUpdated,
)
from streamedge.delivery.http.http2.exchange import Http2Exchange
from streamedge.delivery.http.http2.limits import FIELDS_MAX, REQUESTS_MAX, STREAMS_MAX
from streamedge.delivery.http.http2.responder import Http2Responder
from streamedge.delivery.http.http2.states import TRANSITIONS, Cause, Phase
from streamedge.delivery.http.read_control import ReadControl
from streamedge.delivery.http.request.request import (
    WebRequest,
    is_head_too_large,
    request_size_bytes,
    web_request,
)
from streamedge.delivery.http.request.trailers import TRAILER_BYTES_MAX
from streamedge.delivery.http.response.cloudfront_log import VIEWER_LEFT, VIEWER_STALLED
from streamedge.delivery.http.response.response import refusal_body, refusal_head
from streamedge.delivery.http.seen_viewers import RunningResponse, ViewerKey
from streamedge.delivery.http.unparsed import UnparsedBytes
from streamedge.delivery.http.viewer import Viewer, viewer_of
from streamedge.delivery.net.accept import Peer
from streamedge.delivery.net.tls import LINGER_S, TlsConnection

PIECE_BYTES: Final = 16 << 10
"""Received bytes that are parsed before the clock is read again: at most ``STREAMS_MAX`` requests,
some milliseconds."""

ANNOUNCEMENT_S: Final = 1.0
"""How long requests are accepted after the first GOAWAY, if the viewer does not answer its PING."""


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


class Http2Connection(asyncio.Protocol):
    """One connection, from its first byte to its end.

    ``connections`` are the open ones of the server; ``on_close`` is called when this one is lost.
    ``failed(client, ended)`` is called when it ends with an error.
    """

    __slots__ = (
        "_connections",
        "_engine",
        "_exchanges",
        "_failed",
        "_fast_path",
        "_handler",
        "_handling",
        "_on_close",
        "_phase",
        "_responder",
        "_serves",
        "_timer",
        "_unparsed",
        "_viewer",
        "client",
        "loop",
        "peer",
        "proxies",
        "quiet_since_s",
        "secure",
        "transport",
    )

    transport: asyncio.Transport
    _responder: Http2Responder
    _viewer: Viewer
    _unparsed: UnparsedBytes

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
        self._exchanges: dict[int, Http2Exchange] = {}  # by stream, until their response has ended
        self._handling = 0  # tasks of requests
        self._phase = Phase.OPEN
        self._timer: asyncio.TimerHandle | None = None  # ends the phase

    def stats(self) -> Http2Stats:
        """Its present state."""
        responses, blocked, is_blocked, is_window_closed = self._responder.stats()
        return Http2Stats(
            len(self._exchanges),
            responses,
            blocked,
            self._handling,
            self._engine.unsent_bytes(),
            is_blocked,
            is_window_closed,
            self._phase is not Phase.OPEN,
        )

    def __repr__(self) -> str:
        return f"<Http2Connection {self.client} {self.stats()}>"

    # --- the transport's callbacks ------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        self._unparsed = UnparsedBytes(
            transport,
            ReadControl(transport),
            self._connections.read_scheduler,
            PIECE_BYTES,
            self._parse,
            _always,
        )
        self._viewer = viewer_of(self.peer, transport)
        self._responder = Http2Responder(
            transport,
            self.loop,
            self._engine,
            self._handler,
            self._viewer,
            process=self._process,
            ended=self._response_ended,
            written=self._written,
        )
        if is_trusted(self.peer.address, self._handler.proxies):
            self.proxies = self._handler.proxies
        elif isinstance(transport, TlsConnection):
            self._serves = transport.serves  # a trusted proxy may reuse connections (RFC 9110 §7.4)
        self._fast_path = self._handler.http2_fast_paths[bool(self.proxies)]
        self.quiet_since_s = self.loop.time()
        if not self._connections.add(self):
            transport.abort()
            return
        self._responder.write()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._phase is Phase.LOST:
            return
        self._become(Cause.CONNECTION_LOST)
        self._unparsed.close()
        for exchange in list(self._exchanges.values()):
            exchange.cut()
        self._responder.close()
        self._exchanges.clear()
        self._connections.remove(self)
        self._on_close()

    def pause_writing(self) -> None:
        self._responder.block()

    def resume_writing(self) -> None:
        self._responder.unblock()

    def data_received(self, data: bytes) -> None:
        if self._unparsed or len(data) > PIECE_BYTES:
            self._unparsed.add(data)
        else:
            self._parse(data)

    # --- what the server calls ----------------------------------------------------------------

    def shutdown(self) -> None:
        """Ends the connection behind the requests that the viewer has sent or is sending."""
        if self._phase is not Phase.OPEN:
            return
        self._become(Cause.DRAIN)
        self._engine.announce_end()
        self._timer = self.loop.call_later(ANNOUNCEMENT_S, self._refuse_new)
        self._responder.write()

    def retire(self) -> None:
        """As ``shutdown``: a viewer sends again elsewhere what this connection refuses."""
        self.shutdown()

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
        if self._responder.is_stalled(now_s, stall_s):
            self._responder.finish_all(VIEWER_STALLED)
            self.transport.abort()
            return
        if self._is_idle:
            if now_s - self.quiet_since_s > idle_s:
                self._engine.end(ErrorCode.NO_ERROR, "")
                self._responder.write()
            return
        self._responder.cut_stalled(now_s, stall_s)
        for exchange in list(self._exchanges.values()):
            if _is_too_slow(exchange, now_s, stall_s, body_rate):
                self._engine.reset(exchange.stream_id, ErrorCode.ENHANCE_YOUR_CALM)
                self._close_stream(exchange.stream_id, VIEWER_STALLED)
        self._responder.write()

    def revoke(self, is_revoked: Callable[[Provenance], bool]) -> None:
        """Resets the streams whose responses have been revoked."""
        self._responder.revoke(is_revoked)

    def running(self) -> Sequence[RunningResponse]:
        """The responses that are being sent."""
        return self._responder.running()

    def end_viewer(self, viewer: ViewerKey, clients: Set[str]) -> bool:
        """Resets the viewer's streams; ends an idle connection that is one of ``clients``.

        Returns whether there was any. A proxy's connection serves other viewers too.
        """
        if self._responder.end_viewer(viewer):
            return True
        if not self._is_idle or self.client not in clients or self.proxies:
            return False
        self.shutdown()
        return True

    @property
    def _is_idle(self) -> bool:
        """Whether no request is being handled or answered."""
        return not self._exchanges and self._responder.is_idle

    # --- receiving ----------------------------------------------------------------------------

    def _parse(self, data: bytes) -> None:
        """Parses received bytes and answers what can be answered at once."""
        try:
            self._engine.receive(data)
            self._process()
            self._responder.write()
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
        is_logged = stream_id in self._exchanges or self._responder.has_response(stream_id)
        self._close_stream(stream_id, VIEWER_LEFT)
        if is_refused and not is_logged:  # a malformed head, which the engine keeps to itself
            self._handler.refused_connection(self.client, HTTPStatus.BAD_REQUEST)

    def _other_received(self, event: Event, loop_s: float) -> None:
        if isinstance(event, DataReceived):
            self._data_received(event, loop_s)
        elif isinstance(event, WindowUpdated):
            self._responder.window_opened(event.stream_id)
        elif isinstance(event, SettingsReceived):
            self._responder.windows_changed()
        elif isinstance(event, TrailersReceived):
            self._trailers_received(event)
        elif isinstance(event, PriorityUpdateReceived):
            self._responder.priority_changed(event.prioritized_stream_id)
        elif isinstance(event, PingAcknowledged):
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
                    sent = self._responder.send_hit(stream_id, remembered, byte_range, hit, loop_s)
                    if sent is not None:
                        hits.append(sent)
                    return
        head = decode_request(fields)
        target, rest = (b"", fields) if head is None else (head.target, head.fields)
        if len(fields) > FIELDS_MAX or is_head_too_large(target, rest):
            # Checked first, as in HTTP/1.1.
            status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            self._refuse(stream_id, status, is_head=_is_head(fields))
        elif head is None:
            self._refuse(stream_id, HTTPStatus.BAD_REQUEST, is_head=_is_head(fields))
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
        request = self._handler.without_edge_name(request)
        outcome = self._handler.dispatch(request)
        if ends:
            match = self._fast_path.prepare(request, outcome)
            if match is not None:
                self._fast_path.remember(event.headers, *match)
                hit = None
                if self._handler.admits(match[0], self._serves, self.peer.address, now_s):
                    hit = self._fast_path.decide(*match, now_s)
                if hit is not None:
                    sent = self._responder.send_hit(stream_id, *match, hit, loop_s)
                    if sent is not None:
                        hits.append(sent)
                    return
        exchange = Http2Exchange(
            stream_id,
            request,
            outcome,
            self._responder.send_interim,
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
            request_id=self._handler.new_request_id().decode(),
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
        if count and self._phase is not Phase.LOST:
            self._engine.consumed(stream_id, count)
            self._responder.write_soon()

    def _refuse(self, stream_id: int, status: HTTPStatus, *, is_head: bool) -> None:
        """Answers a request that no route is looked for, as HTTP/1.1 does.

        A viewer without room for the body gets none.
        """
        request_id = self._handler.new_request_id().decode()
        body = refusal_body(status)
        if not is_head and self._engine.room(stream_id) < len(body):
            body = b""
        head = encode_head(refusal_head(status, len(body), time.time()), request_id)
        if is_head or not body:
            self._engine.respond(stream_id, head, ends=True)
        else:
            self._engine.respond_whole(stream_id, head, body)
        sent_bytes = 0 if is_head else len(body)
        self._handler.refused_connection(
            self.client, status, request_id=request_id, body_bytes=sent_bytes
        )

    # --- handling -----------------------------------------------------------------------------

    async def _run(self, exchange: Http2Exchange) -> None:
        """Answers an exchange and sends the response."""
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
            self._handler.finished(
                exchange.request, response, self._viewer, duration_s, 0, duration_s, VIEWER_LEFT
            )
        else:
            await self._responder.send(exchange, response)

    def _send_failure(self, exchange: Http2Exchange) -> None:
        """Answers 500 to a request that a defect of ours prevents from being answered."""
        if exchange.is_cut or self._phase is Phase.LOST:
            return
        if exchange.has_response:
            self._engine.reset(exchange.stream_id, ErrorCode.INTERNAL_ERROR)
        else:
            is_head = exchange.request.method == "HEAD"
            self._refuse(exchange.stream_id, HTTPStatus.INTERNAL_SERVER_ERROR, is_head=is_head)
        self._end_exchange(exchange)
        self._responder.write()

    # --- ends ---------------------------------------------------------------------------------

    def _become(self, cause: Cause) -> None:
        """Enters the next phase."""
        self._phase = TRANSITIONS[self._phase, cause]
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _response_ended(self, exchange: Http2Exchange | None) -> None:
        """A response is complete, or will never be."""
        self.quiet_since_s = self.loop.time()
        if exchange is not None:
            self._end_exchange(exchange)

    def _end_exchange(self, exchange: Http2Exchange) -> None:
        """Ends an exchange; a rest of its request is not needed (RFC 9113 §8.1)."""
        if self._exchanges.pop(exchange.stream_id, None) is None:
            return
        if not exchange.is_received:
            self._engine.reset(exchange.stream_id, ErrorCode.NO_ERROR)
        exchange.cut()

    def _close_stream(self, stream_id: int, cut: str) -> None:
        """A stream has ended."""
        self._responder.close_stream(stream_id, cut)
        exchange = self._exchanges.pop(stream_id, None)
        if exchange is not None:
            exchange.cut()

    def _refuse_new(self) -> None:
        """Accepts no more requests; closes the connection behind those that were accepted."""
        if self._phase is not Phase.ANNOUNCED:
            return
        self._become(Cause.ANNOUNCEMENT_READ)
        self._engine.refuse_new()
        self._responder.write()

    def _written(self) -> None:
        """All that can be sent now has been sent."""
        if self._phase is Phase.FINISHING and self._is_idle:
            self._engine.end(ErrorCode.NO_ERROR, "")
        if self._engine.ended is not None:
            self._close()

    def _close(self) -> None:
        """Closes the connection, whose engine has ended it."""
        ended = self._engine.ended
        if ended is None or self.transport.is_closing():
            return
        output = self._engine.to_send()
        if output:
            self.transport.write(output)
        self._responder.finish_all("viewer left")
        if ended.code:
            self._failed(self.client, ended)
        elif self._phase is Phase.FINISHING:
            # The viewer still sends window updates. Behind a close the kernel would answer them
            # with a reset and drop what it has not sent, so the viewer closes first.
            self._become(Cause.ALL_ANSWERED)
            self.transport.write_eof()
            self._timer = self.loop.call_later(LINGER_S, self.transport.abort)
        if self._phase is not Phase.LINGERING:
            self.transport.close()


def _is_head(fields: Sequence[RawField]) -> bool:
    """Whether a request that is refused is a HEAD: its response has no body."""
    return (b":method", b"HEAD") in fields


def _is_too_slow(exchange: Http2Exchange, now_s: float, stall_s: float, body_rate: int) -> bool:
    """Whether the rest of a request comes too slowly for the handler that waits for it."""
    if exchange.owes_body:
        return exchange.pace.is_too_slow(now_s, stall_s, body_rate)
    exchange.pace.excuse(now_s)
    return False


def _always() -> bool:
    """Whether the next bytes may be parsed: none wait for a response."""
    return True
