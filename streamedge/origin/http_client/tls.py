"""TLS contexts for connections to origins: trusted authorities and client certificates.

Reading certificates blocks, so a context is made in a thread, for the first connection.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True, slots=True)
class TlsRules:
    """``verify``: whether the server's certificate and name are checked, against the authorities
    in ``ca`` or the system's. ``client_certificate`` (with its chain) and ``client_key`` are sent
    to servers that request them (mutual TLS). All are PEM files.
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
    """The one context that trusts the system's authorities, made when it is first needed."""
    return TlsRules().context()


def _no_password() -> str:
    """Keeps OpenSSL from prompting on the terminal."""
    return ""
