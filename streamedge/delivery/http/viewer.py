"""What log lines say of a viewer's connection."""

from __future__ import annotations

import asyncio
import ssl
from typing import NamedTuple

from streamedge.delivery.net.accept import Peer
from streamedge.delivery.net.tls import TlsConnection
from streamedge.logs.cloudfront import NO_TLS, tls_text
from streamedge.logs.escaping import escape


class ViewerText(NamedTuple):
    """The values of a viewer as log lines have them."""

    client: bytes
    address: bytes
    port: bytes
    tls: bytes


class Viewer(NamedTuple):
    """The client of a connection. ``client`` is address and port as one text; ``tls`` is the
    version and cipher as in CloudFront's log.
    """

    client: str
    address: str
    port: int
    tls: str
    text: ViewerText


def viewer_of(peer: Peer, transport: asyncio.BaseTransport) -> Viewer:
    """The viewer of a connection that has been made."""
    tls = NO_TLS
    if isinstance(transport, TlsConnection):
        connection = transport.get_extra_info("ssl_object")
        if isinstance(connection, ssl.SSLObject):
            cipher = connection.cipher()
            tls = tls_text(connection.version(), None if cipher is None else cipher[0])
    return viewer_at(peer, tls)


def viewer_at(peer: Peer, tls: str = NO_TLS) -> Viewer:
    """The viewer at an address, over TLS or not."""
    client = str(peer)
    values = client, escape(peer.address), str(peer.port), tls
    text = ViewerText(*(value.encode() for value in values))
    return Viewer(client, peer.address, peer.port, tls, text)
