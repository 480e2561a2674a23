"""The tunnels of a worker.

The id of a session begins with the number of its worker. A request that arrives at another worker
is forwarded to it over a Unix socket, where each worker listens for the others with the same
protocol; so TLS and connections that carry several sessions work alike. A session's id has 128
random bits.

A worker that retires keeps the connections that it has: librtmp does not survive the end of one
between two requests. Those of trusted proxies end behind their next response, with
``Connection: close``, because a proxy sends requests of any sessions over them.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Callable, Sequence

from streamedge.access.client_address import IpNetwork, forwarded_address, is_trusted
from streamedge.callbacks import do_nothing
from streamedge.delivery.net.accept import Connect, OnClose, Peer
from streamedge.delivery.rtmp.timers import CoalescedTimers
from streamedge.delivery.rtmp.tunnel.connection import (
    ConnectionCallbacks,
    TunnelConnection,
    TunnelLink,
)
from streamedge.delivery.rtmp.tunnel.exchange import Exchange
from streamedge.delivery.rtmp.tunnel.peers import PeerConnections, TunnelPeers, is_own_user
from streamedge.delivery.rtmp.tunnel.response_body import ResponseBody
from streamedge.delivery.rtmp.tunnel.rules import Kind, TunnelRequest
from streamedge.delivery.rtmp.tunnel.session import Tunnel

WORKER_DIGITS = 2
RANDOM_BYTES = 16


class TunnelServer:
    """Opens sessions with ``connect``, as for a connection of their own.

    ``on_forwarded_end`` is called when a client no longer uses a session of another worker.
    """

    def __init__(
        self,
        connect: Connect,
        proxies: Sequence[IpNetwork],
        peers: TunnelPeers | None,
        timers: CoalescedTimers,
        *,
        sessions_max: int,
        on_forwarded_end: Callable[[], None],
    ) -> None:
        self.sessions_max = sessions_max
        self._connect_session = connect
        self._proxies = proxies
        self._peers = peers
        self._timers = timers
        self._on_forwarded_end = on_forwarded_end
        self._worker = 0 if peers is None else peers.worker
        self._loop = asyncio.get_running_loop()
        self._callbacks = ConnectionCallbacks(self._serve, self._ended)
        self._tunnels: dict[str, Tunnel] = {}
        self._connections: set[TunnelConnection] = set()
        self._links: dict[tuple[TunnelConnection, int], TunnelLink] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._is_retiring = False

    async def start(self) -> None:
        """Starts to accept the requests of other workers."""
        if self._peers is not None:
            accepted = PeerConnections(self._connect_peer)
            self._server = await self._loop.create_unix_server(
                lambda: accepted, sock=self._peers.listener
            )

    def connect(self, peer: Peer, on_close: OnClose) -> TunnelConnection:
        """The protocol of a connection that carries requests of tunnels."""
        connection = TunnelConnection(self._callbacks, self._loop, peer, on_close)
        self._connections.add(connection)
        return connection

    def _connect_peer(self) -> TunnelConnection:
        connection = TunnelConnection(
            self._callbacks, self._loop, Peer("", 0), do_nothing, is_peer=True
        )
        self._connections.add(connection)
        return connection

    def __repr__(self) -> str:
        return f"TunnelServer({list(self._tunnels.values())}, {list(self._connections)})"

    def stats(self) -> tuple[int, int]:
        """The numbers of sessions and of connections."""
        return len(self._tunnels), len(self._connections)

    def sweep(self, now_s: float) -> None:
        """Ends sessions and connections that are silent for too long."""
        for tunnel in list(self._tunnels.values()):
            tunnel.sweep(now_s)
        for connection in list(self._connections):
            connection.sweep(now_s)
        for link in list(self._links.values()):
            link.sweep(now_s)

    @property
    def has_clients(self) -> bool:
        """Whether there is a connection of a client, whichever worker has its session."""
        return any(not connection.is_peer for connection in self._connections)

    @property
    def forwards_sessions(self) -> bool:
        """Whether clients use sessions of other workers over connections of this one."""
        return any(link.has_sessions for link in self._links.values())

    def retire(self) -> None:
        """Closes the connections of proxies behind their next responses."""
        self._is_retiring = True

    def stop(self) -> None:
        """Ends all sessions, and closes all connections behind their last responses."""
        if self._server is not None:
            self._server.close()
        for tunnel in list(self._tunnels.values()):
            tunnel.end(None)
        for connection in list(self._connections):
            connection.close()
        for link in list(self._links.values()):
            link.close()
        for task in self._tasks:
            task.cancel()

    def _serve(
        self,
        request: TunnelRequest | None,
        body: bytes,
        exchange: Exchange,
        connection: TunnelConnection,
    ) -> None:
        if self._is_retiring and self._is_of_proxy(connection):
            connection.close()
        tunnel = None if request is None else self._tunnels.get(request.session)
        if request is not None and tunnel is not None:
            tunnel.serve(request, body, exchange)
        elif request is None or connection.is_peer:
            exchange.respond(None)
        elif request.kind is Kind.OPEN:
            self._open(exchange, connection)
        else:
            self._forward(request, body, exchange, connection)

    def _ended(self, connection: TunnelConnection) -> None:
        self._connections.discard(connection)
        for key in [key for key in self._links if key[0] is connection]:
            self._links.pop(key).close()

    def _open(self, exchange: Exchange, connection: TunnelConnection) -> None:
        if len(self._tunnels) >= self.sessions_max:
            exchange.respond(None)
            return
        peer = connection.peer
        if self._is_of_proxy(connection):
            address = forwarded_address(connection.forwarded_for, self._proxies)
            peer = Peer(address, 0) if address else peer
        session_id = f"{self._worker:0{WORKER_DIGITS}x}{secrets.token_hex(RANDOM_BYTES)}"
        tunnel = Tunnel(
            session_id,
            peer,
            self._loop,
            self._timers,
            self._ended_session,
            is_secure=connection.is_secure,
        )
        self._tunnels[session_id] = tunnel
        on_close = do_nothing  # the HTTP connections that carry the session are counted
        tunnel.start(self._connect_session(peer, on_close))
        exchange.respond(ResponseBody(f"{session_id}\n".encode()))

    def _ended_session(self, tunnel: Tunnel) -> None:
        self._tunnels.pop(tunnel.id, None)

    def _forward(
        self,
        request: TunnelRequest,
        body: bytes,
        exchange: Exchange,
        connection: TunnelConnection,
    ) -> None:
        """Sends a request to the worker that has its session."""
        worker = _worker_of(request.session)
        if self._peers is None or worker is None or worker == self._worker:
            exchange.respond(None)
            return
        address = self._peers.addresses.of(worker)
        if not address:
            exchange.respond(None)
            return
        key = connection, worker
        link = self._links.get(key)
        if link is None:
            link = self._links[key] = TunnelLink(
                self._loop, lambda: self._lose_link(key), self._on_forwarded_end
            )
            task = self._loop.create_task(self._connect_link(link, address))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        link.forward(request, body, exchange)

    def _is_of_proxy(self, connection: TunnelConnection) -> bool:
        """Whether a trusted proxy has sent the connection's latest request."""
        return bool(connection.forwarded_for) and is_trusted(connection.peer.address, self._proxies)

    def _lose_link(self, key: tuple[TunnelConnection, int]) -> None:
        self._links.pop(key, None)

    async def _connect_link(self, link: TunnelLink, address: bytes) -> None:
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connected.setblocking(False)
        try:
            connected.connect(address)
            if not is_own_user(connected):
                raise PermissionError("the socket of a worker is another user's")
            await self._loop.create_unix_connection(lambda: link, sock=connected)
        except OSError:
            connected.close()
            link.fail()


def _worker_of(session: str) -> int | None:
    """The number of the worker that has a session; None if the id is not one of ours."""
    if len(session) != WORKER_DIGITS + 2 * RANDOM_BYTES:
        return None
    return int(session[:WORKER_DIGITS], 16)
