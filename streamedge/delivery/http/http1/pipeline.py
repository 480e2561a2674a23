"""The requests of an HTTP/1.1 connection from the parser's head to the responder.

They are handled one at a time, in order. A request is passed through, or handled in a task of its
own; the responses to bytes that are no HTTP take their place among the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from typing import Protocol

from streamedge.cache.lookup.pass_through import RunningPass
from streamedge.cache.reader import CacheResult
from streamedge.delivery.http.connections import Connections
from streamedge.delivery.http.forwarding import Upgraded
from streamedge.delivery.http.http1.encoding import encode_head
from streamedge.delivery.http.http1.exchange import Http1Exchange
from streamedge.delivery.http.http1.responder import Responder
from streamedge.delivery.http.http1.states import ExchangeState
from streamedge.delivery.http.http1.tunnel import ViewerDuplex, run_tunnel
from streamedge.delivery.http.read_control import ReadControl
from streamedge.delivery.http.request.dispatch import Dispatched
from streamedge.delivery.http.request.request import WebRequest
from streamedge.delivery.http.request_handler import RequestHandler
from streamedge.delivery.http.response.build import Response
from streamedge.delivery.http.response.cloudfront_log import VIEWER_LEFT
from streamedge.delivery.http.response.response import (
    ResponseHead,
    ResponseMessage,
    refusal_body,
    refusal_head,
)
from streamedge.delivery.http.viewer import Viewer


class PipelineConnection(Protocol):
    """The connection, as its pipeline sees it."""

    client: str
    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport

    @property
    def ends_behind_next(self) -> bool:
        """Whether the connection ends behind the next response."""
        ...

    @property
    def may_switch_protocols(self) -> bool:
        """Whether the viewer still waits for another protocol."""
        ...

    def begin_tunnel(self) -> ViewerDuplex:
        """From now on the viewer's bytes are those of another protocol."""
        ...

    def became_quiet(self) -> None: ...

    def abort_with(self, cause: Exception) -> None: ...


