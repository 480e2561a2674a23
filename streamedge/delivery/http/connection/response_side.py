"""The response side of a viewer's HTTP connection: sends responses one at a time and in order.

It holds the sender and the response in flight, and decides when the connection ends: its peer left,
stalled, was idle too long or did not speak HTTP. ``request_side`` parses requests, the application
builds responses. While a response is sent, nothing else writes to the socket.
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
    """uvicorn's connection, with responses sent by a ``Sender``."""

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
        self._receiving: RequestResponseCycle | None = None  # whose request has not ended
        self._received_s = 0.0  # when its last bytes came
        self._rate_since_s = 0.0  # since when its body's rate is measured,
        self._rate_bytes = 0  # and the bytes received since then
        self._client = str(peer)
        self.secure = False  # whether the connection uses TLS
        self.proxies: Sequence[IpNetwork] = ()  # all trusted proxies, if the peer is one
        self._serves: Callable[[str], bool] | None = None  # whether TLS covers a host
        self.quiet_since_s = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # The sender may write only when the transport's own buffer is empty.
        transport.set_write_buffer_limits(high=0)
        self.sender = Sender(transport, self.loop, self._drained, self._failed)
        self.secure = isinstance(transport, TlsConnection)
        self.client = self.peer  # uvicorn has set it to the nearest proxy's address
        if is_trusted(self.peer.address, self._site.proxies):
            self.proxies = self._site.proxies
        elif isinstance(transport, TlsConnection):
            self._serves = transport.serves  # a trusted proxy may reuse connections (RFC 9110 §7.4)
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
        # uvicorn starts a timer for each response here; a sweep closes idle connections instead.
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
            # Not earlier: requests of a peer that does not read would be queued without limit.
            self.flow.resume_reading()

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
        """Aborts the response in flight if it has been revoked.

        Before its Content-Length or last chunk, so that the viewer can tell (RFC 9112 §8).
        """
        sending = self.sending
        if sending is None or sending.provenance is None or not is_revoked(sending.provenance()):
            return
        self.finish("revoked", complete=False)
        self.transport.abort()

    @property
    def _is_over(self) -> bool:
        """Whether no request and no response is in flight."""
        cycle = self.cycle
        return cycle is None or cycle.response_complete or cycle.disconnected

    @property
    def _owes_body(self) -> bool:
        """Whether the connection only waits for the rest of a request."""
        cycle = self._receiving
        return (
            cycle is not None
            and not cycle.response_started
            and not cycle.waiting_for_100_continue
            and not self.flow.read_paused
        )

    async def send_answer(
        self, cycle: RequestResponseCycle, request: WebRequest, response: Response
    ) -> None:
        """Sends a response of known length; returns when it is sent or the viewer has left."""
        done: asyncio.Future[None] = self.loop.create_future()
        self.begin_sending(cycle, request, response, done)
        message, reader = response.message, response.reader
        if reader is None:
            self.sender.push(message.head, message.body)
        elif message.span is not None:
            self.sender.push(message.head, (reader, message.span))
        else:
            parts = [(reader, part) if isinstance(part, Span) else part for part in message.parts]
            self.sender.push(message.head, *parts)
        await done

    async def wait_writable(
        self, cycle: RequestResponseCycle, request: WebRequest, response: Response
    ) -> bool:
        """Waits until the transport's buffer is empty; False if the viewer has left."""
        while self.transport.get_write_buffer_size() and not cycle.disconnected:
            await self.flow.drain()
        if cycle.disconnected:
            if response.reader is not None:
                response.reader.close()
            self._site.finished(
                request, response, 0, self.loop.time() - request.started_s, "viewer left"
            )
            return False
        cycle.response_started = True
        return True

    def begin_sending(
        self,
        cycle: RequestResponseCycle,
        request: WebRequest,
        response: Response,
        done: asyncio.Future[None] | None,
        *,
        is_stream: bool = False,
    ) -> ResponseInFlight:
        """Registers a response before it is pushed; ``finish`` ends it."""
        self.sending = ResponseInFlight(
            cycle,
            response.reader,
            partial(self._site.finished, request, response),
            started_s=request.started_s,
            begun_bytes=self.sender.sent_bytes,
            done=done,
            is_stream=is_stream,
            provenance=response.provenance,
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
        """Ends the response in flight, if there is one."""
        sending, self.sending = self.sending, None
        if sending is None:
            return
        if sending.reader is not None:
            sending.reader.close()
        sent_bytes = self.sender.sent_bytes - sending.begun_bytes
        sending.finished(sent_bytes, self.loop.time() - sending.started_s, cut)
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
        """Stops parsing after an error; sends the response when earlier ones are complete."""
        if self._refused is not None:
            return
        self._refused = status
        receiving, self._receiving = self._receiving, None
        if receiving is not None:
            self._abort_request(receiving, status)
        elif self.cycle is None or self.cycle.response_complete:
            self._send_refusal(status)

    def _abort_request(self, cycle: RequestResponseCycle, status: HTTPStatus) -> None:
        """Aborts a request in its body, so that no origin takes it for complete."""
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
        # If we closed now, bytes that the peer still sends would make the kernel reset the
        # connection, and the peer would lose the response (RFC 9112 §9.6). The sweep closes it.
        with contextlib.suppress(OSError):  # the peer has left; the loop reports it next
            self.transport.write_eof()
        self.flow.resume_reading()
        self.quiet_since_s = self.loop.time()
        self._site.refused_connection(self._client, status)


Finished = Callable[[int, float, str | None], None]
"""Logs and counts a response: bytes sent, seconds taken, and why it was cut off."""


class FastPathCycle:
    """The part of a uvicorn cycle that the parser's callbacks need on the fast path."""

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
        """Does nothing: no task waits for the body."""


class ResponseInFlight:
    """A response in flight, started at ``started_s`` (loop clock), when the connection had sent
    ``begun_bytes``."""

    __slots__ = (
        "begun_bytes",
        "cycle",
        "done",
        "finished",
        "is_stream",
        "provenance",
        "pushing",
        "reader",
        "started_s",
    )

    def __init__(
        self,
        cycle: FastPathCycle | RequestResponseCycle,
        reader: Reader | None,
        finished: Finished,
        *,
        started_s: float,
        begun_bytes: int,
        done: asyncio.Future[None] | None = None,
        is_stream: bool = False,
        provenance: Callable[[], Provenance] | None = None,
    ) -> None:
        self.cycle = cycle
        self.reader = reader
        self.finished = finished
        self.started_s = started_s
        self.begun_bytes = begun_bytes
        self.done = done  # set when all pushed bytes are sent
        self.is_stream = is_stream
        self.provenance = provenance  # None: no invalidation applies
        self.pushing: asyncio.Task[None] | None = None  # the task that sends a stream


# Shared by all requests that were answered within the parser's callback.
ANSWERED: Any = FastPathCycle(lambda: None, response_complete=True)
