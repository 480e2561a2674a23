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
from collections.abc import Callable
from typing import Any

from uvicorn.config import Config as UvicornConfig
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from streamedge.cache.open_version import Failure
from streamedge.delivery.outlet import Outlet
from streamedge.delivery.web.site import Opened, Site, WebRequest

HEADER_BYTES_MAX = 20_480  # CloudFront's limit on a request without its body
EXTENSION = "streamedge.answer"


class _LaneCycle:
    """What the parser's callbacks need of a request that never reaches the application."""

    __slots__ = ("disconnected", "keep_alive", "more_body", "on_response", "response_complete")

    def __init__(self, keep_alive: bool, on_response: Callable[[], None]) -> None:
        self.keep_alive = keep_alive
        self.on_response = on_response
        self.response_complete = False
        self.disconnected = False
        self.more_body = True

    @property
    def message_event(self) -> _LaneCycle:
        return self

    def set(self) -> None:
        """Nobody waits for the rest of a request without a body."""


class _Sending:
    """An answer on its way out."""

    __slots__ = ("begun_bytes", "cycle", "done", "opened", "request")

    def __init__(
        self,
        cycle: _LaneCycle | RequestResponseCycle,
        request: WebRequest,
        opened: Opened,
        begun_bytes: int,
        done: asyncio.Future[None] | None,
    ) -> None:
        self.cycle = cycle
        self.request = request
        self.opened = opened
        self.begun_bytes = begun_bytes
        self.done = done