class Pipeline:
    """The requests that wait or are handled. ``queue``: those behind the current one."""

    __slots__ = (
        "_connection",
        "_connections",
        "_control",
        "_handler",
        "_loop",
        "_queue",
        "_refusal",
        "_responder",
        "_transport",
        "_viewer",
    )

    def __init__(
        self,
        connection: PipelineConnection,
        handler: RequestHandler,
        connections: Connections,
        responder: Responder,
        control: ReadControl,
        viewer: Viewer,
        queue: list[Http1Exchange],
    ) -> None:
        self._connection = connection
        self._loop = connection.loop
        self._transport = connection.transport
        self._handler = handler
        self._connections = connections
        self._responder = responder
        self._control = control
        self._viewer = viewer
        self._queue = queue
        self._refusal: HTTPStatus | None = None  # of the input, sent behind the due responses

    def begin(self, exchange: Http1Exchange) -> None:
        """Handles an exchange now, or behind the responses that are due before it."""
        responder = self._responder
        if responder.current is not None or responder.in_flight is not None:
            self._control.pause()
            self._queue.append(exchange)
        else:
            self._handle(exchange)

    def _handle(self, exchange: Http1Exchange) -> None:
        self._responder.current = exchange
        exchange.become(ExchangeState.HANDLING)
        running = self._handler.begin_pass(exchange)
        if running is None:
            self._connections.start(self._run(exchange), "request")
        else:
            self._connections.passing += 1
            running.when_answered(partial(self._pass_answered, exchange, running))

    def _pass_answered(self, exchange: Http1Exchange, running: RunningPass) -> None:
        """Sends the origin's response if it is complete; else a task waits for the rest of it."""
        self._connections.passing -= 1
        try:
            response = self._handler.pass_at_once(exchange, running)
            if response is None:
                self._connections.start(self._run(exchange, running), "request")
            elif response.stream is not None or exchange.state is ExchangeState.CUT:
                self._connections.start(self._deliver(exchange, response), "request")
            else:
                closes = not exchange.keep_alive or self._connection.ends_behind_next
                self._responder.send_whole(exchange, response, closes=closes)
        except Exception as cause:  # noqa: BLE001 - the caller is the origin's connection
            self._connection.abort_with(cause)

    async def _run(self, exchange: Http1Exchange, running: RunningPass | None = None) -> None:
        """Calls the handler for an exchange, and sends the response."""
        try:
            if running is None:
                response = await self._handler.respond(exchange)
            else:
                response = await self._handler.finish_pass(exchange, running)
        except asyncio.CancelledError:
            raise  # the edge is stopping and has closed the connection
        except BaseException:
            self._send_failure(exchange)
            raise
        await self._deliver(exchange, response)

    async def _deliver(self, exchange: Http1Exchange, response: Response | Upgraded) -> None:
        """Sends the handler's response, or closes it if it is of no use any more."""
        if exchange.has_unread_body and "expect" in exchange.request.headers:
            exchange.keep_alive = False  # the viewer may or may not send the body now
        if isinstance(response, Upgraded):
            await self._switch_protocols(exchange, response)
        elif exchange.is_refused:
            await response.close()  # its error response is sent and logged
        elif exchange.state is ExchangeState.CUT:
            await response.close()
            duration_s = self._loop.time() - exchange.request.started_s
            self._handler.finished(
                exchange.request, response, self._viewer, duration_s, 0, duration_s, VIEWER_LEFT
            )
        else:
            closes = not exchange.keep_alive or self._connection.ends_behind_next
            await self._responder.send(exchange, response, closes=closes)

    async def _switch_protocols(self, exchange: Http1Exchange, upgraded: Upgraded) -> None:
        """Sends the 101, and then the bytes of both sides until one ends."""
        early, origin = upgraded.response.upgrade()
        if exchange.state is ExchangeState.CUT or not self._connection.may_switch_protocols:
            origin.close()
            self._transport.abort()
            return
        outcome, request_id = exchange.outcome, exchange.request.request_id
        fields = [*upgraded.fields]
        if request_id:
            fields.append(("x-amz-cf-id", request_id))
        head = ResponseHead(HTTPStatus.SWITCHING_PROTOCOLS, fields)
        distribution = outcome.route.distribution.id if isinstance(outcome, Dispatched) else None
        exchange.interim(head.status, fields)
        response = Response(ResponseMessage(head), None, CacheResult.MISS, distribution)
        self._responder.begin_tunnel(exchange, response)
        viewer = self._connection.begin_tunnel()
        self._control.release()
        self._control.resume()
        await run_tunnel(viewer, origin, early)

    def begin_next(self) -> bool:
        """Handles the next request of the queue, or sends the refusal that ends the connection.

        Returns whether there was one.
        """
        if self._queue:
            exchange = self._queue.pop(0)
            if exchange.is_refused and self._refusal is not None:
                self._send_refusal(self._refusal, exchange.request)
            else:
                # It may have waited for earlier responses.
                exchange.request = replace(
                    exchange.request, started_s=self._loop.time(), received_at_s=time.time()
                )
                self._handle(exchange)
        elif self._refusal is not None:
            self._send_refusal(self._refusal)
        else:
            return False
        return True

    def cut(self) -> None:
        """The connection is lost: nothing more is sent or read."""
        for exchange in (self._responder.current, *self._queue):
            if exchange is not None:
                exchange.cut()

    # Refusals

    def refuse(self, status: HTTPStatus, exchange: Http1Exchange | None) -> None:
        """Sends an error response, and nothing more, once earlier responses are complete.

        ``exchange``: the one in whose body the error is.
        """
        self._refusal = status
        if exchange is not None and not exchange.is_over:
            self._abort_request(exchange, status)
        elif not self._responder.is_busy:
            self._send_refusal(status)

    def _abort_request(self, exchange: Http1Exchange, status: HTTPStatus) -> None:
        """Aborts a request in its body, so that no origin takes it for complete."""
        if exchange.state is ExchangeState.SENDING:
            self._responder.abort(status.phrase)
            return
        exchange.refuse()
        if self._responder.current is exchange:  # otherwise ``begin_next`` sends the refusal
            self._responder.current = None
            self._send_refusal(status, exchange.request)

    def _send_refusal(self, status: HTTPStatus, request: WebRequest | None = None) -> None:
        if self._transport.is_closing():
            return
        request_id = self._handler.new_request_id().decode()
        is_head = request is not None and request.method == "HEAD"
        body = b"" if is_head else refusal_body(status)
        head = refusal_head(status, len(body), time.time())
        head_text = encode_head(head, closes=True, request_id=request_id)
        self._responder.send_interim(head_text + body)
        # If we closed now, bytes that the peer still sends would make the kernel reset the
        # connection, and the peer would lose the response (RFC 9112 §9.6). The sweep closes it.
        with contextlib.suppress(OSError):  # the peer has left; the loop reports it next
            self._transport.write_eof()
        self._control.resume()
        self._connection.became_quiet()
        self._handler.refused_connection(
            self._connection.client, status, request, request_id, len(body)
        )

    def _send_failure(self, exchange: Http1Exchange) -> None:
        """Answers 500 to a request that a defect of ours prevents from being answered."""
        if exchange.state is not ExchangeState.HANDLING or self._transport.is_closing():
            self._transport.abort()
            return
        exchange.cut()
        self._responder.current = None
        self._send_refusal(HTTPStatus.INTERNAL_SERVER_ERROR)
