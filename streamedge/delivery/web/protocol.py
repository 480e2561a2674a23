"""The HTTP connection: uvicorn's parser and application side, with a short lane for fresh hits.

A GET or HEAD whose answer is already here is answered from within the parser's callback: head and
bytes go to the outlet and never meet the application. Everything else goes on to the application,
which hands its answers back through the ``streamedge.answer`` extension, so that their bytes too
move by ``sendfile``. While an answer is being sent nothing else writes to the socket.

It leans on the inside of uvicorn's HttpToolsProtocol (cycle, pipeline, flow); the version range in
pyproject.toml is narrow for that reason.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.config import Config as UvicornConfig
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from streamedge.cache.open_version import Failure
from streamedge.cache.reader import CacheResult, Reader
from streamedge.delivery.outlet import Outlet
from streamedge.delivery.tls import TlsConnection
from streamedge.delivery.web.answer import bare_head
from streamedge.delivery.web.bridge import Bridge
from streamedge.delivery.web.lane import Asked, Wanted
from streamedge.delivery.web.replies import Opened
from streamedge.delivery.web.requests import (
    HOST_BYTES_MAX,
    WebRequest,
    has_clear_end,
    size_bytes,
    web_request,
)
from streamedge.delivery.web.sending import ANSWERED, LaneCycle, Sending
from streamedge.delivery.web.site import Site
from streamedge.delivery.web.viewer_duplex import ViewerDuplex
from streamedge.spans import Span

HEADER_BYTES_MAX = 20_480  # CloudFront's limit on a request without its body
EXTENSION = "streamedge.answer"
TARGET = "streamedge.target"  # the request's target as it was sent


class EdgeProtocol(HttpToolsProtocol):
    """One HTTP connection of a viewer."""

    def __init__(
        self,
        config: UvicornConfig,
        server_state: ServerState,
        loop: asyncio.AbstractEventLoop,
        site: Site,
        connections_max: int,
        left: Callable[[], None],
    ) -> None:
        super().__init__(config, server_state, {}, loop)
        self._site = site
        self._connections_max = connections_max
        self._left = left
        self.outlet: Outlet = None  # type: ignore[assignment]  # from connection_made on
        self.sending: Sending | None = None
        self._between = True  # the parser is between two requests
        self._begun = 0  # requests that the present packet holds the beginning of
        self._asked: Asked | None = None  # by the present packet's request, and answered
        self._header_bytes = 0
        self.tunnel: ViewerDuplex | None = None
        self._refused: HTTPStatus | None = None
        self._receiving: RequestResponseCycle | None = None  # whose request has not ended yet
        self._heard_s = 0.0  # when something of it came last
        self._client = ""
        self.secure = False  # whether the viewer came over TLS
        self.quiet_since_s = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # The outlet may only write when the transport has nothing left to.
        transport.set_write_buffer_limits(high=0)
        self.outlet = Outlet(transport, self.loop, self._drained, self._failed)
        self.secure = isinstance(transport, TlsConnection)
        self._lane = self._site.lanes[self.secure]
        self._client = f"{self.client[0]}:{self.client[1]}" if self.client else ""
        self.quiet_since_s = self.loop.time()
        if len(self.connections) > self._connections_max:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.finish("viewer left", complete=False)
        if self.tunnel is not None:
            self.tunnel.received(b"")
        self.outlet.close()
        super().connection_lost(exc)
        self._left()

    def data_received(self, data: bytes) -> None:
        if self._refused is not None:
            return
        if self.tunnel is not None:
            self.tunnel.received(data)
            return
        if self._between and self._is_idle:
            recalled = self._lane.recall(data)
            # The parser need not see it: it has seen this very request, and is between two now.
            if recalled is not None and self._answer_plain(*recalled):
                return
        if self._receiving is not None:
            self._heard_s = self.loop.time()
        whole = self._between
        self._begun, self._asked = 0, None
        self._header_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # Whether it is upgraded, the origin will say; until then nothing may follow.
            if any(name in _BODY_FIELDS for name, _value in self.headers):
                self._refuse(HTTPStatus.BAD_REQUEST)
            elif self.cycle is not ANSWERED:
                self.flow.pause_reading()
        except httptools.HttpParserError as exc:
            # What a callback raised is the peer's fault only if it is about what the peer sent.
            cause = exc.__context__
            if self._refused is None and cause is not None and not isinstance(cause, _PEER_FAULTS):
                raise cause from exc
            self._refuse(HTTPStatus.BAD_REQUEST)
        if self._asked is not None and whole and self._between and self._begun == 1:
            self._lane.remember(data, self._asked)
        if self._header_bytes > HEADER_BYTES_MAX:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    # The parser's callbacks. What only the application needs is made only for the application.

    def on_message_begin(self) -> None:
        self._between = False
        self._begun += 1
        self.url = b""
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if (
            self._header_bytes > HEADER_BYTES_MAX
            and size_bytes(self.url, self.headers) > HEADER_BYTES_MAX
        ):
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        self._header_bytes = 0
        if not has_clear_end(self.headers, self.parser.get_http_version()):
            self._refuse(HTTPStatus.BAD_REQUEST)
        if self._refused is not None:
            raise _RefusedError
        if not self._take_lane():
            self._go_to_application()

    def _take_lane(self) -> bool:
        """Answers from within the callback if the request is plain and its object is here."""
        if self.parser.get_method() != b"GET" or not self._is_idle:
            return False
        fields = dict(self.headers)
        host = fields.get(b"host", b"")
        if (
            len(fields) != len(self.headers)  # a repeated field
            or not 0 < len(host) <= HOST_BYTES_MAX
            or not self.url.startswith(b"/")
            or not self._keeps_alive()
        ):
            return False
        plain = self._lane.ask(host, self.url, fields)
        if plain is None or not self._answer_plain(*plain):
            return False
        self._asked = plain[0]
        return True

    @property
    def _is_idle(self) -> bool:
        """Whether nothing is being answered, so that an answer may go out at once."""
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            return False
        return not self.transport.get_write_buffer_size()

    def _answer_plain(self, asked: Asked, wanted: Wanted | None) -> bool:
        """Answers a plain GET, unless its object is not here and fresh."""
        now_s = time.time()
        hit = self._lane.decide(asked.target, wanted, now_s)
        if hit is None:
            return False
        status, head, ready, start, end, opened = hit
        sent = self.outlet.send_at_once(head, ready)
        if sent == len(head) + end - start and self.outlet.idle:
            self.cycle = ANSWERED
            self.quiet_since_s = self.loop.time()
            self._site.lane_finished(asked, wanted, status, self._client, sent, 0.0, None)
        else:
            # What the kernel did not take at once.
            reader = Reader(opened, CacheResult.HIT)
            self.cycle = LaneCycle(self.on_response_complete)  # type: ignore[assignment]
            self.sending = Sending(
                self.cycle,
                reader,
                partial(self._site.lane_finished, asked, wanted, status, self._client),
                begun_s=self.loop.time(),
                begun_bytes=self.outlet.sent_bytes - sent,
            )
            past_head = max(0, sent - len(head))
            self.outlet.push(head[sent:], (reader, Span(start + past_head, end)))
        return True

    def _go_to_application(self) -> None:
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.url = url
        for name, value in headers:
            super().on_header(name, value)
        self.scope["extensions"] = {TARGET: {"sent": url}}
        super().on_headers_complete()
        self._receiving, self._heard_s = self.cycle, self.loop.time()

    def on_body(self, body: bytes) -> None:
        self._header_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._between = True
        self._receiving = None
        self._header_bytes = 0
        if self.cycle is not ANSWERED:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        # uvicorn arms a timer for each response here; quiet connections are swept instead.
        self.quiet_since_s = self.loop.time()
        if self.transport.is_closing():
            return
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            if cycle.disconnected and self._refused is not None:
                self._send_refusal(self._refused)
            else:
                self._start_asgi_task(cycle, app)
        elif self._refused is not None:
            self._send_refusal(self._refused)
        else:
            # Not before: a peer that asks faster than it reads would be queued without end.
            self.flow.resume_reading()

    def sweep(self, now_s: float, idle_s: float, stall_s: float) -> None:
        """Drops the connection when it has been quiet, or its peer has taken nothing, too long."""
        if self.transport.is_closing():
            return
        blocked_since_s = self.outlet.blocked_since_s
        if blocked_since_s is not None:
            if now_s - blocked_since_s > stall_s:
                self.finish("viewer stalled", complete=False)
                self.transport.abort()
        elif self._is_over:
            if now_s - self.quiet_since_s > idle_s:
                self.transport.close()
        elif self._owes_body and now_s - self._heard_s > stall_s:
            self.transport.abort()
        elif self.flow.read_paused:
            self._heard_s = now_s

    @property
    def _is_over(self) -> bool:
        """Whether nothing is being asked or answered."""
        cycle = self.cycle
        return cycle is None or cycle.response_complete or cycle.disconnected

    @property
    def _owes_body(self) -> bool:
        """Whether the rest of a request is the one thing that is waited for."""
        cycle = self._receiving
        return (
            cycle is not None
            and not cycle.response_started
            and not cycle.waiting_for_100_continue
            and not self.flow.read_paused
        )

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        target = cycle.scope["extensions"][TARGET]["sent"]
        assert isinstance(target, bytes)

        scope = cycle.scope
        request = self._request(scope["method"], target, scope["headers"], cycle.keep_alive)
        scope["extensions"] = {EXTENSION: Bridge(self, cycle, request)}  # type: ignore[dict-item]
        super()._start_asgi_task(cycle, app)

    async def send_answer(
        self, cycle: RequestResponseCycle, request: WebRequest, opened: Opened
    ) -> None:
        """Sends an answer of known length; returns when it is out or the viewer has gone."""
        done: asyncio.Future[None] = self.loop.create_future()
        self.begin_sending(cycle, request, opened, done)
        answer, reader = opened.answer, opened.reader
        if reader is None:
            self.outlet.push(answer.head, answer.body)
        elif answer.span is not None:
            self.outlet.push(answer.head, (reader, answer.span))
        else:
            parts = [(reader, part) if isinstance(part, Span) else part for part in answer.parts]
            self.outlet.push(answer.head, *parts)
        await done

    async def comes_to_answer(
        self, cycle: RequestResponseCycle, request: WebRequest, opened: Opened
    ) -> bool:
        """Waits until nothing else is being written; False when the viewer has left by then."""
        while self.transport.get_write_buffer_size() and not cycle.disconnected:
            await self.flow.drain()
        if cycle.disconnected:
            if opened.reader is not None:
                opened.reader.close()
            self._site.finished(
                request, opened, 0, self.loop.time() - request.begun_s, "viewer left"
            )
            return False
        cycle.response_started = True
        return True

    def begin_sending(
        self,
        cycle: RequestResponseCycle,
        request: WebRequest,
        opened: Opened,
        done: asyncio.Future[None] | None,
        *,
        is_stream: bool = False,
    ) -> Sending:
        """Notes an answer that is about to be pushed; ``finish`` ends it."""
        self.sending = Sending(
            cycle,
            opened.reader,
            partial(self._site.finished, request, opened),
            begun_s=request.begun_s,
            begun_bytes=self.outlet.sent_bytes,
            done=done,
            is_stream=is_stream,
        )
        return self.sending

    def _drained(self) -> None:
        sending = self.sending
        if sending is None or not sending.is_stream:
            self.finish(None, complete=True)
        elif sending.done is not None and not sending.done.done():
            sending.done.set_result(None)

    def _failed(self, cause: Failure | None) -> None:
        self.finish("viewer left" if cause is None else str(cause), complete=False)
        self.transport.abort()

    def finish(self, cut: str | None, *, complete: bool) -> None:
        """Ends the answer under way, if there is one."""
        sending, self.sending = self.sending, None
        if sending is None:
            return
        if sending.reader is not None:
            sending.reader.close()
        sent_bytes = self.outlet.sent_bytes - sending.begun_bytes
        sending.finished(sent_bytes, self.loop.time() - sending.begun_s, cut)
        cycle = sending.cycle
        if complete:
            cycle.response_complete = True
            cycle.message_event.set()
            if not cycle.keep_alive:
                self.transport.close()
            cycle.on_response()
        else:
            cycle.disconnected = True
            if sending.pushing is not None:
                sending.pushing.cancel()
        if sending.done is not None and not sending.done.done():
            sending.done.set_result(None)

    def _keeps_alive(self) -> bool:
        return self.parser.get_http_version() != "1.0" and bool(self.parser.should_keep_alive())

    def _request(self, method: str, target: bytes, fields: Any, keep_alive: bool) -> WebRequest:
        return web_request(
            method,
            target,
            fields,
            client=self._client,
            keep_alive=keep_alive,
            begun_s=self.loop.time(),
            secure=self.secure,
            http_version=self.parser.get_http_version(),
        )

    def _refuse(self, status: HTTPStatus) -> None:
        """Hears no more of what is not HTTP, or too much of it; says so when its turn has come."""
        if self._refused is not None:
            return
        self._refused = status
        receiving, self._receiving = self._receiving, None
        if receiving is not None:
            self._break_off(receiving, status)
        elif self.cycle is None or self.cycle.response_complete:
            self._send_refusal(status)

    def _break_off(self, cycle: RequestResponseCycle, status: HTTPStatus) -> None:
        """Ends a request in its body, so that no origin takes what has come for all of it."""
        is_next = all(waiting is not cycle for waiting, _app in self.pipeline)
        cycle.disconnected = True
        cycle.message_event.set()
        if is_next and cycle.response_started and not cycle.response_complete:
            self.transport.abort()
        elif is_next:
            self._send_refusal(status)

    def _send_refusal(self, status: HTTPStatus) -> None:
        if self.transport.is_closing():
            return
        self.transport.write(bare_head(status, [("content-length", "0"), ("connection", "close")]))
        # Closed now, what the peer still sends would make the kernel reset the connection, and
        # take back what the peer has not read yet (RFC 9112 §9.6). The sweep ends it.
        self.transport.write_eof()
        self.flow.resume_reading()
        self.quiet_since_s = self.loop.time()
        self._site.refused_connection(self._client, status)


_BODY_FIELDS = frozenset({b"content-length", b"transfer-encoding"})
_PEER_FAULTS = (httptools.HttpParserError, UnicodeDecodeError)


class _RefusedError(Exception):
    """Stops the parser: the connection's refusal is on its way, or waits for its turn."""
