"""Free ports for servers that tests start, and those of servers that listen again later."""

from __future__ import annotations

import itertools
import os
import socket

# Below the ports that the kernel takes for clients (ip_local_port_range), which come and go.
FIRST, LAST = 10_240, 32_000


def _candidates() -> itertools.cycle[int]:
    """Ports in turn, from a place that processes of one test run do not share."""
    offset = os.getpid() * 397 % (LAST - FIRST)
    return itertools.cycle([FIRST + (offset + n) % (LAST - FIRST) for n in range(LAST - FIRST)])


_ports = _candidates()


def free_ports(count: int) -> list[int]:
    """Ports that are not in use now, and that no client of another process will get."""
    ports: list[int] = []
    while len(ports) < count:
        port = next(_ports)
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            with socket.socket(socket.AF_INET, kind) as probe:
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    break
        else:
            ports.append(port)
    return ports


class HeldPort:
    """Keeps the port of a server that does not listen for a while: connections are refused.

    Otherwise a client's connection, or a server of another test, could get the port meanwhile.
    """

    def __init__(self) -> None:
        self._socket: socket.socket | None = None

    def hold(self, port: int) -> None:
        """Takes a port whose listening socket has just been closed."""
        self.release()
        holder = socket.socket()
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # so that a server can listen
        holder.bind(("127.0.0.1", port))
        self._socket = holder

    def release(self) -> None:
        """A server listens again, or nothing does any more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
