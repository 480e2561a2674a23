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
    """The contexts of a process, as a client and as a server.

    Raises OSError (which ssl.SSLError is) for a file that cannot be used.
    """

    def __init__(self, files: FleetFiles) -> None:
        self._files = files
        self._stamp = _stamp(files)
        self.client = _context(ssl.PROTOCOL_TLS_CLIENT, files)
        self.server = _context(ssl.PROTOCOL_TLS_SERVER, files)
        self.server.verify_mode = ssl.CERT_REQUIRED
        self.server.num_tickets = 0  # edges keep their connections, and resume none

    def reload_if_changed(self) -> bool:
        """Uses a renewed certificate for new connections; whether there was one. Blocks.

        Raises OSError, and then keeps the certificate that it has.
        """
        stamp = _stamp(self._files)
        if stamp == self._stamp:
            return False
        _context(ssl.PROTOCOL_TLS_CLIENT, self._files)  # the key belongs to the certificate
        for context in (self.client, self.server):
            _load(context, self._files)
        self._stamp = stamp
        return True


def certified_names(connection: ssl.SSLObject) -> frozenset[str]:
    """The DNS names in the peer's certificate, which was verified."""
    certificate: Mapping[str, Any] = connection.getpeercert() or {}
    return frozenset(
        str(value) for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"
    )


def _context(protocol: int, files: FleetFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols([_PROTOCOL])
    _load(context, files)
    return context


def _load(context: ssl.SSLContext, files: FleetFiles) -> None:
    context.load_verify_locations(cafile=files.ca)
    context.load_cert_chain(files.certificate, files.key, _no_password)


def _no_password() -> str:
    """Keeps OpenSSL from prompting on the terminal."""
    return ""


def _stamp(files: FleetFiles) -> tuple[tuple[int, int, int], ...]:
    """Inode, modification time in ns and size of each file. Raises OSError."""
    states = map(os.stat, (files.ca, files.certificate, files.key))
    return tuple((state.st_ino, state.st_mtime_ns, state.st_size) for state in states)
