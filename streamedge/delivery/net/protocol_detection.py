"""Tells protocols apart by the first bytes of a connection, and hands it to the right server.

A mixed address serves TLS, RTMP, RTMPE, RTMPT and HTTP. ``detect`` is the rule, and pure. A
``DetectingConnection`` is the first protocol of a connection: it reads until the rule decides,
which takes one byte except for POST. Inside of TLS it decides once more, unless ALPN has.

Servers give a ``Route`` for each protocol that they serve; this module knows no server.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from enum import Enum

from streamedge.callbacks import do_nothing
from streamedge.delivery.net.accept import Acceptor, OnClose, Peer, Route
from streamedge.delivery.net.tls import TlsAcceptor, TlsConnection
from streamedge.ops.log import Log
from streamedge.ops.metrics import Counter, Counts
from streamedge.ops.rate_limited import RateLimitedEvent

TLS_HANDSHAKE = 22
"""The content type of a TLS record with a ClientHello (RFC 8446, §5.1)."""

RTMP_VERSION = 3
"""C0 of RTMP 1.0, §5.2.2."""

RTMPE_VERSIONS = frozenset({6, 8, 9})
"""C0 of RTMPE, by the form of its signatures."""

TUNNEL_REQUESTS = (b"POST /open/", b"POST /send/", b"POST /idle/", b"POST /close/", b"POST /fcs/")
"""How the requests of RTMPT begin."""


class DetectedProtocol(Enum):
    TLS = "tls"
    RTMP = "rtmp"
    RTMPE = "rtmpe"
    RTMPT = "rtmpt"
    HTTP = "http"
    HTTP2 = "http2"  # by ALPN only
    UNKNOWN = "unknown"


_BY_ALPN = {"h2": DetectedProtocol.HTTP2}
"""With "http/1.1" it may still be RTMPT."""


def detect(received: bytes) -> DetectedProtocol | None:
    """The protocol of a connection that begins with ``received``; None while that is open."""
    if not received:
        return None
    first = received[0]
    if first == TLS_HANDSHAKE:
        return DetectedProtocol.TLS
    if first == RTMP_VERSION:
        return DetectedProtocol.RTMP
    if first in RTMPE_VERSIONS:
        return DetectedProtocol.RTMPE
    if not ord("A") <= first <= ord("Z"):
        return DetectedProtocol.UNKNOWN
    if received.startswith(TUNNEL_REQUESTS):
        return DetectedProtocol.RTMPT
    if any(request.startswith(received) for request in TUNNEL_REQUESTS):
        return None
    return DetectedProtocol.HTTP


class ProtocolDetector:
    """The state that all connections of some listeners share.

    ``routes``: the protocols that are served. ``context``: of TLS, None without a certificate.
    ``waiting_max``: connections that have not decided, and TLS handshakes, each. A wrong first byte
    is counted, and logged at a limited rate; a connection without a first byte is counted.
    ``acceptor`` counts a connection until a server has it, TLS handshake included.
    """

    def __init__(
        self,
        acceptor: Acceptor,
        routes: Mapping[DetectedProtocol, Route],
        context: ssl.SSLContext | None,
        log: Log,
        counts: Counts,
        *,
        waiting_max: int,
    ) -> None:
        self.acceptor = acceptor
        self.routes = routes
        self.waiting: set[DetectingConnection] = set()
        self.handshakes: set[TlsConnection] = set()
        self.loop = asyncio.get_running_loop()
        self.waiting_max = waiting_max
        self._counts = counts
        self._unknown = RateLimitedEvent(log, "protocol_unknown")
        self._failed_handshake = RateLimitedEvent(log, "tls_handshake_failed")
        self._too_many = RateLimitedEvent(log, "connections_refused")
        self.tls: TlsAcceptor | None = None
        if context is not None:
            self.tls = TlsAcceptor(
                context, self._connect_secure, self.handshakes, waiting_max, self._handshake_failed
            )

    def connect(self, peer: Peer, on_close: OnClose) -> DetectingConnection:
        """The first protocol of an accepted connection."""
        return DetectingConnection(self, peer, on_close)

    def connect_tls(self, peer: Peer, on_close: OnClose) -> asyncio.Protocol:
        """The first protocol of a connection of a listener on which all connections use TLS."""
        if self.tls is None:
            raise ValueError("a listener for TLS needs a certificate")
        return TlsConnection(self.tls, self.loop, peer, on_close)

    def sweep(self, now_s: float, handshake_s: float) -> None:
        """Closes connections that have sent too little for too long."""
        for connection in list(self.waiting):
            if now_s - connection.began_s > handshake_s:
                self._counts.add(Counter.ERRORS, "first_byte")
                connection.abort()
        for handshake in list(self.handshakes):
            if now_s - handshake.began_s > handshake_s:
                handshake.fail_handshake("it took too long")

    def stop(self) -> None:
        """Closes all connections that no server has yet."""
        for connection in list(self.waiting):
            connection.abort()
        for handshake in list(self.handshakes):
            handshake.fail_handshake("the edge is stopping")

    def route(self, protocol: DetectedProtocol) -> Route | None:
        """The route of a protocol. Without a tunnel, its requests are HTTP's."""
        route = self.routes.get(protocol)
        if route is None and protocol is DetectedProtocol.RTMPT:
            return self.routes.get(DetectedProtocol.HTTP)
        return route

    def refuse_waiting(self, peer: Peer) -> None:
        """Counts a connection beyond those that may wait for their first byte."""
        self._counts.add(Counter.ERRORS, "first_byte")
        self._too_many.emit(
            self.loop.time(),
            protocol="mixed",
            client=str(peer),
            reason="too many connections wait for their first byte",
        )

    def refuse(self, peer: Peer, protocol: DetectedProtocol, first_byte: int) -> None:
        """Counts a connection that no route serves."""
        self._counts.add(Counter.ERRORS, "protocol_unknown")
        self._unknown.emit(
            self.loop.time(), client=str(peer), protocol=protocol.value, first_byte=first_byte
        )

    def _connect_secure(self, peer: Peer, alpn: str | None) -> asyncio.Protocol:
        protocol = None if alpn is None else _BY_ALPN.get(alpn)
        on_close = do_nothing  # the TLS connection around it is counted
        return DetectingConnection(self, peer, on_close, protocol=protocol, secure=True)

    def _handshake_failed(self, client: str, reason: str) -> None:
        self._counts.add(Counter.ERRORS, "tls_handshake")
        self._failed_handshake.emit(self.loop.time(), client=client, reason=reason)