class EdgeProtocol(HttpToolsProtocol):
    """One HTTP connection of a viewer."""

    def __init__(
        self,
        config: UvicornConfig,
        server_state: ServerState,
        loop: asyncio.AbstractEventLoop,
        site: Site,
        connections_max: int,
    ) -> None:
        super().__init__(config, server_state, {}, loop)
        self._site = site
        self._connections_max = connections_max
        self._outlet: Outlet = None  # type: ignore[assignment]  # from connection_made on
        self._sending: _Sending | None = None
        self._header_bytes = 0
        self._client = ""
        self.quiet_since_s = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # The outlet may only write when the transport has nothing left to.
        transport.set_write_buffer_limits(high=0)
        self._outlet = Outlet(transport, self.loop, self._drained, self._failed)
        self._client = f"{self.client[0]}:{self.client[1]}" if self.client else ""
        self.quiet_since_s = self.loop.time()
        if len(self.connections) > self._connections_max:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._finish("viewer left", complete=False)
        self._outlet.close()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._header_bytes += len(data)
        super().data_received(data)
        if self._header_bytes > HEADER_BYTES_MAX and not self.transport.is_closing():
            self._refuse(b"431 Request Header Fields Too Large")

    def send_400_response(self, msg: str) -> None:
        if self._sending is None:
            self._refuse(b"400 Bad Request")
        else:
            self.transport.abort()  # a response is under way: an error cannot be told any more

    def on_headers_complete(self) -> None:
        self._header_bytes = 0
        method = self.parser.get_method()
        if (
            method in {b"GET", b"HEAD"}
            and self.url.startswith(b"/")
            and (self.cycle is None or self.cycle.response_complete)
            and not self.transport.get_write_buffer_size()
        ):
            request = self._request(method.decode(), self.url, self.headers, self._keeps_alive())
            if request is not None and not _BODY_HEADERS & request.headers.keys():
                opened = self._site.fresh(request)
                if opened is not None:
                    cycle = _LaneCycle(request.keep_alive, self.on_response_complete)
                    self.cycle = cycle  # type: ignore[assignment]
                    self._send(cycle, request, opened, None)
                    return
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._header_bytes = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        # uvicorn arms a timer for each response here; quiet connections are swept instead.
        self.quiet_since_s = self.loop.time()
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)

    def sweep(self, now_s: float, idle_s: float, stall_s: float) -> None:
        """Drops the connection when it has been quiet, or its peer has taken nothing, too long."""
        if self.transport.is_closing():
            return
        blocked_since_s = self._outlet.blocked_since_s
        if blocked_since_s is not None:
            if now_s - blocked_since_s > stall_s:
                self._finish("viewer stalled", complete=False)
                self.transport.abort()
        elif (
            self.cycle is None or self.cycle.response_complete
        ) and now_s - self.quiet_since_s > idle_s:
            self.transport.close()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        async def answer(request: WebRequest, opened: Opened) -> None:
            await self._answer(cycle, request, opened)

        def request() -> WebRequest | None:
            scope = cycle.scope
            target = scope["raw_path"] or b"/"
            return self._request(scope["method"], target, scope["headers"], cycle.keep_alive)

        cycle.scope["extensions"] = {EXTENSION: {"answer": answer, "request": request}}
        super()._start_asgi_task(cycle, app)

    async def _answer(
        self, cycle: RequestResponseCycle, request: WebRequest, opened: Opened
    ) -> None:
        """Sends an application's answer; returns when it is out or the viewer has gone."""
        while self.transport.get_write_buffer_size() and not cycle.disconnected:
            await self.flow.drain()
        if cycle.disconnected:
            if opened.reader is not None:
                opened.reader.close()
            self._site.finished(
                request, opened, 0, self.loop.time() - request.begun_s, "viewer left"
            )
            return
        cycle.response_started = True
        done: asyncio.Future[None] = self.loop.create_future()
        self._send(cycle, request, opened, done)
        await done

    def _send(
        self,
        cycle: _LaneCycle | RequestResponseCycle,
        request: WebRequest,
        opened: Opened,
        done: asyncio.Future[None] | None,
    ) -> None:
        self._sending = _Sending(cycle, request, opened, self._outlet.sent_bytes, done)
        answer = opened.answer
        if opened.reader is not None and answer.span is not None:
            self._outlet.push(answer.head, (opened.reader, answer.span))
        else:
            self._outlet.push(answer.head, answer.body)

    def _drained(self) -> None:
        self._finish(None, complete=True)

    def _failed(self, cause: Failure | None) -> None:
        self._finish("viewer left" if cause is None else str(cause), complete=False)
        self.transport.abort()

    def _finish(self, cut: str | None, *, complete: bool) -> None:
        """Ends the answer under way, if there is one."""
        sending, self._sending = self._sending, None
        if sending is None:
            return
        if sending.opened.reader is not None:
            sending.opened.reader.close()
        sent_bytes = self._outlet.sent_bytes - sending.begun_bytes
        duration_s = self.loop.time() - sending.request.begun_s
        self._site.finished(sending.request, sending.opened, sent_bytes, duration_s, cut)
        cycle = sending.cycle
        if complete:
            cycle.response_complete = True
            cycle.message_event.set()
            if not cycle.keep_alive:
                self.transport.close()
            cycle.on_response()
        else:
            cycle.disconnected = True
        if sending.done is not None and not sending.done.done():
            sending.done.set_result(None)

    def _keeps_alive(self) -> bool:
        return self.parser.get_http_version() != "1.0" and bool(self.parser.should_keep_alive())

    def _request(
        self, method: str, target: bytes, fields: Any, keep_alive: bool
    ) -> WebRequest | None:
        """The parts of a request; None when its Host is missing, doubled or contradicted."""
        headers: dict[str, str] = {}
        for name, value in fields:
            spelled = name.decode("latin-1")
            if spelled in headers:
                if spelled == "host":
                    return None
                headers[spelled] += ", " + value.decode("latin-1")
            else:
                headers[spelled] = value.decode("latin-1")
        host = headers.get("host")
        if host is None:
            return None
        path = target.partition(b"?")[0]
        return WebRequest(method, host, path, headers, self._client, keep_alive, self.loop.time())

    def _refuse(self, status: bytes) -> None:
        """Answers what is not HTTP, or too much of it, and closes."""
        self.transport.write(
            b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        )
        self.transport.close()


_BODY_HEADERS = frozenset({"content-length", "transfer-encoding"})
