"""The application's access to a viewer's connection, for one request.

It sends responses whose body comes in parts, and interim (1xx) responses. The connection itself
sends complete responses (``response_side``).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Protocol

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from streamedge.delivery.http.connection.response_side import ResponseInFlight
from streamedge.delivery.http.connection.viewer_stream import ViewerDuplex
from streamedge.delivery.http.request.request import WebRequest
from streamedge.delivery.http.response.build import Response
from streamedge.delivery.http.response.framing import Parts
from streamedge.delivery.http.response.response import bare_head, with_connection_close
from streamedge.delivery.net.sender import Sender
from streamedge.errors import CacheFullError, OriginError
from streamedge.origin import Fields


class ResponseConnection(Protocol):
    """The part of a connection that a ResponseSender uses."""

    transport: asyncio.Transport
    flow: FlowControl
    sender: Sender
    sending: ResponseInFlight | None
    tunnel: ViewerDuplex | None

    async def wait_writable(
        self, cycle: RequestResponseCycle, request: WebRequest, response: Response
    ) -> bool: ...

    async def send_answer(
        self, cycle: RequestResponseCycle, request: WebRequest, response: Response
    ) -> None: ...

    def begin_sending(
        self,
        cycle: RequestResponseCycle,
        request: WebRequest,
        response: Response,
        done: asyncio.Future[None] | None,
        *,
        is_stream: bool = False,
    ) -> ResponseInFlight: ...

    def finish(self, cut: str | None, *, complete: bool) -> None: ...

    def take_unparsed(self) -> bytes: ...


class ResponseSender:
    """Sends the application's response over the connection of its request."""

    def __init__(
        self,
        connection: ResponseConnection,
        cycle: RequestResponseCycle,
        request: WebRequest,
        trailers: Sequence[tuple[bytes, bytes]],
    ) -> None:
        self._connection = connection
        self._cycle = cycle
        self._closes = False
        self._trailers = trailers
        self.request = request

    def trailers(self) -> Fields:
        """The request's trailer fields; complete when its body has ended."""
        return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in self._trailers]

    def close_afterwards(self) -> None:
        """Closes the connection after the next response."""
        self._closes = True
        self._cycle.keep_alive = False

    async def answer(self, response: Response) -> None:
        """Sends a response; returns when it is sent or the viewer has left."""
        connection, cycle = self._connection, self._cycle
        if self._closes:
            response = response._replace(message=with_connection_close(response.message))
        if response.parts is None:
            if await connection.wait_writable(cycle, self.request, response):
                await connection.send_answer(cycle, self.request, response)
            return
        async with aclosing(response.parts) as parts:
            if await connection.wait_writable(cycle, self.request, response):
                await self._stream(response, parts)

    def interim(self, status: int, fields: Fields) -> None:
        """Sends a 1xx response, unless the final one has begun (RFC 9110 §15.2)."""
        connection = self._connection
        if (
            self._cycle.scope["http_version"] == "1.1"
            and not self._cycle.response_started
            and connection.sending is None
            and not connection.transport.is_closing()
        ):
            connection.transport.write(bare_head(status, fields))

    def open_tunnel(self, fields: Fields) -> ViewerDuplex:
        """Sends 101; from now on the viewer's bytes go through the tunnel."""
        connection = self._connection
        self.interim(101, fields)
        connection.tunnel = ViewerDuplex(connection.transport, connection.flow)
        early = connection.take_unparsed()
        if early:
            connection.tunnel.received(early)
        connection.flow.resume_reading()
        return connection.tunnel

    async def _stream(self, response: Response, parts: AsyncGenerator[Parts, None]) -> None:
        """Sends parts, each when the previous one has been sent.

        An exception in them closes the connection, so that the viewer detects the error. When the
        viewer leaves, they are cancelled.
        """
        connection = self._connection
        sending = connection.begin_sending(
            self._cycle, self.request, response, None, is_stream=True
        )
        push = self._push(sending, response.message.head, parts)
        sending.pushing = asyncio.create_task(push, name="stream")
        await asyncio.wait((sending.pushing,))
        if sending.pushing.cancelled():
            return
        failure = sending.pushing.exception()
        if failure is None:
            connection.finish(None, complete=True)
            return
        connection.finish(str(failure), complete=False)
        connection.transport.abort()
        if not isinstance(failure, OriginError | CacheFullError):
            raise failure

    async def _push(
        self, sending: ResponseInFlight, head: bytes, parts: AsyncGenerator[Parts, None]
    ) -> None:
        sender = self._connection.sender
        sender.push(head)
        async for part in parts:
            sender.push(*part)
            await self._until_out(sending)
        await self._until_out(sending)

    async def _until_out(self, sending: ResponseInFlight) -> None:
        while not self._connection.sender.idle:
            sending.done = asyncio.get_running_loop().create_future()
            await sending.done
