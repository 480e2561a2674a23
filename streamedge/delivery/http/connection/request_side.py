"""The HTTP connection: uvicorn's parser and application side, with a short lane for fresh hits.

A GET whose answer is already here is answered in the turn of the loop in which it came (``burst``):
head and bytes go to the outlet and never meet the application. Everything else goes on to the
application, which hands its answers back through the ``streamedge.answer`` extension, so that
their bytes too move by ``sendfile``. How answers leave is ``answering``'s.

It leans on the inside of uvicorn's HttpToolsProtocol (cycle, pipeline, flow); the version range in
pyproject.toml is narrow for that reason.
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
    AnsweringConnection,
    FastPathCycle,
    ResponseInFlight,
)
from streamedge.delivery.http.connection.upgrades import Upgrade, body_parser, upgrade_of
from streamedge.delivery.http.fast_path.fast_path import Answered, LaneAnswer, PlainGet
from streamedge.delivery.http.fast_path.request_memo import Wanted
from streamedge.delivery.http.handler import HttpHandler
from streamedge.delivery.http.request.request import (
    WebRequest,
    has_clear_end,
    request_line_refusal,
    size_bytes,
    web_request,
)
from streamedge.delivery.http.request.trailers import TRAILER_BYTES_MAX
from streamedge.delivery.net.accept import Peer
from streamedge.delivery.net.read_scheduler import ReadScheduler
from streamedge.spans import Span

HEADER_BYTES_MAX = 20_480  # CloudFront's limit on a request without its body
EXTENSION = "streamedge.answer"
REQUEST = "streamedge.request"  # the request, and its trailer fields as they come


class EdgeProtocol(AnsweringConnection):
    """One HTTP connection of a viewer."""

    def __init__(
        self,
        config: UvicornConfig,
        server_state: ServerState,
        loop: asyncio.AbstractEventLoop,
        site: HttpHandler,
        connections_max: int,
        left: Callable[[], None],
        peer: Peer,
        read_scheduler: ReadScheduler,
    ) -> None:
        super().__init__(config, server_state, loop, site, connections_max, left, peer)
        self._read_scheduler = read_scheduler
        self._burst = site.burst
        self._between = True  # the parser is between two requests
        self._begun = 0  # requests that the present packet holds the beginning of
        # By the present packet's request, if it is plain.
        self._asked: tuple[PlainGet, Wanted | None] | None = None
        self._held = b""  # what came, while it waits for its burst or for another's answer
        self._put_off = False  # to the next burst
        self._header_bytes = 0
        # Behind the present request's body; None before its header section has ended.
        self._trailers: list[tuple[bytes, bytes]] | None = None
        self._trailer_bytes = 0
        self._unparsed = bytearray()  # received bytes that wait for their share of the loop's time
        self._is_parse_due = False
        self._is_lost = False  # the connection, and the parser with it
        self._upgrade = Upgrade.NONE  # what the present request's Upgrade field means

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = self._read_control = ReadControl(transport)
        self._lane = self._site.lanes[self.secure, bool(self.proxies)]

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
            self._burst.add(self)
        else:
            self._feed(data)

    def eof_received(self) -> None:
        self._burst.finish()
        super().eof_received()

    def shutdown(self) -> None:
        self._burst.finish()
        super().shutdown()

    def take_up(
        self, now_s: float, gone: set[str]
    ) -> tuple[PlainGet, Wanted | None, LaneAnswer] | None:
        """The hit that answers what came; None when that has gone another way.

        ``gone``: the keys that others have gone to the application for in this turn of the loop.
        """
        data, self._held = self._held, b""
        was_put_off, self._put_off = self._put_off, False
        if self._is_lost:
            return None
        if self.flow.read_paused:
            self.flow.resume_reading()
        recalled = self._lane.spellings.recall(data)
        if recalled is not None:
            # The parser need not see it: it has seen this very request, and is between two now.
            asked, wanted = recalled
            answer = self._decide(asked, wanted, now_s)
            if answer is not None:
                return asked, wanted, answer
            asking = self._lane.awaited(asked.target)
            if asking is not None:
                self._hold(data, asking)
                return None
            if asked.target.key in gone and not was_put_off:
                # Nobody's task has begun to ask yet; when it has, this one can be held.
                self._held, self._put_off = data, True
                self._burst.put_off(self)
                return None
        self._feed(data)
        if self._asked is not None:
            gone.add(self._asked[0].target.key)
        return None

    def broke(self, cause: Exception) -> None:
        """Ends the connection, whose request has found a fault of ours."""
        context = {"message": "taking up a request failed", "exception": cause, "protocol": self}
        self.loop.call_exception_handler(context)
        self.transport.abort()

    def _hold(self, data: bytes, asking: asyncio.Task[None]) -> None:
        """Keeps a request until the origin has answered another that asks for the same.

        Of a crowd that comes for a new object each is then answered as a hit is.
        """
        self._held = data
        self.cycle = FastPathCycle(self.on_response_complete)  # type: ignore[assignment]
        begun_s = self.loop.time()
        asking.add_done_callback(lambda _done: self._release(begun_s))

    def _release(self, begun_s: float) -> None:
        """Takes a request up again that was held; not twice, whatever the origin has said."""
        data, self._held = self._held, b""
        recalled = self._lane.spellings.recall(data)
        is_last = self.cycle is not None and not self.cycle.keep_alive
        self.cycle = ANSWERED
        if self._is_lost or self.transport.is_closing():
            hit = (
                self._lane.decide(recalled[0].target, recalled[1], time.time())
                if recalled
                else None
            )
            if recalled is not None and hit is not None:
                duration_s = self.loop.time() - begun_s
                self._hit_ended(*recalled, hit[0], 0, duration_s, "viewer left")
            return
        self.flow.resume_reading()
        if recalled is None or not self._answer_plain(*recalled):
            self._feed(data)
        if is_last:
            self.shutdown()

    def _feed(self, data: bytes) -> None:
        """Parses received bytes: few at once, more within its share of the loop's time."""
        if self._receiving is not None:
            self._heard_s = self.loop.time()
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
            self.broke(cause)
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
        """Whether the next bytes are a request's, and its turn is near."""
        if self._refused is not None or self.transport.is_closing():
            self._unparsed.clear()
            return True
        return not self.pipeline and self._upgrade is not Upgrade.WEBSOCKET and self.tunnel is None

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._upgrade is Upgrade.WEBSOCKET and self.tunnel is None:
            self._upgrade = Upgrade.NONE  # it was answered as any GET is
        if self._unparsed:
            self._parse_soon()
        elif self._may_parse():
            self._read_control.release()

    def take_unparsed(self) -> bytes:
        """What came behind a request whose protocol the connection changes to."""
        early = bytes(self._unparsed)
        self._unparsed.clear()
        self._read_control.release()
        return early

    def _parse(self, data: bytes) -> None:
        if self._refused is not None:
            return
        whole = self._between
        self._begun, self._asked = 0, None
        self._header_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._go_on_behind_upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError as exc:
            # What a callback raised is the peer's fault only if it is about what the peer sent.
            cause = exc.__context__
            if self._refused is None and cause is not None and not isinstance(cause, _PEER_FAULTS):
                raise cause from exc
            self._refuse(HTTPStatus.BAD_REQUEST)
        if self._asked is not None and whole and self._between and self._begun == 1:
            self._lane.remember(data, *self._asked)
        if self._header_bytes > HEADER_BYTES_MAX:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def _go_on_behind_upgrade(self, rest: bytes) -> None:
        """Reads on behind a head with an Upgrade field, where the parser leaves the message.

        An Upgrade that is not taken is ignored (RFC 9110 §7.8): the body is read, and the next
        request. What follows a request for WebSocket may be of that protocol; it waits until the
        origin has said so.
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

    # The parser's callbacks. What only the application needs is made only for the application.

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
        # The parser tells them apart by the time alone; and what a request says in its head may
        # not be looked at before all of it has come, so these must never be among it.
        self._trailers.append((name.lower(), value))
        self._trailer_bytes += size_bytes(b"", [(name, value)])
        if self._trailer_bytes > TRAILER_BYTES_MAX:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            raise _RefusedError

    def on_headers_complete(self) -> None:
        if (
            self._header_bytes > HEADER_BYTES_MAX
            and size_bytes(self.url, self.headers) > HEADER_BYTES_MAX
        ):
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        self._header_bytes = 0
        version = self.parser.get_http_version()
        refusal = request_line_refusal(version, self.url)
        if refusal is not None:
            self._refuse(refusal)
        elif not has_clear_end(self.headers, version):
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
        if not self._take_lane(request):
            self._go_to_application(request, self._trailers)

    def _take_lane(self, request: WebRequest) -> bool:
        """Answers from within the callback if the request is plain and its object is here."""
        if (
            request.method != "GET"
            or not self._is_idle
            or not self.url.startswith(b"/")
            or not self._keeps_alive()
        ):
            return False
        plain = self._lane.ask(request)
        if plain is None:
            return False
        self._asked = plain
        return self._answer_plain(*plain)

    def _read_request(self, version: str) -> WebRequest:
        """The request whose head the parser has read."""
        return web_request(
            self.parser.get_method().decode("ascii"),
            self.url,
            self.headers,
            client=self._client,
            address=self.peer.address,
            proxies=self.proxies,
            keep_alive=version != "1.0" and self.parser.should_keep_alive(),
            begun_s=self.loop.time(),
            secure=self.secure,
            http_version=version,
            serves=self._serves,
        )

    @property
    def _is_idle(self) -> bool:
        """Whether nothing is being answered, so that an answer may go out at once."""
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            return False
        return not self.transport.get_write_buffer_size()

    def _answer_plain(self, asked: PlainGet, wanted: Wanted | None) -> bool:
        """Answers a plain GET, unless its object is not here and fresh."""
        answer = self._decide(asked, wanted, time.time())
        if answer is None:
            return False
        answered = self.send_hit(asked, wanted, answer, self.loop.time())
        if answered is not None:
            self._site.lane_finished([answered])
        return True

    def _decide(self, asked: PlainGet, wanted: Wanted | None, now_s: float) -> LaneAnswer | None:
        if self._serves is not None and not self._serves(asked.host):
            return None
        if asked.admitted is not None and not self._site.gate.still_allows(
            asked.admitted, asked.address or self.peer.address, now_s
        ):
            return None
        return self._lane.decide(asked.target, wanted, now_s)

    def send_hit(
        self, asked: PlainGet, wanted: Wanted | None, answer: LaneAnswer, loop_s: float
    ) -> Answered | None:
        """Sends a hit. None when that is not done at once: then it leaves its own line, later."""
        status, head, ready, start, end, opened = answer
        sent = 0 if ready is None else self.sender.send_at_once(head, ready)
        if sent == len(head) + end - start and self.sender.idle:
            self.cycle = ANSWERED
            self.quiet_since_s = loop_s
            return asked, wanted, status, self._client, sent
        # What the kernel did not take at once, or is still to come.
        reader = Reader(opened, CacheResult.HIT)
        self.cycle = FastPathCycle(self.on_response_complete)  # type: ignore[assignment]
        self.sending = ResponseInFlight(
            self.cycle,
            reader,
            partial(self._hit_ended, asked, wanted, status),
            begun_s=loop_s,
            begun_bytes=self.sender.sent_bytes - sent,
            provenance=asked.target.provenance(),
        )
        past_head = max(0, sent - len(head))
        self.sender.push(head[sent:], (reader, Span(start + past_head, end)))
        return None

    def _hit_ended(
        self,
        asked: PlainGet,
        wanted: Wanted | None,
        status: int,
        sent_bytes: int,
        duration_s: float,
        cut: str | None,
    ) -> None:
        answered = asked, wanted, status, self._client, sent_bytes
        self._site.lane_finished([answered], duration_s, cut)

    def _go_to_application(self, request: WebRequest, trailers: list[tuple[bytes, bytes]]) -> None:
        headers = self.headers
        super().on_message_begin()
        self.url = b"/"  # uvicorn reads it in its own way; nobody looks at what it makes of it
        for name, value in headers:
            super().on_header(name, value)
        self.scope["extensions"] = {REQUEST: {"request": request, "trailers": trailers}}
        super().on_headers_complete()
        self._receiving, self._heard_s = self.cycle, self.loop.time()
        self._rate_since_s, self._rate_bytes = self._heard_s, 0

    def on_body(self, body: bytes) -> None:
        self._header_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._upgrade is Upgrade.WITH_BODY:
            return  # the parser leaves the body to another protocol; it is read after all
        self._between = True
        self._receiving = None
        self._header_bytes = 0
        if self.cycle is not ANSWERED:
            super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        scope = cycle.scope
        read: dict[Any, Any] = scope["extensions"][REQUEST]
        # It may have waited for its turn.
        request = replace(read["request"], begun_s=self.loop.time(), came_s=time.time())
        bridge = ResponseSender(self, cycle, request, read["trailers"])
        scope["extensions"] = {EXTENSION: bridge}  # type: ignore[dict-item]
        super()._start_asgi_task(cycle, app)

    def _keeps_alive(self) -> bool:
        return self.parser.get_http_version() != "1.0" and bool(self.parser.should_keep_alive())


_PEER_FAULTS = (httptools.HttpParserError, UnicodeDecodeError)


class _RefusedError(Exception):
    """Stops the parser: the connection's refusal is on its way, or waits for its turn."""
