"""How the workers of an edge reach each other for requests of tunnels: over Unix sockets."""

from __future__ import annotations

import socket
from dataclasses import dataclass

LINKS_BACKLOG = 128


@dataclass(frozen=True, slots=True)
class TunnelPeers:
    """How the workers of an edge reach each other. ``listener``: this worker's own socket."""

    worker: int
    listener: socket.socket

    def address_of(self, worker: int) -> bytes:
        """The abstract address of a worker's socket."""
        own: bytes = self.listener.getsockname()
        return own.rpartition(b"-")[0] + b"-%d" % worker


def bind_tunnel_listeners(name: str, workers: int) -> list[socket.socket]:
    """Binds each worker's socket for the others. ``name``: unique on this machine."""
    listeners = []
    for worker in range(workers):
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.setblocking(False)
        listener.bind(f"\0{name}-{worker}".encode())
        listener.listen(LINKS_BACKLOG)
        listeners.append(listener)
    return listeners
