"""The RTMP listeners of a worker: accepts clients, drops stalled ones, drains."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from streamedge.access.client_address import IpNetwork
from streamedge.cache.storage.records import Provenance
from streamedge.delivery.net.accept import Acceptor, AcceptRules, OnClose, Peer, Route
from streamedge.delivery.net.listening import ListeningSockets
from streamedge.delivery.rtmp.context import RtmpLimits, ServerContext, Session
from streamedge.delivery.rtmp.rtmpe.connection import Encryption
from streamedge.delivery.rtmp.session import RtmpSession
from streamedge.delivery.rtmp.streams import StreamResolver
from streamedge.delivery.rtmp.tunnel.peers import TunnelPeers
from streamedge.delivery.rtmp.tunnel.server import TunnelServer
from streamedge.delivery.traffic import WELCOME, Traffic
from streamedge.delivery.viewers import ViewerRow
from streamedge.logs.stream_log import StreamLog
from streamedge.ops.log import Log
from streamedge.ops.metrics import Counts, Gauge

SWEEP_INTERVAL_S = 1.0
CLOSE_TIMEOUT_S = 1.0  # to send clients a last status


class RtmpServer:
    """Serves streams on listening sockets, from ``start`` to ``drain``."""

    def __init__(
        self,
        streams: StreamResolver,
        limits: RtmpLimits,
        log: Log,
        counts: Counts,
        *,
        proxies: Sequence[IpNetwork] = (),
        per_address_max: int = 0,
        descriptors_end: int = 0,
        tunnel_peers: TunnelPeers | None = None,
        offers_rtmpe: bool = False,
        stream_log: StreamLog | None = None,
    ) -> None:
        self.stream_log = StreamLog() if stream_log is None else stream_log
        self.streams = streams
        self.sessions: set[Session] = set()
        self.traffic = WELCOME
        self._context = ServerContext(
            streams,
            limits,
            log,
            counts,
            self.sessions,
            lambda: self.traffic,
            self.stream_log,
        )
        self._encryption = Encryption(self._context) if offers_rtmpe else None
        rules = AcceptRules(proxies, limits.connections_max, per_address_max, descriptors_end)
        self._acceptor = Acceptor("rtmp", rules, log, counts)
        self._counts = counts
        self._tunnels = TunnelServer(
            self._connect,
            proxies,
            tunnel_peers,
            self._context.timers,
            sessions_max=limits.connections_max,
            on_forwarded_end=self._context.ended.set,
        )
        self._sockets = ListeningSockets(self._acceptor)
        self._sweep: asyncio.TimerHandle | None = None
        counts.gauges[Gauge.RTMP_CONNECTIONS] = 0
        counts.gauges[Gauge.VIEWERS] = 0

    async def start(
        self, listeners: Sequence[socket.socket], proxied: Collection[socket.socket] = ()
    ) -> None:
        """Starts to accept. Connections of ``proxied`` listeners begin with a PROXY header."""
        for listener in listeners:
            await self._sockets.listen(listener, self._connect, is_proxied=listener in proxied)
        await self._tunnels.start()
        self._sweep_sessions()

    @property
    def route(self) -> Route:
        """Where other listeners hand over connections that speak RTMP."""
        return Route(self._acceptor, self._connect)

    @property
    def tunnel_route(self) -> Route:
        """The route of connections that carry requests of RTMPT."""
        return Route(self._acceptor, self._tunnels.connect)

    @property
    def handshakes(self) -> int:
        """How many connections have no session yet; without RTMPE each has one at once."""
        return 0 if self._encryption is None else len(self._encryption.handshakes)

    def limit(self, limits: RtmpLimits, per_address_max: int) -> None:
        """Sets the limits of clients that connect from now on."""
        self._context = replace(self._context, limits=limits)
        self._tunnels.sessions_max = limits.connections_max
        if self._encryption is not None:
            self._encryption.context = self._context
        self._acceptor.rules = replace(self._acceptor.rules, per_address_max=per_address_max)

    def _connect(self, peer: Peer, on_close: OnClose) -> asyncio.Protocol:
        if self._encryption is not None:
            return self._encryption.connect(peer, on_close)
        return RtmpSession(self._context, asyncio.get_running_loop(), peer, on_close)

    def revoke(self, is_revoked: Callable[[Provenance], bool]) -> None:
        """Ends the running plays that the predicate matches."""
        for session in list(self.sessions):
            session.guard(session.revoke, is_revoked)

    def viewer_rows(self, now_s: float) -> list[ViewerRow]:
        """The sessions of clients that are connected."""
        rows = [session.viewer_row(now_s) for session in self.sessions]
        return [row for row in rows if row is not None]

    def end_viewer(self, identifier: str) -> int:
        """Ends the session with this id; returns how many there were."""
        return sum(session.end_viewer(identifier) for session in list(self.sessions))

    def set_traffic(self, traffic: Traffic) -> None:
        """Refuses new clients while ``traffic`` says so, and asks those here to reconnect."""
        is_new = traffic.asks_to_reconnect and not self.traffic.asks_to_reconnect
        self.traffic = traffic
        if is_new:
            for session in list(self.sessions):
                session.guard(session.request_reconnect)

    @property
    def is_busy(self) -> bool:
        """Whether a client is connected or being accepted."""
        return bool(self.sessions or self._acceptor.waiting or self._tunnels.has_clients)

    def retire(self) -> None:
        """Lets another process accept; clients stay until they leave or are idle for too long."""
        self._sockets.leave()
        self._tunnels.retire()

    async def drain(self, timeout_s: float) -> None:
        """Stops accepting, waits ``timeout_s`` until all viewers have watched, closes the rest.

        A session of another worker that clients use over this one may have a play: only the other
        worker knows, and ends it. So its requests are forwarded until then.
        """
        self._sockets.stop()
        if self._encryption is not None:
            self._encryption.stop()
        await self._wait_while(self._may_have_viewers, timeout_s)
        for session in list(self.sessions):
            session.guard(session.shut_down)
        if self._sweep is not None:
            self._sweep.cancel()
        await self._wait_while(
            lambda: bool(self.sessions) or self._tunnels.forwards_sessions, CLOSE_TIMEOUT_S
        )
        for session in list(self.sessions):
            session.abort()
        self._tunnels.stop()

    def _may_have_viewers(self) -> bool:
        now_s = asyncio.get_running_loop().time()
        return self._tunnels.forwards_sessions or any(
            session.is_watching(now_s) for session in self.sessions
        )

    async def _wait_while(self, condition: Callable[[], bool], timeout_s: float) -> None:
        """Waits until ended sessions or time make ``condition`` false, or for ``timeout_s``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while condition():
                    self._context.ended.clear()
                    await self._context.ended.wait()

    def _sweep_sessions(self) -> None:
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        self._sweep = loop.call_later(SWEEP_INTERVAL_S, self._sweep_sessions)
        for session in list(self.sessions):
            session.guard(session.sweep, now_s)
        self._counts.gauges[Gauge.RTMP_CONNECTIONS] = len(self.sessions)
        if self._encryption is not None:
            self._encryption.sweep(now_s)
        self._tunnels.sweep(now_s)
        self._acceptor.sweep(now_s)
        self._context.ended.set()  # for viewers who have watched what they had in their buffer
