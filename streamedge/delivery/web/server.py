"""The HTTP listeners of a worker: connections from sockets that the supervisor has bound.

Owns accepting, with TLS and without, the sweep of quiet and stalled connections, and draining.
uvicorn gives protocol and ASGI, not its server: sockets, signals and processes are the
supervisor's.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Sequence

from uvicorn.config import Config as UvicornConfig
from uvicorn.server import ServerState

from streamedge.delivery.tls import TlsConnection, TlsDoor
from streamedge.delivery.web.app import Application
from streamedge.delivery.web.protocol import EdgeProtocol
from streamedge.delivery.web.site import Site
from streamedge.ops.log import Log
from streamedge.ops.metrics import Counter, Counts, Gauge

SWEEP_INTERVAL_S = 1.0
HANDSHAKE_LINE_INTERVAL_S = 1.0  # what fails meanwhile is counted


class WebServer:
    """Serves a site on listening sockets, from ``start`` to ``drain``."""

    def __init__(
        self,
        site: Site,
        log: Log,
        counts: Counts,
        *,
        connections_max: int,
        handshake_s: float,
        idle_s: float,
        stall_s: float,
    ) -> None:
        self._site = site
        self._log = log
        self._counts = counts
        self._handshake_s = handshake_s
        self._handshakes: set[TlsConnection] = set()
        self._handshake_line_s = -HANDSHAKE_LINE_INTERVAL_S
        self._failures_unsaid = 0
        self._connections_max = connections_max
        self._idle_s = idle_s
        self._stall_s = stall_s
        self._state = ServerState()
        self._left = asyncio.Event()
        self._listeners: list[socket.socket] = []
        self._servers: list[asyncio.Server] = []
        self._sweep: asyncio.TimerHandle | None = None
        self._config = UvicornConfig(
            Application(site),
            interface="asgi3",
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=True,
        )
        self._config.load()
        counts.gauges[Gauge.HTTP_CONNECTIONS] = 0

    async def start(
        self,
        listeners: Sequence[socket.socket],
        secure: Sequence[socket.socket] = (),
        context: ssl.SSLContext | None = None,
    ) -> None:
        """Begins to accept; on the ``secure`` ones with TLS, by ``context``."""
        loop = asyncio.get_running_loop()

        def connect() -> EdgeProtocol:
            return EdgeProtocol(
                self._config,
                self._state,
                loop,
                self._site,
                self._connections_max,
                self._left.set,
            )

        self._listeners += listeners
        for listener in listeners:
            self._servers.append(await loop.create_server(connect, sock=listener, backlog=4096))
        if context is not None:
            door = TlsDoor(
                context,
                connect,
                self._handshakes,
                self._connections_max,
                self._handshake_failed,
            )
            self._listeners += secure
            for listener in secure:
                server = await loop.create_server(
                    lambda: TlsConnection(door, loop), sock=listener, backlog=4096
                )
                self._servers.append(server)
        self._sweep_again()

    async def drain(self, timeout_s: float) -> None:
        """Stops accepting, lets responses end for ``timeout_s``, then cuts what is left."""
        while self._listeners:
            # Other processes have the socket too: this refuses newcomers in all of them.
            self._listeners.pop().shutdown(socket.SHUT_RDWR)
        for server in self._servers:
            server.close()
        if self._sweep is not None:
            self._sweep.cancel()
        for handshake in list(self._handshakes):
            handshake.fail_handshake("the edge is stopping")
        for connection in list(self._state.connections):
            connection.shutdown()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._state.connections:
                    self._left.clear()
                    await self._left.wait()
        for connection in list(self._state.connections):
            connection.transport.abort()
        while self._state.connections:
            self._left.clear()
            await self._left.wait()
        for task in self._state.tasks:
            task.cancel()
        await asyncio.gather(*self._state.tasks, return_exceptions=True)

    def _sweep_again(self) -> None:
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        for connection in list(self._state.connections):
            if isinstance(connection, EdgeProtocol):
                connection.sweep(now_s, self._idle_s, self._stall_s)
        for handshake in list(self._handshakes):
            if now_s - handshake.began_s > self._handshake_s:
                handshake.fail_handshake("it took too long")
        self._counts.gauges[Gauge.HTTP_CONNECTIONS] = len(self._state.connections)
        self._sweep = loop.call_later(SWEEP_INTERVAL_S, self._sweep_again)

    def _handshake_failed(self, client: str, reason: str) -> None:
        """Counts, and says so at most once a second: anybody can make handshakes fail."""
        self._counts.add(Counter.ERRORS, "tls_handshake")
        now_s = asyncio.get_running_loop().time()
        if now_s - self._handshake_line_s < HANDSHAKE_LINE_INTERVAL_S:
            self._failures_unsaid += 1
            return
        self._log.event(
            "tls_handshake_failed",
            client=client,
            reason=reason,
            unsaid=self._failures_unsaid or None,
        )
        self._handshake_line_s, self._failures_unsaid = now_s, 0
