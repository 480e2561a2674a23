"""The sockets on which a server accepts, from ``listen`` to ``stop``. All servers share it."""

from __future__ import annotations

import asyncio
import socket

from streamedge.delivery.net.accept import Acceptor, Connect

BACKLOG = 4096  # connections that the kernel has made and no process has accepted yet


class ListeningSockets:
    """Accepts connections with ``acceptor`` on sockets that the supervisor has bound."""

    def __init__(self, acceptor: Acceptor) -> None:
        self._acceptor = acceptor
        self._listeners: list[socket.socket] = []
        self._servers: list[asyncio.Server] = []

    def __len__(self) -> int:
        """How many sockets listen."""
        return len(self._listeners)

    async def listen(
        self,
        listener: socket.socket,
        connect: Connect,
        *,
        is_proxied: bool = False,
        reject_response: bytes = b"",
    ) -> None:
        """Accepts connections on a socket; the other parameters as for ``Acceptor``."""
        loop = asyncio.get_running_loop()
        factory = self._acceptor.protocol_factory(
            connect, is_proxied=is_proxied, reject_response=reject_response
        )
        self._listeners.append(listener)
        self._servers.append(await loop.create_server(factory, sock=listener, backlog=BACKLOG))

    def leave(self) -> None:
        """Stops accepting in this process; others go on with the same sockets."""
        self._listeners.clear()
        for server in self._servers:
            server.close()

    def stop(self) -> None:
        """Stops accepting, and closes connections whose PROXY header has not come."""
        while self._listeners:
            # Other processes share the socket; shutdown refuses new connections in all of them.
            self._listeners.pop().shutdown(socket.SHUT_RDWR)
        for server in self._servers:
            server.close()
        self._acceptor.stop()
