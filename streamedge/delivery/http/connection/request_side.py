"""The request side of a viewer's HTTP connection: parsing, and the fast path for fresh hits.

A GET whose response is in the cache is answered in the loop iteration in which it came (``batch``):
its head and bytes go to the sender, and no task is made. All other requests go to the application,
which returns its responses through the ``streamedge.answer`` extension, so their bytes use
``sendfile`` too. ``response_side`` sends the responses.

This depends on internals of uvicorn's HttpToolsProtocol (cycle, pipeline, flow); therefore the
version range in pyproject.toml is narrow.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.config import Config as UvicornConfig
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.server import ServerState

from streamedge.cache.reader import CacheResult, Reader
from streamedge.delivery.http.connection.read_control import (
    PIECE_BYTES,
    ReadControl,
    is_parsed_at_once,
)
from streamedge.delivery.http.connection.response_sender import ResponseSender
from streamedge.delivery.http.connection.response_side import (
    ANSWERED,
    FastPathCycle,
    ResponseInFlight,
    ResponseSide,
)
from streamedge.delivery.http.connection.upgrades import Upgrade, body_parser, upgrade_of
from streamedge.delivery.http.fast_path.fast_path import Hit, PlainGet, SentHit
from streamedge.delivery.http.fast_path.request_memo import ByteRange
from streamedge.delivery.http.handler import HttpHandler
from streamedge.delivery.http.request.request import (
    WebRequest,
    has_unambiguous_length,
    request_line_error,
    request_size_bytes,
    web_request,
)
from streamedge.delivery.http.request.trailers import TRAILER_BYTES_MAX
from streamedge.delivery.net.accept import Peer
from streamedge.delivery.net.read_scheduler import ReadScheduler
from streamedge.spans import Span

HEADER_BYTES_MAX = 20_480  # CloudFront's limit on a request without its body
EXTENSION = "streamedge.answer"
REQUEST = "streamedge.request"  # the request, and its trailer fields as they come


class HttpConnection(ResponseSide):
    """One HTTP connection of a viewer."""

    def __init__(
        self,
        config: UvicornConfig,
        server_state: ServerState,
        loop: asyncio.AbstractEventLoop,
        site: HttpHandler,
        connections_max: int,
        on_close: Callable[[], None],
        peer: Peer,
        read_scheduler: ReadScheduler,
    ) -> None:
        super().__init__(config, server_state, loop, site, connections_max, on_close, peer)
        self._read_scheduler = read_scheduler
        self._batch = site.batch
        self._between = True  # the parser is between two requests
        self._begun = 0  # requests that begin in the current packet
        # The current packet's request, if it is plain.
        self._plain_get: tuple[PlainGet, ByteRange | None] | None = None
        self._held = b""  # received bytes that wait for the batch or another response
        self._deferred = False  # whether they wait for the next run of the batch
        self._header_bytes = 0
        # The current request's trailer section; None until its header section has ended.
        self._trailers: list[tuple[bytes, bytes]] | None = None
        self._trailer_bytes = 0
        self._unparsed = bytearray()  # received bytes that wait for their share of the loop's time
        self._is_parse_due = False
        self._is_lost = False  # the connection, and the parser with it
        self._upgrade = Upgrade.NONE  # the meaning of the current request's Upgrade field

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = self._read_control = ReadControl(transport)
        self._fast_path = self._site.fast_paths[self.secure, bool(self.proxies)]

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        self._unparsed.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused is not None or self._is_lost:
            return
        if self.tunnel is not None:
            self.tunnel.received(data)
            return
        if self._held:
            self._held += data
            self.flow.pause_reading()
            return
        if self._between and self._is_idle:
            self._held = data
            self._batch.add(self)
        else:
            self._feed(data)

    def eof_received(self) -> None:
        self._batch.finish()
        super().eof_received()

    def shutdown(self) -> None:
        self._batch.finish()
        super().shutdown()

    def decide_hit(
        self, now_s: float, pending_keys: set[str]
    ) -> tuple[PlainGet, ByteRange | None, Hit] | None:
        """The hit for the received bytes, or None when they went another way.

        ``pending_keys``: the keys for which this batch has sent a request to the application.
        """
        data, self._held = self._held, b""
        was_put_off, self._deferred = self._deferred, False
        if self._is_lost:
            return None
        if self.flow.read_paused:
            self.flow.resume_reading()
        entry = self._fast_path.memo.get(data)
        if entry is not None:
            # The parser has parsed equal bytes before, and is between two requests now.
            plain_get, byte_range = entry
            answer = self._decide(plain_get, byte_range, now_s)
            if answer is not None:
                return plain_get, byte_range, answer
            asking = self._fast_path.awaited(plain_get.target)
            if asking is not None:
                self._hold(data, asking)
                return None
            if plain_get.target.key in pending_keys and not was_put_off:
                # The first request's task has not started; once it has, this one can wait for it.
                self._held, self._deferred = data, True
                self._batch.defer(self)
                return None
        self._feed(data)
        if self._plain_get is not None:
            pending_keys.add(self._plain_get[0].target.key)
        return None

    def abort_with(self, cause: Exception) -> None:
        """Reports a defect of ours and aborts the connection."""
        context = {"message": "taking up a request failed", "exception": cause, "protocol": self}
        self.loop.call_exception_handler(context)
        self.transport.abort()

    def _hold(self, data: bytes, asking: asyncio.Task[None]) -> None:
        """Holds a request until the origin has answered another request for the same key.

        So all but the first of many simultaneous requests for a new object are answered as hits.
        """
        self._held = data
        self.cycle = FastPathCycle(self.on_response_complete)  # type: ignore[assignment]
        started_s = self.loop.time()
        asking.add_done_callback(lambda _done: self._release(started_s))

    def _release(self, started_s: float) -> None:
        """Resumes a held request; it is not held again, whatever the origin has answered."""
        data, self._held = self._held, b""
        entry = self._fast_path.memo.get(data)
        is_last = self.cycle is not None and not self.cycle.keep_alive
        self.cycle = ANSWERED
        if self._is_lost or self.transport.is_closing():
            hit = self._fast_path.decide(entry[0].target, entry[1], time.time()) if entry else None
            if entry is not None and hit is not None:
                duration_s = self.loop.time() - started_s
                self._hit_ended(*entry, hit[0], 0, duration_s, "viewer left")
            return
        self.flow.resume_reading()
        if entry is None or not self._answer_plain(*entry):
            self._feed(data)
        if is_last:
            self.shutdown()

    def _feed(self, data: bytes) -> None:
        """Parses received bytes: few at once, more within its share of the loop's time."""
        if self._receiving is not None:
            self._received_s = self.loop.time()
            self._rate_bytes += len(data)
        if self._unparsed or not is_parsed_at_once(data):
            self._unparsed += data
            if not self._is_parse_due:
                self._is_parse_due = True
                if self._read_scheduler.start(self._parse_piece):
                    self._read_control.hold()
        else:
            self._parse(data)

    def _parse_piece(self) -> bool:
        """Parses one piece of the received bytes; returns whether another can follow.

        Bytes behind a request that waits for an earlier response are not parsed before that
        response is complete. So a peer that sends requests faster than it gets responses fills no
        queue.
        """
        if self._is_lost:
            return False
        try:
            if self._unparsed and self._may_parse():
                data = bytes(self._unparsed[:PIECE_BYTES])
                del self._unparsed[:PIECE_BYTES]
                self._parse(data)
        except Exception as cause:  # noqa: BLE001 - the scheduler serves other connections too
            self.abort_with(cause)
            return False
        may_parse = self._may_parse()
        if may_parse and self._unparsed:
            return True
        self._is_parse_due = False
        if may_parse:
            self._read_control.release()
        else:
            self._read_control.hold()
        return False

    def _parse_soon(self) -> None:
        if not self._is_parse_due:
            self._is_parse_due = True
            self._read_scheduler.wait(self._parse_piece)

    def _may_parse(self) -> bool:
        """Whether the next bytes belong to a request that need not wait for earlier responses."""
        if self._refused is not None or self.transport.is_closing():
            self._unparsed.clear()
            return True
        return not self.pipeline and self._upgrade is not Upgrade.WEBSOCKET and self.tunnel is None

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._upgrade is Upgrade.WEBSOCKET and self.tunnel is None:
            self._upgrade = Upgrade.NONE  # the origin did not switch protocols
        if self._unparsed:
            self._parse_soon()
        elif self._may_parse():
            self._read_control.release()

    def take_unparsed(self) -> bytes:
        """Removes and returns the bytes behind a request that switches protocols."""
        early = bytes(self._unparsed)
        self._unparsed.clear()
        self._read_control.release()
        return early

    def _parse(self, data: bytes) -> None:
        if self._refused is not None:
            return
        whole = self._between
        self._begun, self._plain_get = 0, None
        self._header_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._go_on_behind_upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError as exc:
            # An exception in a callback is the peer's fault only if it is about the peer's bytes.
            cause = exc.__context__
            if self._refused is None and cause is not None and not isinstance(cause, _PEER_FAULTS):
                raise cause from exc
            self._refuse(HTTPStatus.BAD_REQUEST)
        if self._plain_get is not None and whole and self._between and self._begun == 1:
            self._fast_path.remember(data, *self._plain_get)
        if self._header_bytes > HEADER_BYTES_MAX:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def _go_on_behind_upgrade(self, rest: bytes) -> None:
        """Continues behind a head with an Upgrade field, where the parser stops.

        An Upgrade that is not accepted is ignored (RFC 9110 §7.8): the body and the next request
        are parsed. Bytes behind a WebSocket request may belong to that protocol; they wait until
        the origin has answered.
        """
        if self._refused is not None:
            return
        self._header_bytes = 0
        match self._upgrade:
            case Upgrade.CONNECT:
                self._refuse(HTTPStatus.BAD_REQUEST)
                return
            case Upgrade.WEBSOCKET:
                self._unparsed[:0] = rest
                self._read_control.hold()
                return
            case Upgrade.WITH_BODY:
                self._upgrade = Upgrade.NONE
                self.parser = body_parser(self, self.headers)
        self._unparsed[:0] = rest
        if self._unparsed:
            self._parse_soon()
            self._read_control.hold()

    # The parser's callbacks. They build only for the application what only it needs.

    def on_message_begin(self) -> None:
        self._between = False
        self._begun += 1
        self.url = b""
        self.headers = []
        self._trailers = None

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._trailers is None:
            self.headers.append((name.lower(), value))
            return
        # The parser calls this for trailer fields too. They must never mix with header fields,
        # which decide about the request before its body has come.
        self._trailers.append((name.lower(), value))
        self._trailer_bytes += request_size_bytes(b"", [(name, value)])
        if self._trailer_bytes > TRAILER_BYTES_MAX:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            raise _RefusedError

    def on_headers_complete(self) -> None:
        if (
            self._header_bytes > HEADER_BYTES_MAX
            and request_size_bytes(self.url, self.headers) > HEADER_BYTES_MAX
        ):
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        self._header_bytes = 0
        version = self.parser.get_http_version()
        refusal = request_line_error(version, self.url)
        if refusal is not None:
            self._refuse(refusal)
        elif not has_unambiguous_length(self.headers, version):
            self._refuse(HTTPStatus.BAD_REQUEST)
        if self._refused is not None:
            raise _RefusedError
        self._trailers, self._trailer_bytes = [], 0
        if self.parser.should_upgrade():
            self._upgrade = upgrade_of(self.parser.get_method(), self.headers)
            if self._upgrade is Upgrade.CONNECT:
                self._refuse(HTTPStatus.BAD_REQUEST)
                raise _RefusedError
        request = self._read_request(version)
        if not self._try_fast_path(request):
            self._go_to_application(request, self._trailers)

    def _try_fast_path(self, request: WebRequest) -> bool:
        """Answers within the callback if the request is plain and its object is cached."""
        if (
            request.method != "GET"
            or not self._is_idle
            or not self.url.startswith(b"/")
            or not self._keeps_alive()
        ):
            return False
        plain = self._fast_path.ask(request)
        if plain is None:
            return False
        self._plain_get = plain
        return self._answer_plain(*plain)

    def _read_request(self, version: str) -> WebRequest:
        """The request whose head the parser has parsed."""
        return web_request(
            self.parser.get_method().decode("ascii"),
            self.url,
            self.headers,
            client=self._client,
            address=self.peer.address,
            proxies=self.proxies,
            keep_alive=version != "1.0" and self.parser.should_keep_alive(),
            started_s=self.loop.time(),
            secure=self.secure,
            http_version=version,
            serves=self._serves,
        )

    @property
    def _is_idle(self) -> bool:
        """Whether no response is in flight, so that one may be sent at once."""
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            return False
        return not self.transport.get_write_buffer_size()

    def _answer_plain(self, plain_get: PlainGet, byte_range: ByteRange | None) -> bool:
        """Answers a plain GET if its object is cached and fresh."""
        answer = self._decide(plain_get, byte_range, time.time())
        if answer is None:
            return False
        answered = self.send_hit(plain_get, byte_range, answer, self.loop.time())
        if answered is not None:
            self._site.hits_finished([answered])
        return True

    def _decide(
        self, plain_get: PlainGet, byte_range: ByteRange | None, now_s: float
    ) -> Hit | None:
        if self._serves is not None and not self._serves(plain_get.host):
            return None
        if plain_get.admitted is not None and not self._site.authorizer.still_allows(
            plain_get.admitted, plain_get.address or self.peer.address, now_s
        ):
            return None
        return self._fast_path.decide(plain_get.target, byte_range, now_s)

    def send_hit(
        self, plain_get: PlainGet, byte_range: ByteRange | None, answer: Hit, loop_s: float
    ) -> SentHit | None:
        """Sends a hit. Returns None when it is not sent at once; then it is logged at its end."""
        status, head, ready, start, end, opened = answer
        sent = 0 if ready is None else self.sender.send_at_once(head, ready)
        if sent == len(head) + end - start and self.sender.idle:
            self.cycle = ANSWERED
            self.quiet_since_s = loop_s
            return plain_get, byte_range, status, self._client, sent
        # The kernel did not take all of it, or bytes are still being filled.
        reader = Reader(opened, CacheResult.HIT)
        self.cycle = FastPathCycle(self.on_response_complete)  # type: ignore[assignment]
        self.sending = ResponseInFlight(
            self.cycle,
            reader,
            partial(self._hit_ended, plain_get, byte_range, status),
            started_s=loop_s,
            begun_bytes=self.sender.sent_bytes - sent,
            provenance=plain_get.target.provenance(),
        )
        past_head = max(0, sent - len(head))
        self.sender.push(head[sent:], (reader, Span(start + past_head, end)))
        return None

    def _hit_ended(
        self,
        plain_get: PlainGet,
        byte_range: ByteRange | None,
        status: int,
        sent_bytes: int,
        duration_s: float,
        cut: str | None,
    ) -> None:
        answered = plain_get, byte_range, status, self._client, sent_bytes
        self._site.hits_finished([answered], duration_s, cut)

    def _go_to_application(self, request: WebRequest, trailers: list[tuple[bytes, bytes]]) -> None:
        headers = self.headers
        super().on_message_begin()
        self.url = b"/"  # uvicorn parses it in its own way; its result is not used
        for name, value in headers:
            super().on_header(name, value)
        self.scope["extensions"] = {REQUEST: {"request": request, "trailers": trailers}}
        super().on_headers_complete()
        self._receiving, self._received_s = self.cycle, self.loop.time()
        self._rate_since_s, self._rate_bytes = self._received_s, 0

    def on_body(self, body: bytes) -> None:
        self._header_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._upgrade is Upgrade.WITH_BODY:
            return  # the parser skips this body; ``body_parser`` parses it
        self._between = True
        self._receiving = None
        self._header_bytes = 0
        if self.cycle is not ANSWERED:
            super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        scope = cycle.scope
        read: dict[Any, Any] = scope["extensions"][REQUEST]
        # It may have waited for earlier responses.
        request = replace(read["request"], started_s=self.loop.time(), received_at_s=time.time())
        bridge = ResponseSender(self, cycle, request, read["trailers"])
        scope["extensions"] = {EXTENSION: bridge}  # type: ignore[dict-item]
        super()._start_asgi_task(cycle, app)

    def _keeps_alive(self) -> bool:
        return self.parser.get_http_version() != "1.0" and bool(self.parser.should_keep_alive())


_PEER_FAULTS = (httptools.HttpParserError, UnicodeDecodeError)


class _RefusedError(Exception):
    """Stops the parser: the error response was sent, or waits for earlier responses."""
