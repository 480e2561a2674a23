"""What log lines say of a viewer's connection."""

from __future__ import annotations

import asyncio
import ssl
from typing import NamedTuple

from streamedge.delivery.net.accept import Peer
from streamedge.delivery.net.tls import TlsConnection
from streamedge.logs.cloudfront import NO_TLS, tls_text


class Viewer(NamedTuple):
    """The client of a connection. ``client`` is address and port as one text; ``tls`` is the
    version and cipher as in CloudFront's log.
    """

    client: str
    address: str
    port: int
    tls: str = NO_TLS


def viewer_of(peer: Peer, transport: asyncio.BaseTransport) -> Viewer:
    """The viewer of a connection that has been made."""
    tls = NO_TLS
    if isinstance(transport, TlsConnection):
        connection = transport.get_extra_info("ssl_object")
        if isinstance(connection, ssl.SSLObject):
            cipher = connection.cipher()
            tls = tls_text(connection.version(), None if cipher is None else cipher[0])
    return Viewer(str(peer), peer.address, peer.port, tls)
