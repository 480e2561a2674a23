"""The server of addresses that several protocols share: ``listen.mixed`` and ``listen.rtmps``.

It accepts connections and hands them over when their protocol is known; the servers of HTTP and
RTMP own them from then on, with their limits.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from streamedge.delivery.net.accept import Acceptor, AcceptRules, Route
from streamedge.delivery.net.listening import ListeningSockets
from streamedge.delivery.net.protocol_detection import DetectedProtocol, ProtocolDetector
from streamedge.ops.log import Log
from streamedge.ops.metrics import Counts

SWEEP_INTERVAL_S = 1.0


class MixedServer:
    """Accepts from ``start`` to ``drain``.

    ``routes``: the protocols of mixed addresses; ``context``: of TLS, None without a certificate.
    ``handshake_s``: the time in which a connection must send its first bytes, or a TLS handshake.
    """

    def __init__(
        self,
        routes: Mapping[DetectedProtocol, Route],
        context: ssl.SSLContext | None,
        rules: AcceptRules,
        log: Log,
        counts: Counts,
        *,
        handshake_s: float,
    ) -> None:
        self._handshake_s = handshake_s
        self._acceptor = Acceptor("mixed", rules, log, counts)
        media: dict[DetectedProtocol, Route] = {
            protocol: route
            for protocol, route in routes.items()
            if protocol is DetectedProtocol.RTMP
        }
        limit = rules.waiting_max
        self._mixed = ProtocolDetector(
            self._acceptor, routes, context, log, counts, waiting_max=limit
        )
        self._rtmps = ProtocolDetector(
            self._acceptor, media, context, log, counts, waiting_max=limit
        )
        self._sockets = ListeningSockets(self._acceptor)
        self._sweep: asyncio.TimerHandle | None = None

    async def start(
        self,
        mixed: Sequence[socket.socket],
        rtmps: Sequence[socket.socket],
        proxied: Collection[socket.socket] = (),
    ) -> None:
        """Starts to accept. Connections of ``proxied`` listeners begin with a PROXY header."""
        for listener in mixed:
            await self._sockets.listen(
                listener, self._mixed.connect, is_proxied=listener in proxied
            )
        for listener in rtmps:
            await self._sockets.listen(
                listener, self._rtmps.connect_tls, is_proxied=listener in proxied
            )
        if len(self._sockets):
            self._sweep_connections()

    def limit(self, handshake_s: float, per_address_max: int) -> None:
        """Sets the limits of connections that no server has yet."""
        self._handshake_s = handshake_s
        self._acceptor.rules = replace(self._acceptor.rules, per_address_max=per_address_max)

    @property
    def is_busy(self) -> bool:
        """Whether there are connections that no server has yet."""
        detectors = (self._mixed, self._rtmps)
        return bool(self._acceptor.waiting) or any(
            detector.waiting or detector.handshakes for detector in detectors
        )

    def retire(self) -> None:
        """Lets another process accept; connections that were accepted get their server."""
        self._sockets.leave()

    async def drain(self, _timeout_s: float) -> None:
        """Stops accepting, and closes the connections that no server has yet."""
        self._sockets.stop()
        if self._sweep is not None:
            self._sweep.cancel()
        for detector in (self._mixed, self._rtmps):
            detector.stop()

    def _sweep_connections(self) -> None:
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        for detector in (self._mixed, self._rtmps):
            detector.sweep(now_s, self._handshake_s)
        self._acceptor.sweep(now_s)
        self._sweep = loop.call_later(SWEEP_INTERVAL_S, self._sweep_connections)
