"""TLS towards origins: whom the edge trusts, and what it shows of itself.

Owns the making of contexts. Reading certificates blocks, so whoever needs a context makes it off
the event loop's thread, at the first connection.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True, slots=True)
class TlsRules:
    """``verify``: whether the server's certificate and name are checked, against the authorities
    in ``ca`` or the system's. ``client_certificate`` (with its chain) and ``client_key`` are shown
    to servers that ask (mutual TLS). All are PEM files.
    """

    verify: bool = True
    ca: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """A new context. Raises OSError (which ssl.SSLError is) for a file that cannot be used."""
        context = ssl.create_default_context(cafile=self.ca)
        context.set_alpn_protocols(["http/1.1"])
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.client_certificate is not None:
            context.load_cert_chain(self.client_certificate, self.client_key, _no_password)
        return context


@cache
def system_tls() -> ssl.SSLContext:
    """What trusts the system's authorities: made at the first need, and one for all."""
    return TlsRules().context()


def _no_password() -> str:
    """OpenSSL must not ask the terminal."""
    return ""
