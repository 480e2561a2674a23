"""How the workers of an edge reach each other for requests of tunnels: over Unix sockets.

Each worker listens on an abstract address that the kernel chooses, so that no other process can
have taken it before. The sockets are bound before the workers are forked, so each worker knows all
addresses. Any process of the machine can connect to such an address: both ends check by
SO_PEERCRED that the other one has the same user.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

LINKS_BACKLOG = 128
_CREDENTIALS = struct.Struct("3i")
"""struct ucred, unix(7): process, user and group."""


@dataclass(frozen=True, slots=True)
class TunnelPeers:
    """How a worker reaches the others. ``listener``: its own socket; ``addresses``: of all.

    ``worker``: its index in ``addresses``. An address is empty where there is no worker.
    """

    worker: int
    listener: socket.socket
    addresses: tuple[bytes, ...]


def bind_tunnel_peers(
    slots: Sequence[int], earlier: Mapping[int, bytes] | None = None
) -> list[TunnelPeers]:
    """Binds a socket for each of ``slots``, on which a worker accepts requests from the others.

    ``earlier``: the addresses of workers from before an upgrade, by slot.
    """
    listeners = []
    for _slot in slots:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.setblocking(False)
        listener.bind(b"")  # the kernel chooses an abstract address
        listener.listen(LINKS_BACKLOG)
        listeners.append(listener)
    by_slot = dict(earlier or {})
    by_slot |= {
        slot: listener.getsockname() for slot, listener in zip(slots, listeners, strict=True)
    }
    addresses = tuple(by_slot.get(slot, b"") for slot in range(max(by_slot, default=-1) + 1))
    return [TunnelPeers(slot, each, addresses) for slot, each in zip(slots, listeners, strict=True)]


def is_own_user(connected: socket.socket) -> bool:
    """Whether a process of the edge's user has made the other end of a Unix socket."""
    option = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _process, user, _group = _CREDENTIALS.unpack(option)
    return bool(user == os.geteuid())


class PeerConnections(asyncio.Protocol):
    """The first protocol of a connection from another worker: closes those of other users."""

    def __init__(
        self,
        connect: Callable[[], asyncio.Protocol],
        is_allowed: Callable[[socket.socket], bool] = is_own_user,
    ) -> None:
        self._connect = connect
        self._is_allowed = is_allowed

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if not self._is_allowed(transport.get_extra_info("socket")):
            transport.abort()
            return
        protocol = self._connect()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
