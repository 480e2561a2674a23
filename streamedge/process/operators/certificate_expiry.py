"""When the certificates of a config expire, for operators.

The control process reads the files itself, once a minute: a certificate that workers have refused
is reported as it is in its file, and the log has the reason why they did not load it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from streamedge.config.schema.config import Config

READ_INTERVAL_S = 60.0
NAMES_MAX = 20  # of a certificate


@dataclass(frozen=True, slots=True)
class CertificateExpiry:
    """A certificate file, its first names, and its end in seconds since 1970.

    ``expires_s`` is None where the file cannot be read; ``problem`` says why.
    """

    certificate: str
    names: tuple[str, ...] = ()
    expires_s: float | None = None
    problem: str = ""


class CertificateExpiries:
    """The expiries of all certificates of the config that ``config`` returns."""

    def __init__(self, config: Callable[[], Config]) -> None:
        self._config = config
        self.all: Sequence[CertificateExpiry] = ()

    async def run(self) -> None:
        """Reads the files again and again, until cancelled."""
        while True:
            self.all = await asyncio.to_thread(self.read)
            await asyncio.sleep(READ_INTERVAL_S)

    def read(self) -> Sequence[CertificateExpiry]:
        """Reads the files. Blocks."""
        config = self._config()
        files = [section.certificate for section in config.certificates]
        if config.admin.certificate is not None:
            files.append(config.admin.certificate)
        return [_read(file) for file in dict.fromkeys(files)]


def _read(file: Path) -> CertificateExpiry:
    from cryptography import x509  # noqa: PLC0415  # only with certificates

    from streamedge.config.checks.files import dns_names  # noqa: PLC0415

    try:
        leaf = x509.load_pem_x509_certificate(file.read_bytes())
        names = tuple(dns_names(leaf))[:NAMES_MAX]
    except (OSError, ValueError) as exc:
        return CertificateExpiry(str(file), problem=str(exc))
    return CertificateExpiry(str(file), names, leaf.not_valid_after_utc.timestamp())
