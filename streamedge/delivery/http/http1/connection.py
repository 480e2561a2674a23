"""One HTTP/1.1 connection of a viewer.

``RequestParser`` parses the received bytes, ``Responder`` sends responses, one at a time and in
order; this module decides what happens with a request between the two. A request that the fast
path can answer is answered in the loop iteration in which it came (``batch``), without a task. All
others become an ``Http1Exchange`` that the handler answers; ``Pipeline`` keeps them in order.

Bytes behind a request that waits for an earlier response are not parsed before that response is
complete. So a peer that sends requests faster than it gets responses fills no queue.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence, Set
from http import HTTPStatus

from streamedge.access.client_address import IpNetwork, is_trusted
from streamedge.cache.storage.records import Provenance
from streamedge.delivery.http.connections import Connections
from streamedge.delivery.http.fast_path.remembered import Hit, Kind, SentHit
from streamedge.delivery.http.fast_path.request_memo import ByteRange
from streamedge.delivery.http.http1.encoding import with_close_line
from streamedge.delivery.http.http1.exchange import Http1Exchange
from streamedge.delivery.http.http1.parser import (
    PIECE_BYTES,
    RequestHead,
    RequestParser,
    is_parsed_at_once,
)
from streamedge.delivery.http.http1.pipeline import Pipeline
from streamedge.delivery.http.http1.responder import Remembered, Responder
from streamedge.delivery.http.http1.states import Cause, ExchangeState, Input
from streamedge.delivery.http.http1.stats import Http1Stats
from streamedge.delivery.http.http1.tunnel import ViewerDuplex
from streamedge.delivery.http.read_control import ReadControl
from streamedge.delivery.http.request.body_pace import BodyPace
from streamedge.delivery.http.request.dispatch import Outcome
from streamedge.delivery.http.request.request import WebRequest, web_request
from streamedge.delivery.http.request_handler import RequestHandler
from streamedge.delivery.http.response.cloudfront_log import VIEWER_LEFT, VIEWER_STALLED
from streamedge.delivery.http.seen_viewers import RunningResponse, ViewerKey
from streamedge.delivery.http.unparsed import UnparsedBytes
from streamedge.delivery.http.viewer import Viewer, viewer_of
from streamedge.delivery.net.accept import Peer
from streamedge.delivery.net.tls import TlsConnection
from streamedge.delivery.net.writers import is_reset
from streamedge.delivery.viewers import ENDED_BY_OPERATOR

RequestMatch = tuple[Remembered, ByteRange | None]
"""A remembered request and its range, where the request serves every range."""


class Http1Connection(asyncio.Protocol):
    """One connection, from its first byte to its end.

    ``connections`` are the open ones of the server; ``on_close`` is called when this one is lost.
    """

    __slots__ = (
        "_batch",
        "_begin",
        "_connections",
        "_control",
        "_fast_path",
        "_handler",
        "_has_ended",
        "_held",
        "_is_deferred",
        "_is_draining",
        "_is_waiting",
        "_match",
        "_on_close",
        "_pace",
        "_parser",
        "_pipeline",
        "_proxies",
        "_queue",
        "_quiet_since_s",
        "_receiving",
        "_responder",
        "_secure",
        "_serves",
        "_tunnel",
        "_unparsed",
        "_viewer",
        "client",
        "loop",
        "peer",
        "transport",
    )

    transport: asyncio.Transport
    _control: ReadControl
    _unparsed: UnparsedBytes
    _responder: Responder
    _pipeline: Pipeline
    _viewer: Viewer

    def __init__(
        self,
        handler: RequestHandler,
        connections: Connections,
        peer: Peer,
        on_close: Callable[[], None],
    ) -> None:
        self.loop = connections.loop
        self.peer = peer
        self.client = str(peer)
        self._handler = handler
        self._batch = handler.batch
        self._connections = connections
        self._on_close = on_close
        self._secure = False  # whether the connection uses TLS
        self._proxies: Sequence[IpNetwork] = ()  # all trusted proxies, if the peer is one
        self._serves: Callable[[str], bool] | None = None  # whether TLS covers a host
        self._parser = RequestParser(self)
        self._match: RequestMatch | None = None  # the last parsed request, if worth remembering
        self._held = b""  # received bytes that wait for the batch or for another request's response
        self._is_deferred = False  # whether they wait for the next run of the batch
        self._is_waiting = False  # whether they wait for another request's response
        self._receiving: Http1Exchange | None = None  # whose request has not ended
        self._pace: BodyPace | None = None  # of its body
        self._queue: list[Http1Exchange] = []  # behind the current one, of the pipeline
        self._tunnel: ViewerDuplex | None = None
        self._quiet_since_s = 0.0
        self._is_draining = False
        self._has_ended = False  # the viewer sends no more; it may still read

    def stats(self) -> Http1Stats:
        """Its present state."""
        return Http1Stats(
            self._parser.state,
            len(self._queue),
            self._held,
            self._is_waiting,
            self._control.is_paused,
            self._parser.header_bytes,
            self._responder.current is not None,
            self._has_ended,
            self._responder.sender.blocked_since_s,
            self._quiet_since_s,
        )

    def __repr__(self) -> str:
        return f"<Http1Connection {self.client} {self.stats()}>"

    # --- the transport's callbacks ------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        self._viewer = viewer_of(self.peer, transport)
        self._responder = Responder(
            transport, self.loop, self._handler, self._viewer, self._response_ended
        )
        self._control = ReadControl(transport)
        self._unparsed = UnparsedBytes(
            transport,
            self._control,
            self._connections.read_scheduler,
            PIECE_BYTES,
            self._parse_piece,
            self._may_parse,
        )
        self._pipeline = Pipeline(
            self,
            self._handler,
            self._connections,
            self._responder,
            self._control,
            self._viewer,
            self._queue,
        )
        self._begin = self._pipeline.begin
        self._secure = isinstance(transport, TlsConnection)
        if is_trusted(self.peer.address, self._handler.proxies):
            self._proxies = self._handler.proxies
        elif isinstance(transport, TlsConnection):
            self._serves = transport.serves  # a trusted proxy may reuse connections (RFC 9110 §7.4)
        self._fast_path = self._handler.fast_paths[self._secure, bool(self._proxies)]
        self._quiet_since_s = self.loop.time()
        if not self._connections.add(self):
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._parser.state is Input.LOST:
            return
        self._parser.close()
        self._unparsed.close()
        self._responder.finish(VIEWER_LEFT, complete=False)
        self._pipeline.cut()
        if self._tunnel is not None:
            self._tunnel.received(b"")
        self._responder.close()
        # What refers to this object and what it refers to would be a circle, which only the
        # garbage collector could free. A task that still runs has the pipeline.
        del self._pipeline, self._begin
        self._connections.remove(self)
        self._on_close()

    def eof_received(self) -> bool:
        """The viewer sends no more, but may still read: it gets its responses (RFC 9112 §9.6).

        Returns whether any is due. The loop calls it again when reading is resumed.
        """
        self._batch.finish()
        self._has_ended = True
        return self._parser.state is not Input.TUNNEL and self._end_input()

    def data_received(self, data: bytes) -> None:
        state = self._parser.state
        if state is Input.TUNNEL and self._tunnel is not None:
            self._tunnel.received(data)
        elif state is Input.REFUSED or state is Input.LOST:
            return
        elif self._held:
            self._held += data
            self._control.pause()
        elif state is Input.BETWEEN and self.is_idle:
            self._held = data
            self._batch.add(self)
        else:
            self._feed(data)

    # --- what the server calls --------------------------------------------------------------

    def shutdown(self) -> None:
        """Closes the connection, at once or behind the responses that are due."""
        self._batch.finish()
        self._is_draining = True
        if self.is_idle and not self._queue:
            self.transport.close()

    def retire(self) -> None:
        """Closes the connection behind the next response, however late its request comes."""
        self._is_draining = True

    def abort(self) -> None:
        """Closes the connection now."""
        self.transport.abort()

    def sweep(self, now_s: float, idle_s: float, stall_s: float, body_rate: int = 0) -> None:
        """Closes the connection when it was idle, or its peer accepted nothing, for too long.

        Also when the request's body has come with less than ``body_rate`` bytes a second for
        ``stall_s``: a very slow body would hold an origin's connection for ever.
        """
        if self.transport.is_closing():
            return
        if self._has_ended and is_reset(self.transport):  # the loop reads no more, so it is silent
            self.transport.abort()
            return
        blocked_since_s = self._responder.sender.blocked_since_s
        if blocked_since_s is not None:
            if now_s - blocked_since_s > stall_s:
                self._responder.abort(VIEWER_STALLED)
        elif not self._responder.is_busy and not self._is_waiting:
            if now_s - self._quiet_since_s > idle_s:
                self.transport.close()
        elif self._pace is not None:
            if self._control.is_paused or not self._owes_body:
                self._pace.excuse(now_s)
            elif self._pace.is_too_slow(now_s, stall_s, body_rate):
                self.transport.abort()

    def revoke(self, is_revoked: Callable[[Provenance], bool]) -> None:
        """Aborts the response in flight if it has been revoked."""
        self._responder.revoke(is_revoked)

    def running(self) -> Sequence[RunningResponse]:
        """The response that is being sent, if there is one."""
        response = self._responder.running()
        return () if response is None else (response,)

    def end_viewer(self, viewer: ViewerKey, clients: Set[str]) -> bool:
        """Cuts the viewer's response; closes an idle connection that is one of ``clients``.

        Returns whether it was this connection. A proxy's serves other viewers too, so only a
        response ends it.
        """
        response = self._responder.running()
        if response is not None and response.viewer == viewer:
            self._responder.abort(ENDED_BY_OPERATOR)
        elif response is None and self.client in clients and not self._proxies:
            self.transport.close()
        else:
            return False
        return True

    @property
    def is_idle(self) -> bool:
        """Whether no response is due or in flight, so that one may be sent at once."""
        return not self._is_waiting and self._responder.is_idle

    @property
    def _owes_body(self) -> bool:
        """Whether the connection only waits for the rest of a request."""
        exchange = self._receiving
        return (
            exchange is not None
            and exchange.state in {ExchangeState.QUEUED, ExchangeState.HANDLING}
            and not exchange.waits_for_continue
        )

    @property
    def ends_behind_next(self) -> bool:
        """Whether the connection ends behind the next response."""
        is_last = self._has_ended and not self._queue and not self._unparsed
        return self._is_draining or is_last

    def _end_input(self) -> bool:
        """Drops a request whose rest will not come. Returns whether earlier ones get responses."""
        if self._unparsed:
            return True
        exchange, self._receiving = self._receiving, None
        if exchange is not None and exchange in self._queue:
            self._queue.remove(exchange)
            exchange.cut()
        elif exchange is not None:
            return False
        return not self.is_idle or bool(self._queue)

    def _close_if_ended(self) -> None:
        """Closes the connection of a viewer that sends no more and has all its responses."""
        if self._has_ended and not self._end_input():
            self.transport.close()

    # --- the fast path (called by the batch) -------------------------------------------------

    def decide_hit(
        self, now_s: float, pending_keys: set[str]
    ) -> tuple[Remembered, ByteRange | None, Hit[bytes]] | None:
        """The hit for the received bytes, or None when they went another way.

        ``pending_keys``: the keys for which this batch has sent a request to the handler.
        """
        data, self._held = self._held, b""
        was_deferred, self._is_deferred = self._is_deferred, False
        if self._parser.state is Input.LOST:
            return None
        if self._control.is_paused:
            self._control.resume()
        match = self._fast_path.memo.get(data)
        if match is None:
            self._feed(data)
            if self._match is not None:
                _note_pending(self._match[0], pending_keys)
                self._match = None
            return None
        # The parser has parsed equal bytes before, and is between two requests now.
        remembered, byte_range = match
        if not self._handler.admits(remembered, self._serves, self.peer.address, now_s):
            self._feed(data)
            return None
        hit = self._fast_path.decide(remembered, byte_range, now_s)
        if hit is not None:
            return remembered, byte_range, hit
        running = self._fast_path.running_fetch(remembered)
        if running is not None:
            self._wait_for(data, running)
            return None
        target = remembered.target
        if target is not None and not self._fast_path.is_hit_for_miss(target, now_s):
            if target.key in pending_keys and not was_deferred:
                # The first request's task has not started; once it has, this one can wait for it.
                self._held, self._is_deferred = data, True
                self._batch.defer(self)
                return None
            _note_pending(remembered, pending_keys)
        if byte_range is None:
            self._begin_remembered(remembered)
        else:
            self._feed(data)
        return None

    def send_hit(
        self,
        remembered: Remembered,
        byte_range: ByteRange | None,
        hit: Hit[bytes],
        loop_s: float,
    ) -> SentHit | None:
        """Sends a hit. Returns None when it is not sent at once; then it is logged at its end."""
        closes = not remembered.request.keep_alive or self._is_draining
        if closes and remembered.request.keep_alive:
            status, head, ready, start, end, opened, message, request_id = hit
            head = with_close_line(head)
            hit = status, head, ready, start, end, opened, message, request_id
        sent = self._responder.send_hit(remembered, byte_range, hit, loop_s, closes=closes)
        if sent is not None:
            self._quiet_since_s = loop_s
            if closes:
                self.transport.close()
        return sent

    def abort_with(self, cause: Exception) -> None:
        """Reports a defect of ours and aborts the connection."""
        context = {"message": "a request failed", "exception": cause, "protocol": self}
        self.loop.call_exception_handler(context)
        self.transport.abort()

    def _answer(self, match: RequestMatch) -> bool:
        """Answers a request if the fast path can; whether it could."""
        remembered, byte_range = match
        now_s = time.time()
        if not self._handler.admits(remembered, self._serves, self.peer.address, now_s):
            return False
        hit = self._fast_path.decide(remembered, byte_range, now_s)
        if hit is None:
            return False
        sent = self.send_hit(remembered, byte_range, hit, self.loop.time())
        if sent is not None:
            self._handler.hits_finished([sent])
        return True

    def _begin_remembered(self, remembered: Remembered) -> None:
        """Handles a request that was parsed before, without parsing it again."""
        request_id = self._handler.new_request_id().decode()
        request = remembered.for_viewer(
            self.client, self.peer.address, self.loop.time(), request_id
        )
        exchange = self._new_exchange(request, remembered.outcome, [])
        exchange.end()
        self._begin(exchange)

    def _wait_for(self, data: bytes, running: asyncio.Future[None]) -> None:
        """Holds a request until the origin has answered another request for the same key.

        So all but the first of many simultaneous requests for a new object are answered as hits.
        """
        self._held = data
        self._is_waiting = True
        started_s = self.loop.time()
        running.add_done_callback(lambda _done: self._resume_waiting(started_s))

    def _resume_waiting(self, started_s: float) -> None:
        """Resumes a held request; it is not held again, whatever the origin has answered."""
        data, self._held = self._held, b""
        self._is_waiting = False
        match = self._fast_path.memo.get(data)
        if self._parser.state is Input.LOST or self.transport.is_closing():
            hit = self._fast_path.decide(*match, time.time()) if match else None
            if match is not None and hit is not None:
                self._responder.hit_left(*match, hit, started_s)
            return
        self._control.resume()
        if match is None or not self._answer(match):
            self._feed(data)
        if self._is_draining and self.is_idle:
            self.transport.close()
        self._close_if_ended()

    # --- received bytes -----------------------------------------------------------------------

    def _feed(self, data: bytes) -> None:
        """Parses received bytes: few at once, more within its share of the loop's time."""
        if self._pace is not None:
            self._pace.received(len(data), self.loop.time())
        if self._unparsed or not self._may_parse() or not is_parsed_at_once(data):
            self._unparsed.add(data)
        else:
            self._parse(data)

    def _parse_piece(self, data: bytes) -> None:
        """Parses one piece of many bytes."""
        try:
            self._parse(data)
        except Exception as cause:  # noqa: BLE001 - the scheduler serves other connections too
            self.abort_with(cause)
        else:
            self._close_if_ended()

    def _may_parse(self) -> bool:
        """Whether the next bytes belong to a request that need not wait for earlier responses."""
        if self._parser.state is Input.REFUSED or self.transport.is_closing():
            self._unparsed.take()
            return True
        return not self._queue and self._parser.state not in {Input.WAITING, Input.TUNNEL}

    def _parse(self, data: bytes) -> None:
        parser = self._parser
        is_whole = parser.state is Input.BETWEEN
        self._match = None
        rest = parser.feed(data)
        if parser.state is Input.WAITING or rest:
            self._unparsed.put_back(rest)
            if parser.state is Input.WAITING:
                self._control.hold()
            elif self._unparsed:
                self._unparsed.resume()
                self._control.hold()
        elif self._match is not None and is_whole and parser.has_parsed_one:
            self._fast_path.remember(data, *self._match)

    # The parser's calls (``ParserOwner``).

    def head_received(self, head: RequestHead) -> None:
        request = web_request(
            head.method,
            head.target,
            head.fields,
            client=self.client,
            address=self.peer.address,
            proxies=self._proxies,
            keep_alive=head.keep_alive,
            started_s=self.loop.time(),
            secure=self._secure,
            http_version=head.http_version,
            serves=self._serves,
            request_id=self._handler.new_request_id().decode(),
        )
        request = self._handler.without_edge_name(request)
        outcome = self._handler.dispatch(request)
        match = None
        if self.is_idle and not self._queue:
            match = self._fast_path.prepare(request, outcome)
        self._match = match
        if match is not None and self._answer(match):
            return
        self._receiving = exchange = self._new_exchange(request, outcome, head.raw_trailers)
        self._pace = BodyPace(request.started_s) if request.has_body else None
        self._begin(exchange)

    def body_received(self, data: bytes) -> None:
        if self._receiving is not None:
            self._receiving.received(data)

    def request_received(self) -> None:
        exchange, self._receiving = self._receiving, None
        self._pace = None
        if exchange is not None:
            exchange.end()
            if self._is_draining and self.is_idle:  # it was answered before its body had ended
                self.transport.close()

    def input_refused(self, status: HTTPStatus) -> None:
        """Sends the error response when earlier responses are complete."""
        exchange, self._receiving = self._receiving, None
        self._pipeline.refuse(status, exchange)

    # --- handling ---------------------------------------------------------------------------

    def _new_exchange(
        self,
        request: WebRequest,
        outcome: Outcome,
        raw_trailers: list[tuple[bytes, bytes]],
    ) -> Http1Exchange:
        send = self._responder.send_interim
        return Http1Exchange(request, outcome, self._control, raw_trailers, send)

    def became_quiet(self) -> None:
        """Counts the time until an idle connection is closed from now on."""
        self._quiet_since_s = self.loop.time()

    @property
    def may_switch_protocols(self) -> bool:
        """Whether the viewer still waits for another protocol."""
        return self._parser.state is Input.WAITING and not self._has_ended

    def begin_tunnel(self) -> ViewerDuplex:
        """From now on the viewer's bytes are those of another protocol."""
        self._parser.become(Cause.UPGRADE_ACCEPTED)
        self._tunnel = ViewerDuplex(self.transport, self._control, self._responder.send_bytes)
        if self._unparsed:
            self._tunnel.received(self._unparsed.take())
        return self._tunnel

    def _response_ended(self, exchange: Http1Exchange | None, closes: bool, complete: bool) -> None:
        """Goes on with what waited for a response; ``closes``: the connection ends behind it."""
        if exchange is not None:
            if complete:
                exchange.become(ExchangeState.COMPLETE)
            else:
                exchange.cut()
            if self._responder.current is exchange:
                self._responder.current = None
        if not complete:
            return
        if closes:
            self.transport.close()
        self._quiet_since_s = self.loop.time()
        if self.transport.is_closing():
            return
        if self._parser.state is Input.WAITING and not self._queue:
            self._parser.become(Cause.UPGRADE_DECLINED)  # the origin did not switch protocols
        self._begin_next()
        if self._unparsed:
            self._unparsed.resume()
        elif self._may_parse():
            self._control.release()
        self._close_if_ended()

    def _begin_next(self) -> None:
        """Handles the next request; if there is none, reads on or ends the connection."""
        if self._pipeline.begin_next():
            return
        if self._is_draining and self._receiving is None:
            self.transport.close()
        else:
            # Not earlier: requests of a peer that does not read would be queued without limit.
            self._control.resume()


def _note_pending(remembered: Remembered, pending_keys: set[str]) -> None:
    if remembered.kind is Kind.PLAIN and remembered.target is not None:
        pending_keys.add(remembered.target.key)