class DetectingConnection(asyncio.Protocol):
    """One connection until its protocol is known. ``protocol``: where ALPN has chosen it."""

    def __init__(
        self,
        detector: ProtocolDetector,
        peer: Peer,
        on_close: OnClose,
        *,
        protocol: DetectedProtocol | None = None,
        secure: bool = False,
    ) -> None:
        self._detector = detector
        self._peer = peer
        self._on_close = on_close
        self._protocol = protocol
        self._is_secure = secure
        self._received = b""
        self._transport: asyncio.Transport = None  # type: ignore[assignment]  # from the beginning
        self.began_s = detector.loop.time()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        if self._protocol is not None:
            self._hand_over(self._protocol)
            return
        waiting = self._detector.waiting
        waiting.add(self)
        if len(waiting) > self._detector.waiting_max:
            self._detector.refuse_waiting(self._peer)
            self.abort()

    def data_received(self, data: bytes) -> None:
        if self not in self._detector.waiting:
            return  # closed; bytes in flight still arrive
        self._received += data
        protocol = detect(self._received)
        if protocol is not None:
            self._detector.waiting.discard(self)
            self._hand_over(protocol)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._detector.waiting.discard(self)
        self._on_close()

    def abort(self) -> None:
        """Closes the connection at once."""
        self._detector.waiting.discard(self)
        self._transport.abort()

    def _hand_over(self, protocol: DetectedProtocol) -> None:
        detector, transport, received = self._detector, self._transport, self._received
        server_protocol: asyncio.Protocol | None
        if protocol is DetectedProtocol.TLS and not self._is_secure and detector.tls is not None:
            server_protocol = detector.connect_tls(self._peer, self._on_close)
            transport.set_protocol(server_protocol)
            server_protocol.connection_made(transport)
        else:
            route = detector.route(protocol)
            if route is None:
                detector.refuse(self._peer, protocol, received[0] if received else -1)
                transport.abort()
                return
            server_protocol = route.acceptor.hand_over(
                transport, self._peer, detector.loop.time(), route.connect, route.reject_response
            )
            if server_protocol is not None:
                self._release_slot()  # the server's acceptor counts the connection
        if server_protocol is not None and received and not transport.is_closing():
            server_protocol.data_received(received)

    def _release_slot(self) -> None:
        if isinstance(self._transport, TlsConnection):
            self._transport.release_slot()
        else:
            self._on_close()
