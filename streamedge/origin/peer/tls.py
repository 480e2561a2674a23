"""TLS between the edges of a fleet: version 1.3, certificates of the fleet's CA on both sides.

An edge is known by the DNS name in its certificate, which is its name, and not by its address.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PROTOCOL = "http/1.1"


@dataclass(frozen=True, slots=True)
class FleetFiles:
    """The PEM files of an edge: the fleet's CA, its own certificate, and that one's key."""

    ca: Path
    certificate: Path
    key: Path


class FleetTls:
    """The contexts of a process, as a client and as a server, for new connections.

    Raises OSError (which ssl.SSLError is) for a file that cannot be used.
    """

    def __init__(self, files: FleetFiles) -> None:
        self._files = files
        self._stamp = _stamp(files)
        self.client, self.server = _contexts(files)

    def reload_if_changed(self) -> bool:
        """Replaces both contexts when a file has changed; whether one has. Blocks.

        The new contexts trust nothing but what the files have now. Raises OSError, and then keeps
        the contexts that it has.
        """
        stamp = _stamp(self._files)
        if stamp == self._stamp:
            return False
        self.client, self.server = _contexts(self._files)
        self._stamp = stamp
        return True


def certified_names(connection: ssl.SSLObject) -> frozenset[str]:
    """The DNS names in the peer's certificate, which was verified."""
    certificate: Mapping[str, Any] = connection.getpeercert() or {}
    return frozenset(
        str(value) for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"
    )


def _contexts(files: FleetFiles) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A client's context and a server's."""
    client, server = map(_context, (ssl.PROTOCOL_TLS_CLIENT, ssl.PROTOCOL_TLS_SERVER))
    for context in (client, server):
        context.load_verify_locations(cafile=files.ca)
        context.load_cert_chain(files.certificate, files.key, _no_password)
    server.verify_mode = ssl.CERT_REQUIRED
    server.num_tickets = 0  # edges keep their connections, and resume none
    return client, server


def _context(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols([_PROTOCOL])
    return context


def _no_password() -> str:
    """Keeps OpenSSL from prompting on the terminal."""
    return ""


def _stamp(files: FleetFiles) -> tuple[tuple[int, int, int], ...]:
    """Inode, modification time in ns and size of each file. Raises OSError."""
    states = map(os.stat, (files.ca, files.certificate, files.key))
    return tuple((state.st_ino, state.st_mtime_ns, state.st_size) for state in states)
