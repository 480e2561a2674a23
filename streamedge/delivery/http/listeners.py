"""A server's listening sockets, TLS handshakes and open connections, from ``listen`` to ``drain``.

The servers of viewers and of other edges share it: each brings its protocols and its limits.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from dataclasses import dataclass

from streamedge.delivery.http.connections import Connections
from streamedge.delivery.net.accept import Acceptor, Connect
from streamedge.delivery.net.listening import ListeningSockets
from streamedge.delivery.net.tls import TlsConnection

SWEEP_INTERVAL_S = 1.0  # how often connections are checked for timeouts


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """The longest handshake, silence between requests, and time in which a peer accepts no bytes.

    ``body_rate``: the slowest body of a request, in bytes a second; 0: any.
    """

    handshake_s: float
    idle_s: float
    stall_s: float
    body_rate: int = 0


class ServerListeners:
    """``limits`` may be replaced, for open connections too. ``handshakes``: those that run."""

    def __init__(self, acceptor: Acceptor, connections: Connections, limits: TimeLimits) -> None:
        self.limits = limits
        self.handshakes: set[TlsConnection] = set()
        self._acceptor = acceptor
        self._connections = connections
        self._sockets = ListeningSockets(acceptor)
        self._sweep: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """How many sockets listen."""
        return len(self._sockets)

    async def listen(
        self,
        listener: socket.socket,
        connect: Connect,
        *,
        is_proxied: bool = False,
        reject_response: bytes = b"",
    ) -> None:
        """Accepts connections on a bound socket; the other parameters as for ``Acceptor``."""
        await self._sockets.listen(
            listener, connect, is_proxied=is_proxied, reject_response=reject_response
        )

    def sweep(self, after: Callable[[], object]) -> None:
        """Closes idle, slow and stalled connections now and periodically; then calls ``after``."""
        loop = asyncio.get_running_loop()
        now_s, limits = loop.time(), self.limits
        for connection in list(self._connections.open):
            connection.sweep(now_s, limits.idle_s, limits.stall_s, limits.body_rate)
        for handshake in list(self.handshakes):
            if now_s - handshake.began_s > limits.handshake_s:
                handshake.fail_handshake("it took too long")
        self._acceptor.sweep(now_s)
        after()
        self._sweep = loop.call_later(SWEEP_INTERVAL_S, self.sweep, after)

    @property
    def is_busy(self) -> bool:
        """Whether a connection is open or being accepted."""
        return bool(self._connections.open or self.handshakes or self._acceptor.waiting)

    def retire(self) -> None:
        """Lets another process accept: connections end behind the response to their next request.

        Idle ones are not closed, because a request may be on its way; they end after ``idle_s``.
        """
        self._sockets.leave()
        self._connections.retire()

    async def drain(self, timeout_s: float) -> None:
        """Stops accepting, waits ``timeout_s`` for responses, then aborts the rest."""
        self._sockets.stop()
        if self._sweep is not None:
            self._sweep.cancel()
        for handshake in list(self.handshakes):
            handshake.fail_handshake("the edge is stopping")
        for connection in list(self._connections.open):
            connection.shutdown()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._connections.all_closed()
        for connection in list(self._connections.open):
            connection.abort()
        await self._connections.all_closed()
        await self._connections.cancel_tasks()
