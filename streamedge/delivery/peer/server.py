"""The server for other edges in a worker: TLS with client certificates, HTTP/1.1 behind it."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Sequence

from streamedge.callbacks import do_nothing
from streamedge.delivery.http.connections import Connections
from streamedge.delivery.http.http1.connection import Http1Connection
from streamedge.delivery.http.listeners import ServerListeners, TimeLimits
from streamedge.delivery.net.accept import Acceptor, AcceptRules, OnClose, Peer
from streamedge.delivery.net.tls import TlsAcceptor, TlsConnection
from streamedge.delivery.peer.handler import PeerService
from streamedge.ops.log import Log
from streamedge.ops.metrics import Counter, Counts
from streamedge.ops.rate_limited import RateLimitedEvent
from streamedge.origin.peer.tls import certified_names

HANDSHAKE_S = 5.0
IDLE_S = 60.0  # longer than the other edge keeps an idle connection
STALL_S = 30.0  # of an edge that accepts no bytes


class PeerServer:
    """Serves a ``PeerService`` on listening sockets, from ``start`` to ``drain``.

    ``tls`` requires a certificate of the fleet's CA.
    """

    def __init__(
        self,
        service: PeerService,
        tls: ssl.SSLContext,
        log: Log,
        counts: Counts,
        *,
        connections_max: int,
    ) -> None:
        self.service = service
        self._counts = counts
        self._failed_handshake = RateLimitedEvent(log, "peer_handshake_failed")
        self._acceptor = Acceptor("fleet", AcceptRules(), log, counts)
        self._connections_max = connections_max
        self._connections = Connections(connections_max)
        limits = TimeLimits(HANDSHAKE_S, IDLE_S, STALL_S)
        self._listeners = ServerListeners(self._acceptor, self._connections, limits)
        self._loop = asyncio.get_running_loop()
        self._tls_acceptor = self._accepting(tls)

    async def start(self, listeners: Sequence[socket.socket]) -> None:
        """Starts accepting."""
        for listener in listeners:
            await self._listeners.listen(listener, self._connect)
        self._listeners.sweep(do_nothing)

    def use(self, tls: ssl.SSLContext) -> None:
        """Uses another context. Connections from before end behind the responses that are due."""
        self._tls_acceptor = self._accepting(tls)
        for handshake in list(self._listeners.handshakes):
            handshake.fail_handshake("the certificates have changed")
        for connection in list(self._connections.open):
            connection.shutdown()

    def _accepting(self, tls: ssl.SSLContext) -> TlsAcceptor:
        return TlsAcceptor(
            tls,
            lambda peer, _protocol: _Handshaken(self.service, self._connections, peer),
            self._listeners.handshakes,
            self._connections_max,
            self._handshake_failed,
        )

    def _connect(self, peer: Peer, on_close: OnClose) -> TlsConnection:
        return TlsConnection(self._tls_acceptor, self._loop, peer, on_close)

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

    def _handshake_failed(self, client: str, reason: str) -> None:
        self._counts.add(Counter.ERRORS, "peer_handshake")
        self._failed_handshake.emit(self._loop.time(), client=client, reason=reason)


class _Handshaken(asyncio.Protocol):
    """Makes the connection's protocol when the names in the client's certificate are known."""

    def __init__(self, service: PeerService, connections: Connections, peer: Peer) -> None:
        self._service = service
        self._connections = connections
        self._peer = peer

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        names = certified_names(transport.get_extra_info("ssl_object"))
        handler = self._service.handler(names)
        on_close = do_nothing  # the TLS connection around it is counted
        protocol = Http1Connection(handler, self._connections, self._peer, on_close)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
