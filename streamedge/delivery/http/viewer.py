"""What log lines say of a viewer's connection."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from functools import lru_cache

from streamedge.delivery.net.accept import Peer
from streamedge.delivery.net.tls import TlsConnection
from streamedge.logs.cloudfront import NO_TLS, tls_text
from streamedge.logs.escaping import escape

ViewerText = tuple[bytes, bytes, bytes, bytes]
"""The client, the address, the port and the TLS version and cipher of a viewer, as log lines have
them. A plain tuple is unpacked in a fifth of the time of a NamedTuple."""


@dataclass(frozen=True, slots=True)
class Viewer:
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
    text = client.encode(), escape(peer.address).encode(), b"%d" % peer.port, _shared_text(tls)
    return Viewer(client, peer.address, peer.port, tls, text)


@lru_cache(maxsize=64)
def _shared_text(text: str) -> bytes:
    """Equal texts are one object, which log lines of hits compare by identity."""
    return text.encode()
