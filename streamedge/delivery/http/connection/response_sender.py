"""What the application may do with a viewer's connection, for one request of it.

Owns the sending of answers whose body comes part by part, and the passing on of what is no final
answer. A whole answer's bytes are the connection's own business (``protocol``).
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
from streamedge.delivery.http.response.response import bare_head, closing
from streamedge.delivery.net.sender import Sender
from streamedge.errors import CacheFullError, OriginError
from streamedge.origin import Fields


class ResponseConnection(Protocol):
    """The connection, as far as a bridge needs it."""

    transport: asyncio.Transport
    flow: FlowControl
    sender: Sender
    sending: ResponseInFlight | None
    tunnel: ViewerDuplex | None

    async def wait_writable(
        self, cycle: RequestResponseCycle, request: WebRequest, opened: Response
    ) -> bool: ...

    async def send_answer(
        self, cycle: RequestResponseCycle, request: WebRequest, opened: Response
    ) -> None: ...

    def begin_sending(
        self,
        cycle: RequestResponseCycle,
        request: WebRequest,
        opened: Response,
        done: asyncio.Future[None] | None,
        *,
        is_stream: bool = False,
    ) -> ResponseInFlight: ...

    def finish(self, cut: str | None, *, complete: bool) -> None: ...

    def take_unparsed(self) -> bytes: ...


class ResponseSender:
    """Between the application and the connection that its request came over."""

    def __init__(
        self,
        line: ResponseConnection,
        cycle: RequestResponseCycle,
        request: WebRequest,
        trailers: Sequence[tuple[bytes, bytes]],
    ) -> None:
        self._line = line
        self._cycle = cycle
        self._closes = False
        self._trailers = trailers
        self.request = request

    def trailers(self) -> Fields:
        """What came behind the request's body; known at its end."""
        return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in self._trailers]

    def close_afterwards(self) -> None:
        """Makes the answer to come the connection's last."""
        self._closes = True
        self._cycle.keep_alive = False

    async def answer(self, opened: Response) -> None:
        """Sends an answer; returns when it is out or the viewer has gone."""
        line, cycle = self._line, self._cycle
        if self._closes:
            opened = opened._replace(answer=closing(opened.answer))
        if opened.parts is None:
            if await line.wait_writable(cycle, self.request, opened):
                await line.send_answer(cycle, self.request, opened)
            return
        async with aclosing(opened.parts) as parts:
            if await line.wait_writable(cycle, self.request, opened):
                await self._stream(opened, parts)

    def interim(self, status: int, fields: Fields) -> None:
        """Passes a 1xx answer on, if nothing of the final one is out yet (RFC 9110 §15.2)."""
        line = self._line
        if (
            self._cycle.scope["http_version"] == "1.1"
            and not self._cycle.response_started
            and line.sending is None
            and not line.transport.is_closing()
        ):
            line.transport.write(bare_head(status, fields))

    def open_tunnel(self, fields: Fields) -> ViewerDuplex:
        """Says 101; from now on what the viewer sends goes through the tunnel."""
        line = self._line
        self.interim(101, fields)
        line.tunnel = ViewerDuplex(line.transport, line.flow)
        early = line.take_unparsed()
        if early:
            line.tunnel.received(early)
        line.flow.resume_reading()
        return line.tunnel

    async def _stream(self, opened: Response, parts: AsyncGenerator[Parts, None]) -> None:
        """Sends parts, each once the one before is out.

        What they raise cuts the connection, so that the viewer learns of it; a viewer who leaves
        ends them wherever they are.
        """
        line = self._line
        sending = line.begin_sending(self._cycle, self.request, opened, None, is_stream=True)
        push = self._push(sending, opened.answer.head, parts)
        sending.pushing = asyncio.create_task(push, name="stream")
        await asyncio.wait((sending.pushing,))
        if sending.pushing.cancelled():
            return
        failure = sending.pushing.exception()
        if failure is None:
            line.finish(None, complete=True)
            return
        line.finish(str(failure), complete=False)
        line.transport.abort()
        if not isinstance(failure, OriginError | CacheFullError):
            raise failure

    async def _push(
        self, sending: ResponseInFlight, head: bytes, parts: AsyncGenerator[Parts, None]
    ) -> None:
        sender = self._line.sender
        sender.push(head)
        async for part in parts:
            sender.push(*part)
            await self._until_out(sending)
        await self._until_out(sending)

    async def _until_out(self, sending: ResponseInFlight) -> None:
        while not self._line.sender.idle:
            sending.done = asyncio.get_running_loop().create_future()
            await sending.done
