"""A viewer's connection as answers leave it: one at a time, in order, and to their end.

Owns the outlet, the answer under way, and when a connection is over: its peer left, stalled, was
quiet too long or did not speak HTTP. What is asked, and what the answer is, others find out
(``protocol``, ``bridge``). While an answer is being sent nothing else writes to the socket.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from http import HTTPStatus
from typing import Any

from uvicorn.config import Config as UvicornConfig
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from streamedge.access.client_address import IpNetwork, is_trusted
from streamedge.cache.open_object import Failure
from streamedge.cache.reader import Reader
from streamedge.cache.storage.records import Provenance
from streamedge.delivery.http.connection.viewer_stream import ViewerDuplex
from streamedge.delivery.http.handler import HttpHandler
from streamedge.delivery.http.request.request import WebRequest
from streamedge.delivery.http.response.build import Response
from streamedge.delivery.http.response.response import bare_head
from streamedge.delivery.net.accept import Peer
from streamedge.delivery.net.sender import Sender
from streamedge.delivery.net.tls import TlsConnection
from streamedge.spans import Span


class ResponseSide(HttpToolsProtocol):
    """uvicorn's connection, but that answers leave through an outlet."""

    def __init__(
        self,
        config: UvicornConfig,
        server_state: ServerState,
        loop: asyncio.AbstractEventLoop,
        site: HttpHandler,
        connections_max: int,
        on_close: Callable[[], None],
        peer: Peer,
    ) -> None:
        super().__init__(config, server_state, {}, loop)
        self.peer = peer
        self._site = site
        self._connections_max = connections_max
        self._on_close = on_close
        self.sender: Sender = None  # type: ignore[assignment]  # from connection_made on
        self.sending: ResponseInFlight | None = None
        self.tunnel: ViewerDuplex | None = None
        self._refused: HTTPStatus | None = None
        self._receiving: RequestResponseCycle | None = None  # whose request has not ended yet
        self._received_s = 0.0  # when something of it came last
        self._rate_since_s = 0.0  # from when on its body's rate is measured,
        self._rate_bytes = 0  # and what has come since
        self._client = str(peer)
        self.secure = False  # whether the connection is one over TLS
        self.proxies: Sequence[IpNetwork] = ()  # behind a trusted proxy: all that are trusted
        self._serves: Callable[[str], bool] | None = None  # a host; None: any
        self.quiet_since_s = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # The outlet may only write when the transport has nothing left to.
        transport.set_write_buffer_limits(high=0)
        self.sender = Sender(transport, self.loop, self._drained, self._failed)
        self.secure = isinstance(transport, TlsConnection)
        self.client = self.peer  # uvicorn has looked at the socket, and so at the nearest proxy
        if is_trusted(self.peer.address, self._site.proxies):
            self.proxies = self._site.proxies
        elif isinstance(transport, TlsConnection):
            self._serves = transport.serves  # a proxy we trust has its own reasons (§7.4)
        self.quiet_since_s = self.loop.time()
        if len(self.connections) > self._connections_max:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.finish("viewer left", complete=False)
        if self.tunnel is not None:
            self.tunnel.received(b"")
        self.sender.close()
        super().connection_lost(exc)
        self._on_close()

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

    def sweep(self, now_s: float, idle_s: float, stall_s: float, body_rate: int = 0) -> None:
        """Drops the connection when it has been quiet, or its peer has taken nothing, too long.

        Also when its request's body has come with less than ``body_rate`` bytes a second for
        ``stall_s``: a byte now and then would hold an origin's connection for ever.
        """
        if self.transport.is_closing():
            return
        blocked_since_s = self.sender.blocked_since_s
        if blocked_since_s is not None:
            if now_s - blocked_since_s > stall_s:
                self.finish("viewer stalled", complete=False)
                self.transport.abort()
        elif self._is_over:
            if now_s - self.quiet_since_s > idle_s:
                self.transport.close()
        elif self._owes_body:
            if now_s - self._received_s > stall_s:
                self.transport.abort()
            elif now_s - self._rate_since_s > stall_s:
                if self._rate_bytes < body_rate * (now_s - self._rate_since_s):
                    self.transport.abort()
                self._rate_since_s, self._rate_bytes = now_s, 0
        elif self.flow.read_paused:
            self._received_s = self._rate_since_s = now_s
            self._rate_bytes = 0

    def revoke(self, is_revoked: Callable[[Provenance], bool]) -> None:
        """Cuts the answer under way if it is one of what has been revoked.

        Before its Content-Length or last chunk, so that the viewer can tell (RFC 9112 §8).
        """
        sending = self.sending
        if sending is None or sending.provenance is None or not is_revoked(sending.provenance()):
            return
        self.finish("revoked", complete=False)
        self.transport.abort()

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

    async def send_answer(
        self, cycle: RequestResponseCycle, request: WebRequest, opened: Response
    ) -> None:
        """Sends an answer of known length; returns when it is out or the viewer has gone."""
        done: asyncio.Future[None] = self.loop.create_future()
        self.begin_sending(cycle, request, opened, done)
        answer, reader = opened.answer, opened.reader
        if reader is None:
            self.sender.push(answer.head, answer.body)
        elif answer.span is not None:
            self.sender.push(answer.head, (reader, answer.span))
        else:
            parts = [(reader, part) if isinstance(part, Span) else part for part in answer.parts]
            self.sender.push(answer.head, *parts)
        await done

    async def wait_writable(
        self, cycle: RequestResponseCycle, request: WebRequest, opened: Response
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
        opened: Response,
        done: asyncio.Future[None] | None,
        *,
        is_stream: bool = False,
    ) -> ResponseInFlight:
        """Notes an answer that is about to be pushed; ``finish`` ends it."""
        self.sending = ResponseInFlight(
            cycle,
            opened.reader,
            partial(self._site.finished, request, opened),
            begun_s=request.begun_s,
            begun_bytes=self.sender.sent_bytes,
            done=done,
            is_stream=is_stream,
            provenance=opened.provenance,
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
        sent_bytes = self.sender.sent_bytes - sending.begun_bytes
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
        with contextlib.suppress(OSError):  # the peer has gone: the loop is about to say so
            self.transport.write_eof()
        self.flow.resume_reading()
        self.quiet_since_s = self.loop.time()
        self._site.refused_connection(self._client, status)


Finished = Callable[[int, float, str | None], None]
"""Leaves a response's line and numbers: bytes sent, seconds taken, and what cut it off."""


class FastPathCycle:
    """What the parser's callbacks need of a request that never reaches the application."""

    __slots__ = ("disconnected", "keep_alive", "more_body", "on_response", "response_complete")

    def __init__(self, on_response: Callable[[], None], *, response_complete: bool = False) -> None:
        self.keep_alive = True
        self.on_response = on_response
        self.response_complete = response_complete
        self.disconnected = False
        self.more_body = True

    @property
    def message_event(self) -> FastPathCycle:
        return self

    def set(self) -> None:
        """Nobody waits for the rest of a request without a body."""


class ResponseInFlight:
    """An answer on its way out: begun at ``begun_s`` of the loop's clock, ``begun_bytes`` into the
    connection's."""

    __slots__ = (
        "begun_bytes",
        "begun_s",
        "cycle",
        "done",
        "finished",
        "is_stream",
        "provenance",
        "pushing",
        "reader",
    )

    def __init__(
        self,
        cycle: FastPathCycle | RequestResponseCycle,
        reader: Reader | None,
        finished: Finished,
        *,
        begun_s: float,
        begun_bytes: int,
        done: asyncio.Future[None] | None = None,
        is_stream: bool = False,
        provenance: Callable[[], Provenance] | None = None,
    ) -> None:
        self.cycle = cycle
        self.reader = reader
        self.finished = finished
        self.begun_s = begun_s
        self.begun_bytes = begun_bytes
        self.done = done  # once it is out; of a stream, once what was pushed so far is
        self.is_stream = is_stream
        self.provenance = provenance  # None: no invalidation is about it
        self.pushing: asyncio.Task[None] | None = None  # what sends a stream


# Stands for every request that the lane has answered from within its own callback.
ANSWERED: Any = FastPathCycle(lambda: None, response_complete=True)
