"""The HTTP server of a worker, on sockets that the supervisor has bound.

It accepts connections with and without TLS, closes idle and stalled ones periodically, and drains
on shutdown. The supervisor has the sockets, signals and processes.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from http import HTTPStatus

from streamedge.cache.storage.records import Provenance
from streamedge.callbacks import do_nothing
from streamedge.delivery.http.connections import Connections, ViewerConnection
from streamedge.delivery.http.handler import HttpHandler
from streamedge.delivery.http.http1.connection import Http1Connection
from streamedge.delivery.http.http1.encoding import encode_head
from streamedge.delivery.http.http2.connection import Http2Connection
from streamedge.delivery.http.http2.engine import Ended, ErrorCode
from streamedge.delivery.http.listeners import ServerListeners, TimeLimits
from streamedge.delivery.http.response.response import ResponseHead
from streamedge.delivery.http.seen_viewers import RunningResponse, SeenViewers
from streamedge.delivery.net.accept import Acceptor, AcceptRules, OnClose, Peer, Route
from streamedge.delivery.net.tls import TlsAcceptor, TlsConnection
from streamedge.delivery.viewers import ViewerRow
from streamedge.ops.log import Log
from streamedge.ops.metrics import Counter, Counts, Gauge
from streamedge.ops.rate_limited import RateLimitedEvent

TOO_MANY = encode_head(
    ResponseHead(HTTPStatus.TOO_MANY_REQUESTS, [("content-length", "0")]), closes=True
)


@dataclass(frozen=True, slots=True)
class WebServerStats:
    """Open connections and requests; ``requests`` are those that are in the handler."""

    listeners: int
    connections: int
    connections_by_address: Mapping[str, int]  # empty without a limit per address
    requests: int


class WebServer:
    """Serves an HttpHandler on listening sockets, from ``start`` to ``drain``."""

    def __init__(
        self,
        handler: HttpHandler,
        log: Log,
        counts: Counts,
        rules: AcceptRules,
        limits: TimeLimits,
        connections_max: int,
    ) -> None:
        self.handler = handler
        self._counts = counts
        self._failed_handshake = RateLimitedEvent(log, "tls_handshake_failed")
        self._failed_http2 = RateLimitedEvent(log, "http2_connection_ended")
        self._acceptor = Acceptor("http", rules, log, counts)
        self._connections_max = connections_max
        self._connections = Connections(connections_max)
        self._listeners = ServerListeners(self._acceptor, self._connections, limits)
        counts.gauges[Gauge.HTTP_CONNECTIONS] = 0

    async def start(
        self,
        listeners: Sequence[socket.socket],
        secure: Sequence[socket.socket] = (),
        context: ssl.SSLContext | None = None,
        proxied: Collection[socket.socket] = (),
    ) -> None:
        """Starts accepting; on the ``secure`` listeners with TLS by ``context``.

        On ``proxied`` listeners each connection begins with a PROXY header.
        """
        for listener in listeners:
            await self._listeners.listen(
                listener, self._serve, is_proxied=listener in proxied, reject_response=TOO_MANY
            )
        if context is not None:
            tls_acceptor = TlsAcceptor(
                context,
                self._serve_secure,
                self._listeners.handshakes,
                self._connections_max,
                self._handshake_failed,
            )
            connect = partial(TlsConnection, tls_acceptor, asyncio.get_running_loop())
            for listener in secure:
                await self._listeners.listen(listener, connect, is_proxied=listener in proxied)
        self._listeners.sweep(self._count_connections)

    def route(self, *, is_http2: bool) -> Route:
        """Where other listeners hand over connections that speak HTTP."""
        if is_http2:
            return Route(self._acceptor, self._serve_http2)
        return Route(self._acceptor, self._serve, TOO_MANY)

    def limit(self, limits: TimeLimits, per_address_max: int) -> None:
        """Sets the limits, for open connections too."""
        self._listeners.limits = limits
        self._acceptor.rules = replace(self._acceptor.rules, per_address_max=per_address_max)

    def _serve(self, peer: Peer, on_close: OnClose) -> Http1Connection:
        return Http1Connection(self.handler, self._connections, peer, on_close)

    def _serve_http2(self, peer: Peer, on_close: OnClose) -> Http2Connection:
        return Http2Connection(self.handler, self._connections, peer, on_close, self._http2_failed)

    def _serve_secure(self, peer: Peer, protocol: str | None) -> asyncio.Protocol:
        on_close = do_nothing  # the TLS connection around it is counted
        if protocol == "h2":
            return self._serve_http2(peer, on_close)
        return self._serve(peer, on_close)

    @property
    def connections(self) -> list[ViewerConnection]:
        """The open connections."""
        return list(self._connections.open)

    def stats(self) -> WebServerStats:
        """The connections and requests that are open now."""
        return WebServerStats(
            len(self._listeners),
            len(self._connections.open),
            self._acceptor.stats(),
            self._connections.requests,
        )

    def revoke(self, is_revoked: Callable[[Provenance], bool]) -> None:
        """Aborts the running responses that ``is_revoked`` matches."""
        for connection in self.connections:
            connection.revoke(is_revoked)

    def viewer_rows(self, now_s: float) -> list[ViewerRow]:
        """The HTTP viewers now; the first call begins to note them.

        Takes some milliseconds with thousands of connections. ``forget_viewers`` ends it.
        """
        return self._seen_viewers().rows(self._running(), now_s)

    def count_viewers(self, now_s: float) -> int:
        """The number of HTTP viewers now; as ``viewer_rows``."""
        return self._seen_viewers().count(self._running(), now_s)

    def _seen_viewers(self) -> SeenViewers:
        log = self.handler.response_log
        if log.viewers is None:
            log.viewers = SeenViewers()
        return log.viewers

    def _running(self) -> Iterator[RunningResponse]:
        return (response for one in self._connections.open for response in one.running())

    def take_skipped(self) -> int:
        """How many responses were not examined since the last call."""
        viewers = self.handler.response_log.viewers
        if viewers is None:
            return 0
        skipped, viewers.skipped = viewers.skipped, 0
        return skipped

    def forget_viewers(self) -> None:
        """Ends noting viewers."""
        self.handler.response_log.viewers = None

    def end_viewer(self, identifier: str) -> int:
        """Ends the responses and connections of a viewer; returns of how many connections."""
        viewers = self.handler.response_log.viewers
        match = None if viewers is None else viewers.find(identifier)
        if match is None:
            return 0
        return sum(one.end_viewer(*match) for one in self.connections)

    @property
    def is_busy(self) -> bool:
        """Whether a connection is open or being accepted."""
        return self._listeners.is_busy

    def retire(self) -> None:
        """Lets another process accept; connections here end behind their next response."""
        self._listeners.retire()

    async def drain(self, timeout_s: float) -> None:
        """Stops accepting, waits ``timeout_s`` for responses, then aborts the rest."""
        await self._listeners.drain(timeout_s)

    def _count_connections(self) -> None:
        self._counts.gauges[Gauge.HTTP_CONNECTIONS] = len(self._connections.open)

    def _handshake_failed(self, client: str, reason: str) -> None:
        """Counts a failure, and logs it at a limited rate, because any client can cause it."""
        self._counts.add(Counter.ERRORS, "tls_handshake")
        now_s = asyncio.get_running_loop().time()
        self._failed_handshake.emit(now_s, client=client, reason=reason)

    def _http2_failed(self, client: str, ended: Ended) -> None:
        """Counts a connection that broke HTTP/2 or exceeded a limit, and logs it likewise."""
        is_limit = ended.code == ErrorCode.ENHANCE_YOUR_CALM
        self._counts.add(Counter.ERRORS, "http2_limit" if is_limit else "http2_protocol")
        now_s = asyncio.get_running_loop().time()
        self._failed_http2.emit(now_s, client=client, reason=ended.reason)
