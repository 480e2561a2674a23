"""One HTTP/1.1 connection of a viewer.

httptools parses the received bytes, the states are in ``states``. A request that the fast path can
answer is answered in the loop iteration in which it came (``batch``), without a task. All others
become an ``Http1Exchange`` that the handler answers in a task of its own. Responses are sent one at
a time and in order, by the ``Sender`` alone.

Bytes behind a request that waits for an earlier response are not parsed before that response is
complete. So a peer that sends requests faster than it gets responses fills no queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from typing import Any, NamedTuple

import httptools

from streamedge.access.client_address import IpNetwork, is_trusted
from streamedge.cache.open_object import Failure
from streamedge.cache.reader import CacheResult, Reader
from streamedge.cache.storage.records import Provenance
from streamedge.delivery.http.connections import Connections
from streamedge.delivery.http.fast_path.fast_path import Hit, Kind, RememberedRequest, SentHit
from streamedge.delivery.http.fast_path.request_memo import ByteRange
from streamedge.delivery.http.handler import HttpHandler, Upgraded
from streamedge.delivery.http.http1.body import ReadControl
from streamedge.delivery.http.http1.encoding import (
    Framing,
    chunk,
    encode_head,
    framing_of,
    last_chunk,
)
from streamedge.delivery.http.http1.exchange import Http1Exchange
from streamedge.delivery.http.http1.states import TRANSITIONS, Cause, ExchangeState, Input
from streamedge.delivery.http.http1.tunnel import ViewerDuplex, run_tunnel
from streamedge.delivery.http.http1.upgrade import Upgrade, body_parser, upgrade_of
from streamedge.delivery.http.request.request import (
    WebRequest,
    has_unambiguous_length,
    request_line_error,
    request_size_bytes,
    web_request,
)
from streamedge.delivery.http.request.trailers import TRAILER_BYTES_MAX
from streamedge.delivery.http.response.build import Response
from streamedge.delivery.http.response.response import ResponseHead
from streamedge.delivery.net.accept import Peer
from streamedge.delivery.net.sender import Sender
from streamedge.delivery.net.tls import TlsConnection
from streamedge.errors import CacheFullError, OriginError
from streamedge.spans import Span

HEADER_BYTES_MAX = 20_480  # CloudFront's limit on a request without its body
PIECE_BYTES = 4096
"""Parsed before the clock is read again: 150 of the smallest requests, some milliseconds."""

AT_ONCE_LINES = 64
"""Lines that are parsed without a look at the clock: 20 of the smallest requests, or one with as
many header fields; at most half a millisecond."""

Remembered = RememberedRequest[bytes, bytes]
RequestMatch = tuple[Remembered, ByteRange | None]
"""A remembered request and its range, where the request serves every range."""


def is_parsed_at_once(data: bytes) -> bool:
    """Whether what one read returned is so little that it need not wait for its share of time."""
    return len(data) <= PIECE_BYTES and data.count(b"\n") <= AT_ONCE_LINES


class Http1Stats(NamedTuple):
    """The state of a connection, for tests and debugging.

    ``queued``: requests behind the current one. ``held``: received bytes that wait for the batch
    or, if ``is_waiting``, for the response to another request. ``header_bytes``: of a head that is
    not complete. ``is_handling``: whether a request is being handled or answered.
    """

    input: Input
    queued: int
    held: bytes
    is_waiting: bool
    is_paused: bool
    header_bytes: int
    is_handling: bool


class Http1Connection(asyncio.Protocol):
    """One connection, from its first byte to its end.

    ``connections`` are the open ones of the server; ``on_close`` is called when this one is lost.
    """

    __slots__ = (
        "_batch",
        "_begun",
        "_connections",
        "_control",
        "_current",
        "_fast_path",
        "_handler",
        "_header_bytes",
        "_held",
        "_input",
        "_is_deferred",
        "_is_draining",
        "_is_parse_due",
        "_is_waiting",
        "_match",
        "_on_close",
        "_parser",
        "_queue",
        "_rate_bytes",
        "_rate_since_s",
        "_raw_trailers",
        "_read_scheduler",
        "_received_s",
        "_receiving",
        "_refusal",
        "_sending",
        "_serves",
        "_trailer_bytes",
        "_tunnel",
        "_unparsed",
        "_upgrade",
        "client",
        "fields",
        "loop",
        "peer",
        "proxies",
        "quiet_since_s",
        "secure",
        "sender",
        "target",
        "transport",
    )

    transport: asyncio.Transport
    sender: Sender
    _control: ReadControl

    def __init__(
        self,
        handler: HttpHandler,
        connections: Connections,
        peer: Peer,
        on_close: Callable[[], None],
    ) -> None:
        self.loop = connections.loop
        self.peer = peer
        self.client = str(peer)
        self.secure = False  # whether the connection uses TLS
        self.proxies: Sequence[IpNetwork] = ()  # all trusted proxies, if the peer is one
        self.quiet_since_s = 0.0
        self.target = b""  # of the request that is being parsed
        self.fields: list[tuple[bytes, bytes]] = []  # its header fields, names in lower case
        self._handler = handler
        self._batch = handler.batch
        self._read_scheduler = connections.read_scheduler
        self._connections = connections
        self._on_close = on_close
        self._serves: Callable[[str], bool] | None = None  # whether TLS covers a host
        self._input = Input.BETWEEN
        self._parser: Any = None  # an httptools.HttpRequestParser; made when it is needed
        self._upgrade = Upgrade.NONE  # the meaning of the current request's Upgrade field
        self._begun = 0  # requests that begin in the bytes that are being parsed
        self._match: RequestMatch | None = None  # the last of them, if it can be remembered
        self._header_bytes = 0
        # The current request's trailer section; None until its header section has ended.
        self._raw_trailers: list[tuple[bytes, bytes]] | None = None
        self._trailer_bytes = 0
        self._unparsed = b""  # received bytes that wait for their share of the loop's time
        self._is_parse_due = False
        self._held = b""  # received bytes that wait for the batch or for another request's response
        self._is_deferred = False  # whether they wait for the next run of the batch
        self._is_waiting = False  # whether they wait for another request's response
        self._receiving: Http1Exchange | None = None  # whose request has not ended
        self._received_s = 0.0  # when its last bytes came
        self._rate_since_s = 0.0  # since when its body's rate is measured,
        self._rate_bytes = 0  # and the bytes received since then
        self._current: Http1Exchange | None = None  # whose response is next, or being sent
        self._queue: list[Http1Exchange] = []  # behind it
        self._sending: ResponseInFlight | None = None
        self._refusal: HTTPStatus | None = None
        self._tunnel: ViewerDuplex | None = None
        self._is_draining = False

    def stats(self) -> Http1Stats:
        """Its present state."""
        return Http1Stats(
            self._input,
            len(self._queue),
            bytes(self._held),
            self._is_waiting,
            self._control.is_paused,
            self._header_bytes,
            self._current is not None,
        )

    def __repr__(self) -> str:
        return f"<Http1Connection {self.client} {self.stats()}>"

    # --- the transport's callbacks ------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        self.sender = Sender(transport, self.loop, self._drained, self._failed)
        self._control = ReadControl(transport)
        self.secure = isinstance(transport, TlsConnection)
        if is_trusted(self.peer.address, self._handler.proxies):
            self.proxies = self._handler.proxies
        elif isinstance(transport, TlsConnection):
            self._serves = transport.serves  # a trusted proxy may reuse connections (RFC 9110 §7.4)
        self._fast_path = self._handler.fast_paths[self.secure, bool(self.proxies)]
        self.quiet_since_s = self.loop.time()
        if not self._connections.add(self):
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._input is Input.LOST:
            return
        self._become(Cause.CONNECTION_LOST)
        self._unparsed = b""
        self._finish("viewer left", complete=False)
        for exchange in (self._current, *self._queue):
            if exchange is not None:
                exchange.cut()
        if self._tunnel is not None:
            self._tunnel.received(b"")
        self.sender.close()
        self._connections.remove(self)
        self._on_close()

    def eof_received(self) -> None:
        self._batch.finish()

    def data_received(self, data: bytes) -> None:
        state = self._input
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
        blocked_since_s = self.sender.blocked_since_s
        if blocked_since_s is not None:
            if now_s - blocked_since_s > stall_s:
                self._finish("viewer stalled", complete=False)
                self.transport.abort()
        elif self._current is None and self._sending is None and not self._is_waiting:
            if now_s - self.quiet_since_s > idle_s:
                self.transport.close()
        elif self._owes_body:
            if now_s - self._received_s > stall_s:
                self.transport.abort()
            elif now_s - self._rate_since_s > stall_s:
                if self._rate_bytes < body_rate * (now_s - self._rate_since_s):
                    self.transport.abort()
                self._rate_since_s, self._rate_bytes = now_s, 0
        elif self._control.is_paused:
            self._received_s = self._rate_since_s = now_s
            self._rate_bytes = 0

    def revoke(self, is_revoked: Callable[[Provenance], bool]) -> None:
        """Aborts the response in flight if it has been revoked.

        Before its Content-Length or last chunk, so that the viewer can tell (RFC 9112 §8).
        """
        sending = self._sending
        if sending is None or sending.provenance is None or not is_revoked(sending.provenance()):
            return
        self._finish("revoked", complete=False)
        self.transport.abort()

    @property
    def is_idle(self) -> bool:
        """Whether no response is due or in flight, so that one may be sent at once."""
        return (
            self._current is None
            and self._sending is None
            and not self._is_waiting
            and self.sender.idle
        )

    @property
    def _owes_body(self) -> bool:
        """Whether the connection only waits for the rest of a request."""
        exchange = self._receiving
        return (
            exchange is not None
            and exchange.state in {ExchangeState.QUEUED, ExchangeState.HANDLING}
            and not exchange.waits_for_continue
            and not self._control.is_paused
        )

    # --- the fast path (called by the batch) -------------------------------------------------

    def decide_hit(
        self, now_s: float, pending_keys: set[str]
    ) -> tuple[Remembered, ByteRange | None, Hit[bytes]] | None:
        """The hit for the received bytes, or None when they went another way.

        ``pending_keys``: the keys for which this batch has sent a request to the handler.
        """
        data, self._held = self._held, b""
        was_deferred, self._is_deferred = self._is_deferred, False
        if self._input is Input.LOST:
            return None
        if self._control.is_paused:
            self._control.resume()
        match = self._fast_path.memo.get(data)
        if match is None:
            self._feed(data)
            if self._match is not None:
                self._note_pending(self._match[0], pending_keys)
            return None
        # The parser has parsed equal bytes before, and is between two requests now.
        remembered, byte_range = match
        if not self._admits(remembered, now_s):
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
        if target is not None and target.key in pending_keys and not was_deferred:
            # The first request's task has not started; once it has, this one can wait for it.
            self._held, self._is_deferred = data, True
            self._batch.defer(self)
            return None
        self._note_pending(remembered, pending_keys)
        self._handle_remembered(data, remembered, byte_range)
        return None

    def send_hit(
        self,
        remembered: Remembered,
        byte_range: ByteRange | None,
        hit: Hit[bytes],
        loop_s: float,
    ) -> SentHit | None:
        """Sends a hit. Returns None when it is not sent at once; then it is logged at its end."""
        status, head, ready, start, end, opened, message = hit
        response = None
        if message is not None:
            response = message.response
            head += response.message.body
        sent = 0
        if ready is not None or start == end:
            sent = self.sender.send_at_once(head, ready)
        closes = not remembered.request.keep_alive or self._is_draining
        if sent == len(head) + end - start and self.sender.idle and not _has_parts(response):
            self.quiet_since_s = loop_s
            if closes:
                self.transport.close()
            return remembered, byte_range, status, self.client, sent, response
        # The kernel did not take all of it, or bytes are still being filled.
        reader = None if opened is None else Reader(opened, CacheResult.HIT)
        provenance: Callable[[], Provenance] | None
        if response is not None:
            provenance = response.provenance
        else:
            provenance = None if remembered.target is None else remembered.target.provenance()
        self._sending = ResponseInFlight(
            None,
            reader,
            partial(self._hit_ended, remembered, byte_range, status, response),
            started_s=loop_s,
            started_bytes=self.sender.sent_bytes - sent,
            closes=closes,
            provenance=provenance,
        )
        if reader is None:
            self.sender.push(head[sent:])
        elif response is not None and response.message.parts:
            parts = response.message.parts
            self.sender.push(
                head[sent:], *[(reader, part) if isinstance(part, Span) else part for part in parts]
            )
        else:
            past_head = max(0, sent - len(head))
            self.sender.push(head[sent:], (reader, Span(start + past_head, end)))
        return None

    def abort_with(self, cause: Exception) -> None:
        """Reports a defect of ours and aborts the connection."""
        context = {"message": "a request failed", "exception": cause, "protocol": self}
        self.loop.call_exception_handler(context)
        self.transport.abort()

    def _admits(self, remembered: Remembered, now_s: float) -> bool:
        """Whether what was decided for equal bytes holds for this viewer, now."""
        if self._serves is not None and not self._serves(remembered.request.host):
            return False
        admitted = remembered.admitted
        return admitted is None or self._handler.authorizer.still_allows(
            admitted, remembered.address or self.peer.address, now_s
        )

    def _note_pending(self, remembered: Remembered, pending_keys: set[str]) -> None:
        if remembered.kind is Kind.PLAIN and remembered.target is not None:
            pending_keys.add(remembered.target.key)

    def _handle_remembered(
        self, data: bytes, remembered: Remembered, byte_range: ByteRange | None
    ) -> None:
        """Handles a request that was parsed before, without parsing it again."""
        if byte_range is not None:
            self._feed(data)
            return
        request = remembered.for_viewer(self.client, self.peer.address, self.loop.time())
        exchange = self._exchange(request, remembered.outcome, [])
        exchange.end()
        self._begin(exchange)

    def _exchange(
        self, request: WebRequest, outcome: Any, raw_trailers: list[tuple[bytes, bytes]]
    ) -> Http1Exchange:
        return Http1Exchange(request, outcome, self._control, raw_trailers, self.sender.push)

    def _wait_for(self, data: bytes, running: asyncio.Task[None]) -> None:
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
        if self._input is Input.LOST or self.transport.is_closing():
            hit = self._fast_path.decide(*match, time.time()) if match else None
            if match is not None and hit is not None:
                message = hit[6]
                response = None if message is None else message.response
                duration_s = self.loop.time() - started_s
                self._hit_ended(*match, hit[0], response, 0, duration_s, "viewer left")
            return
        self._control.resume()
        if match is None or not self._answer(match):
            self._feed(data)
        if self._is_draining and self.is_idle:
            self.transport.close()

    def _answer(self, match: RequestMatch) -> bool:
        """Answers a request if the fast path can; whether it could."""
        remembered, byte_range = match
        now_s = time.time()
        if not self._admits(remembered, now_s):
            return False
        hit = self._fast_path.decide(remembered, byte_range, now_s)
        if hit is None:
            return False
        sent = self.send_hit(remembered, byte_range, hit, self.loop.time())
        if sent is not None:
            self._handler.hits_finished([sent])
        return True

    def _hit_ended(
        self,
        remembered: Remembered,
        byte_range: ByteRange | None,
        status: int,
        response: Response | None,
        sent_bytes: int,
        duration_s: float,
        cut: str | None,
    ) -> None:
        hit = remembered, byte_range, status, self.client, sent_bytes, response
        self._handler.hits_finished([hit], duration_s, cut)

    # --- parsing ----------------------------------------------------------------------------

    def _feed(self, data: bytes) -> None:
        """Parses received bytes: few at once, more within its share of the loop's time."""
        if self._receiving is not None:
            self._received_s = self.loop.time()
            self._rate_bytes += len(data)
        if self._unparsed or not self._may_parse() or not is_parsed_at_once(data):
            self._unparsed += data
            if not self._is_parse_due:
                self._is_parse_due = True
                if self._read_scheduler.start(self._parse_piece):
                    self._control.hold()
        else:
            self._parse(data)

    def _parse_piece(self) -> bool:
        """Parses one piece of the received bytes; returns whether another can follow."""
        if self._input is Input.LOST:
            return False
        try:
            if self._unparsed and self._may_parse():
                data, self._unparsed = self._unparsed[:PIECE_BYTES], self._unparsed[PIECE_BYTES:]
                self._parse(data)
        except Exception as cause:  # noqa: BLE001 - the scheduler serves other connections too
            self.abort_with(cause)
            return False
        may_parse = self._may_parse()
        if may_parse and self._unparsed:
            return True
        self._is_parse_due = False
        if may_parse:
            self._control.release()
        else:
            self._control.hold()
        return False

    def _parse_soon(self) -> None:
        if not self._is_parse_due:
            self._is_parse_due = True
            self._read_scheduler.wait(self._parse_piece)

    def _may_parse(self) -> bool:
        """Whether the next bytes belong to a request that need not wait for earlier responses."""
        if self._input is Input.REFUSED or self.transport.is_closing():
            self._unparsed = b""
            return True
        return not self._queue and self._input not in {Input.WAITING, Input.TUNNEL}

    def _parse(self, data: bytes) -> None:
        if self._input is Input.REFUSED:
            return
        whole = self._input is Input.BETWEEN
        self._begun, self._match = 0, None
        self._header_bytes += len(data)
        if self._parser is None:
            self._parser = httptools.HttpRequestParser(self)
            # Bytes behind a request with "Connection: close" are not an error.
            self._parser.set_dangerous_leniencies(lenient_data_after_close=True)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._parse_behind_upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError as exc:
            # An exception in a callback is the peer's fault only if it is about the peer's bytes.
            cause = exc.__context__
            is_refused = self._refusal is not None
            if cause is not None and not is_refused and not isinstance(cause, _PEER_FAULTS):
                raise cause from exc
            self._refuse(HTTPStatus.BAD_REQUEST)
        if self._input is Input.BETWEEN:
            if self._match is not None and whole and self._begun == 1:
                self._fast_path.remember(data, *self._match)
            # An idle connection needs neither.
            self._parser, self.fields = None, []
        if self._header_bytes > HEADER_BYTES_MAX:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def _parse_behind_upgrade(self, rest: bytes) -> None:
        """Continues behind a head with an Upgrade field, where the parser stops.

        An Upgrade that is not accepted is ignored (RFC 9110 §7.8): the body and the next request
        are parsed. Bytes behind a WebSocket request may belong to that protocol; they wait until
        the origin has answered.
        """
        if self._input is Input.REFUSED:
            return
        self._header_bytes = 0
        match self._upgrade:
            case Upgrade.CONNECT:
                self._refuse(HTTPStatus.BAD_REQUEST)
                return
            case Upgrade.WEBSOCKET:
                self._unparsed = rest + self._unparsed
                self._become(Cause.UPGRADE_REQUESTED)
                self._control.hold()
                return
            case Upgrade.WITH_BODY:
                self._upgrade = Upgrade.NONE
                self._parser = body_parser(self, self.fields)
        self._unparsed = rest + self._unparsed
        if self._unparsed:
            self._parse_soon()
            self._control.hold()

    # The parser's callbacks.

    def on_message_begin(self) -> None:
        self._become(Cause.REQUEST_BEGUN)
        self._begun += 1
        self.target = b""
        self.fields = []
        self._raw_trailers = None

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._raw_trailers is None:
            self.fields.append((name.lower(), value))
            return
        # The parser calls this for trailer fields too. They must never mix with header fields,
        # which decide about the request before its body has come.
        self._raw_trailers.append((name.lower(), value))
        self._trailer_bytes += request_size_bytes(b"", [(name, value)])
        if self._trailer_bytes > TRAILER_BYTES_MAX:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            raise _RefusedError

    def on_headers_complete(self) -> None:
        parser = self._parser
        if (
            self._header_bytes > HEADER_BYTES_MAX
            and request_size_bytes(self.target, self.fields) > HEADER_BYTES_MAX
        ):
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        self._header_bytes = 0
        version = parser.get_http_version()
        error = request_line_error(version, self.target)
        if error is not None:
            self._refuse(error)
        elif not has_unambiguous_length(self.fields, version):
            self._refuse(HTTPStatus.BAD_REQUEST)
        if self._input is Input.REFUSED:
            raise _RefusedError
        self._raw_trailers, self._trailer_bytes = [], 0
        if parser.should_upgrade():
            self._upgrade = upgrade_of(parser.get_method(), self.fields)
            if self._upgrade is Upgrade.CONNECT:
                self._refuse(HTTPStatus.BAD_REQUEST)
                raise _RefusedError
        self._become(Cause.HEAD_COMPLETE)
        request = web_request(
            parser.get_method().decode("ascii"),
            self.target,
            self.fields,
            client=self.client,
            address=self.peer.address,
            proxies=self.proxies,
            keep_alive=version != "1.0" and parser.should_keep_alive(),
            started_s=self.loop.time(),
            secure=self.secure,
            http_version=version,
            serves=self._serves,
        )
        outcome = self._handler.dispatch(request)
        if self._queue or not self.is_idle:
            match = None
        else:
            match = self._fast_path.prepare(request, outcome)
        self._match = match
        if match is not None and self._answer(match):
            return
        exchange = self._exchange(request, outcome, self._raw_trailers)
        self._receiving, self._received_s = exchange, self.loop.time()
        self._rate_since_s, self._rate_bytes = self._received_s, 0
        self._begin(exchange)

    def on_body(self, body: bytes) -> None:
        self._header_bytes = 0
        if self._receiving is not None:
            self._receiving.received(body)

    def on_message_complete(self) -> None:
        if self._upgrade is Upgrade.WITH_BODY:
            return  # the parser skips this body; ``body_parser`` parses it
        self._become(Cause.REQUEST_COMPLETE)
        self._header_bytes = 0
        exchange, self._receiving = self._receiving, None
        if exchange is not None:
            exchange.end()

    # --- handling ---------------------------------------------------------------------------

    def _begin(self, exchange: Http1Exchange) -> None:
        """Handles an exchange now, or behind the responses that are due before it."""
        if self._current is not None or self._sending is not None:
            self._control.pause()
            self._queue.append(exchange)
        else:
            self._handle(exchange)

    def _handle(self, exchange: Http1Exchange) -> None:
        self._current = exchange
        exchange.become(ExchangeState.HANDLING)
        self._connections.start(self._run(exchange), "request")

    async def _run(self, exchange: Http1Exchange) -> None:
        """Has an exchange answered, and its response sent."""
        try:
            response = await self._handler.respond(exchange)
        except asyncio.CancelledError:
            raise  # the edge is stopping and has closed the connection
        except BaseException:
            self._send_failure(exchange)
            raise
        if exchange.has_unread_body and "expect" in exchange.request.headers:
            exchange.keep_alive = False  # the viewer may or may not send the body now
        if isinstance(response, Upgraded):
            await self._switch_protocols(exchange, response)
        elif exchange.state is ExchangeState.CUT:
            await _close(response)
            duration_s = self.loop.time() - exchange.request.started_s
            self._handler.finished(exchange.request, response, 0, duration_s, "viewer left")
        else:
            await self._send(exchange, response)

    async def _send(self, exchange: Http1Exchange, response: Response) -> None:
        """Sends a response; returns when all of it is in the sender or the viewer has left."""
        exchange.become(ExchangeState.SENDING)
        message, reader, stream = response.message, response.reader, response.stream
        framing = Framing.LENGTH
        if stream is not None:
            framing = framing_of(message.head, exchange.request.http_version)
        closes = not exchange.keep_alive or self._is_draining or framing is Framing.CLOSE
        head = encode_head(message.head, framing, closes=closes)
        self._sending = sending = ResponseInFlight(
            exchange,
            reader,
            partial(self._handler.finished, exchange.request, response),
            started_s=exchange.request.started_s,
            started_bytes=self.sender.sent_bytes,
            closes=closes,
            provenance=response.provenance,
        )
        if stream is not None:
            await self._send_stream(sending, head, framing, response)
        elif reader is None:
            self.sender.push(head + message.body if message.body else head)
        elif message.span is not None:
            self.sender.push(head, (reader, message.span))
        else:
            parts = [(reader, part) if isinstance(part, Span) else part for part in message.parts]
            self.sender.push(head, *parts)

    async def _send_stream(
        self, sending: ResponseInFlight, head: bytes, framing: Framing, response: Response
    ) -> None:
        """Sends the pieces of a body, each when the previous one has been sent.

        An exception in them closes the connection, so that the viewer detects the error. When the
        viewer leaves, they are cancelled.
        """
        if response.stream is None:
            return
        sending.pushing = asyncio.current_task()
        sending.is_stream = True
        try:
            async with contextlib.aclosing(response.stream) as pieces:
                self.sender.push(head)
                async for piece in pieces:
                    if self._sending is not sending:
                        return  # the viewer has left
                    self.sender.push(*(chunk(piece) if framing is Framing.CHUNKED else (piece,)))
                    await self._sent(sending)
                if self._sending is not sending:
                    return
                if framing is Framing.CHUNKED:
                    self.sender.push(last_chunk(response.trailers()))
                await self._sent(sending)
        except asyncio.CancelledError:
            if self._sending is sending:
                raise  # the edge is stopping
        except (OriginError, CacheFullError) as failure:
            self._finish(str(failure), complete=False)
            self.transport.abort()
        except BaseException as failure:
            self._finish(str(failure), complete=False)
            self.transport.abort()
            raise
        else:
            self._finish(None, complete=True)

    async def _sent(self, sending: ResponseInFlight) -> None:
        """Returns when the kernel has all pushed bytes."""
        while not self.sender.idle:
            sending.done = self.loop.create_future()
            await sending.done

    async def _send_bytes(self, data: bytes) -> None:
        """Sends bytes of a tunnel; returns when the kernel has them."""
        self.sender.push(data)
        if self._sending is not None:
            await self._sent(self._sending)

    async def _switch_protocols(self, exchange: Http1Exchange, upgraded: Upgraded) -> None:
        early, origin = upgraded.response.upgrade()
        if exchange.state is ExchangeState.CUT or self._input is not Input.WAITING:
            origin.close()
            self.transport.abort()
            return
        exchange.interim(101, upgraded.fields)
        self._become(Cause.UPGRADE_ACCEPTED)
        exchange.become(ExchangeState.SENDING)
        self._tunnel = ViewerDuplex(self.transport, self._control, self._send_bytes)
        self._sending = ResponseInFlight(
            exchange,
            None,
            lambda _sent_bytes, _duration_s, _cut: None,
            started_s=exchange.request.started_s,
            started_bytes=self.sender.sent_bytes,
            closes=True,
            provenance=None,
        )
        self._sending.is_stream = True
        if self._unparsed:
            self._tunnel.received(self._unparsed)
            self._unparsed = b""
        self._control.release()
        self._control.resume()
        await run_tunnel(self._tunnel, origin, early)

    def _send_failure(self, exchange: Http1Exchange) -> None:
        """Answers 500 to a request that a defect of ours prevents from being answered."""
        if exchange.state is not ExchangeState.HANDLING:
            self.transport.abort()
            return
        exchange.keep_alive = False
        self._send_refusal(HTTPStatus.INTERNAL_SERVER_ERROR)

    def _drained(self) -> None:
        sending = self._sending
        if sending is None:
            return
        if not sending.is_stream:
            self._finish(None, complete=True)
        elif sending.done is not None and not sending.done.done():
            sending.done.set_result(None)

    def _failed(self, cause: Failure | None) -> None:
        self._finish("viewer left" if cause is None else str(cause), complete=False)
        self.transport.abort()

    def _finish(self, cut: str | None, *, complete: bool) -> None:
        """Ends the response in flight, if there is one."""
        sending, self._sending = self._sending, None
        if sending is None:
            return
        if sending.reader is not None:
            sending.reader.close()
        sent_bytes = self.sender.sent_bytes - sending.started_bytes
        sending.finished(sent_bytes, self.loop.time() - sending.started_s, cut)
        exchange = sending.exchange
        if exchange is not None:
            if complete:
                exchange.become(ExchangeState.COMPLETE)
            else:
                exchange.cut()
            if self._current is exchange:
                self._current = None
        if complete:
            if sending.closes:
                self.transport.close()
            self._response_complete()
        elif sending.pushing is not None and sending.pushing is not asyncio.current_task():
            sending.pushing.cancel()
        if sending.done is not None and not sending.done.done():
            sending.done.set_result(None)

    def _response_complete(self) -> None:
        """Goes on with what waited for a response."""
        self.quiet_since_s = self.loop.time()
        if self.transport.is_closing():
            return
        if self._input is Input.WAITING and not self._queue:
            self._upgrade = Upgrade.NONE  # the origin did not switch protocols
            self._become(Cause.UPGRADE_DECLINED)
        if self._queue:
            exchange = self._queue.pop(0)
            if exchange.is_over and self._refusal is not None:
                self._send_refusal(self._refusal)
            else:
                # It may have waited for earlier responses.
                exchange.request = replace(
                    exchange.request, started_s=self.loop.time(), received_at_s=time.time()
                )
                self._handle(exchange)
        elif self._refusal is not None:
            self._send_refusal(self._refusal)
        elif self._is_draining and self._receiving is None:
            self.transport.close()
            return
        else:
            # Not earlier: requests of a peer that does not read would be queued without limit.
            self._control.resume()
        if self._unparsed:
            self._parse_soon()
        elif self._may_parse():
            self._control.release()

    # --- refusals ---------------------------------------------------------------------------

    def _refuse(self, status: HTTPStatus) -> None:
        """Stops parsing after an error; sends the response when earlier ones are complete."""
        if self._input is Input.REFUSED:
            return
        self._become(Cause.PROTOCOL_BROKEN)
        self._refusal = status
        exchange, self._receiving = self._receiving, None
        if exchange is not None and not exchange.is_over:
            self._abort_request(exchange, status)
        elif self._current is None and self._sending is None:
            self._send_refusal(status)

    def _abort_request(self, exchange: Http1Exchange, status: HTTPStatus) -> None:
        """Aborts a request in its body, so that no origin takes it for complete."""
        is_sending = exchange.state is ExchangeState.SENDING
        exchange.cut()
        if self._current is not exchange:
            return  # its turn has not come; ``_response_complete`` sends the refusal
        if is_sending:
            self.transport.abort()
        else:
            self._current = None
            self._send_refusal(status)

    def _send_refusal(self, status: HTTPStatus) -> None:
        if self.transport.is_closing():
            return
        fields = [("content-length", "0"), ("connection", "close")]
        self.sender.push(encode_head(ResponseHead(status, fields)))
        # If we closed now, bytes that the peer still sends would make the kernel reset the
        # connection, and the peer would lose the response (RFC 9112 §9.6). The sweep closes it.
        with contextlib.suppress(OSError):  # the peer has left; the loop reports it next
            self.transport.write_eof()
        self._control.resume()
        self.quiet_since_s = self.loop.time()
        self._handler.refused_connection(self.client, status)

    def _become(self, cause: Cause) -> None:
        state = TRANSITIONS.get((self._input, cause))
        if state is None:
            raise RuntimeError(f"{cause.name} cannot happen in {self._input.name}")
        self._input = state


