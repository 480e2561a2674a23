"""Builds the server of the addresses that HTTP and RTMP share."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from streamedge.build.parts import ServerParts
from streamedge.config.schema.config import Config
from streamedge.delivery.mixed_server import MixedServer
from streamedge.delivery.net.accept import AcceptRules
from streamedge.delivery.net.protocol_detection import DetectedProtocol

if TYPE_CHECKING:
    from streamedge.delivery.http.server import WebServer
    from streamedge.delivery.rtmp.server import RtmpServer


def mixed_server(
    config: Config,
    web: WebServer,
    rtmp: RtmpServer,
    context: ssl.SSLContext | None,
    parts: ServerParts,
) -> MixedServer:
    """The server of ``listen.mixed`` and ``listen.rtmps``. ``context``: None without TLS."""
    rules = AcceptRules(
        config.listen.proxies,
        waiting_max=config.limits.http_connections,
        per_address_max=_undecided_per_address(config),
        descriptors_end=parts.descriptors_end,
    )
    routes = {
        DetectedProtocol.RTMP: rtmp.route,
        DetectedProtocol.RTMPT: rtmp.tunnel_route,
        DetectedProtocol.HTTP: web.route(is_http2=False),
        DetectedProtocol.HTTP2: web.route(is_http2=True),
    }
    if config.listen.rtmpe:
        routes[DetectedProtocol.RTMPE] = rtmp.route
    return MixedServer(
        routes,
        context,
        rules,
        parts.log,
        parts.counts,
        handshake_s=config.limits.tls_handshake,
    )


def limit_mixed(server: MixedServer, config: Config) -> None:
    """Replaces the limits of a running server."""
    server.limit(config.limits.tls_handshake, _undecided_per_address(config))


def _undecided_per_address(config: Config) -> int:
    """How many connections of one address may be without a server: the larger of both limits."""
    limits = config.limits
    return max(limits.http_connections_per_address, limits.rtmp_connections_per_address)
