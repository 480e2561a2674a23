"""The HTTP listeners of a worker: connections from sockets that the supervisor has bound.

Owns accepting, the sweep of quiet and stalled connections, and draining. uvicorn gives protocol
and ASGI, not its server: sockets, signals and processes are the supervisor's.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Sequence

from uvicorn.config import Config as UvicornConfig
from uvicorn.server import ServerState

from streamedge.delivery.web.app import create_app
from streamedge.delivery.web.protocol import EdgeProtocol
from streamedge.delivery.web.site import Site
from streamedge.ops.metrics import Counts, Gauge

SWEEP_INTERVAL_S = 1.0


class WebServer:
    """Serves a site on listening sockets, from ``start`` to ``drain``."""

    def __init__(
        self, site: Site, counts: Counts, *, connections_max: int, idle_s: float, stall_s: float
    ) -> None:
        self._site = site
        self._counts = counts
        self._connections_max = connections_max
        self._idle_s = idle_s
        self._stall_s = stall_s
        self._state = ServerState()
        self._left = asyncio.Event()
        self._listeners: list[socket.socket] = []
        self._servers: list[asyncio.Server] = []
        self._sweep: asyncio.TimerHandle | None = None
        self._config = UvicornConfig(
            create_app(site),
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

    async def start(self, listeners: Sequence[socket.socket]) -> None:
        """Begins to accept."""
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
        self._counts.gauges[Gauge.HTTP_CONNECTIONS] = len(self._state.connections)
        self._sweep = loop.call_later(SWEEP_INTERVAL_S, self._sweep_again)