_PEER_FAULTS = (httptools.HttpParserError, UnicodeDecodeError)
Finished = Callable[[int, float, str | None], None]
"""Logs and counts a response: bytes sent, seconds taken, and why it was cut off."""


class _RefusedError(Exception):
    """Stops the parser: the error response was sent, or waits for earlier responses."""


class ResponseInFlight:
    """A response in flight. ``exchange`` is None for a hit of the fast path.

    ``started_s``: the loop's time when it started; the connection had sent ``started_bytes`` then.
    """

    __slots__ = (
        "closes",
        "done",
        "exchange",
        "finished",
        "is_stream",
        "provenance",
        "pushing",
        "reader",
        "started_bytes",
        "started_s",
    )

    def __init__(
        self,
        exchange: Http1Exchange | None,
        reader: Reader | None,
        finished: Finished,
        *,
        started_s: float,
        started_bytes: int,
        closes: bool,
        provenance: Callable[[], Provenance] | None,
    ) -> None:
        self.exchange = exchange
        self.reader = reader
        self.finished = finished
        self.started_s = started_s
        self.started_bytes = started_bytes
        self.closes = closes  # the connection ends behind it
        self.provenance = provenance  # None: no invalidation applies
        self.is_stream = False
        self.done: asyncio.Future[None] | None = None  # set when all pushed bytes are sent
        self.pushing: asyncio.Task[Any] | None = None  # the task that sends a stream


def _has_parts(response: Response | None) -> bool:
    return response is not None and bool(response.message.parts)


async def _close(response: Response) -> None:
    """Closes a response that is not sent."""
    if response.reader is not None:
        response.reader.close()
    if response.stream is not None:
        await response.stream.aclose()
