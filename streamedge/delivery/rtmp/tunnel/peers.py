"""How the workers of an edge reach each other for requests of tunnels: over Unix sockets.

Each worker listens on an abstract address that the kernel chooses, so that no other process can
have taken it before. The addresses are in memory that all workers share, also those from before an
upgrade and those from after it. Any process of the machine can connect to such an address: both
ends check by SO_PEERCRED that the other one has the same user.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from streamedge.ops.shared_words import SharedWords

LINKS_BACKLOG = 128
SLOTS_MAX = 256  # a session's id has two hexadecimal digits for its worker
_CREDENTIALS = struct.Struct("3i")
"""struct ucred, unix(7): process, user and group."""


class TunnelAddresses:
    """The addresses of the workers, by slot, in shared memory.

    The kernel's abstract addresses are a zero byte and five hexadecimal digits, unix(7).
    """

    def __init__(self, shared: SharedWords | None = None) -> None:
        """``shared``: the memory of workers that run already (``process.handover``)."""
        self._shared = shared or SharedWords("streamedge-tunnels", SLOTS_MAX)

    @property
    def descriptor(self) -> int:
        """The file descriptor of the memory."""
        return self._shared.descriptor

    def note(self, slot: int, address: bytes) -> None:
        """Writes the address of a worker that starts."""
        self._shared.words[slot] = int(address[1:], 16) + 1

    def of(self, slot: int) -> bytes:
        """The address of a worker; empty where there is none."""
        word = self._shared.words[slot]
        return b"\0%05x" % (word - 1) if word else b""

    def close(self) -> None:
        self._shared.close()


@dataclass(frozen=True, slots=True)
class TunnelPeers:
    """How a worker reaches the others. ``listener``: its own socket; ``addresses``: of all.

    ``worker``: its slot in ``addresses``.
    """

    worker: int
    listener: socket.socket
    addresses: TunnelAddresses


def bind_tunnel_peers(
    slots: Sequence[int], addresses: TunnelAddresses | None = None
) -> list[TunnelPeers]:
    """Binds a socket for each of ``slots``, on which a worker accepts requests from the others.

    ``addresses``: of workers from before an upgrade, to which those of ``slots`` are added.
    """
    addresses = addresses or TunnelAddresses()
    peers = []
    for slot in slots:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.setblocking(False)
        listener.bind(b"")  # the kernel chooses an abstract address
        listener.listen(LINKS_BACKLOG)
        addresses.note(slot, listener.getsockname())
        peers.append(TunnelPeers(slot, listener, addresses))
    return peers


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
