"""A certificate authority for one test run; the test clients trust it."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

VALID = timedelta(days=2)


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate with its chain, and its key, as PEM files."""

    certificate: Path
    key: Path


class CertificateAuthority:
    """``root`` is the file that clients trust."""

    def __init__(self, folder: Path, name: str = "Test authority") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        self._issued = 0
        builder = _builder(self._name, self._name, self._key).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        self._certificate = builder.sign(self._key, hashes.SHA256())
        self.root = folder / "root.pem"
        self.root.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def issue(
        self,
        *names: str,
        into: Pair | None = None,
        extension: x509.ExtensionType | None = None,
        has_expired: bool = False,
    ) -> Pair:
        """Issues a certificate for DNS names; ``into`` replaces the files of an older one."""
        self._issued += 1
        key = ec.generate_private_key(ec.SECP256R1())
        end = -VALID / 2 if has_expired else VALID
        builder = _builder(_name(f"Test {self._issued}"), self._name, key, end)
        if names:
            alternatives = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
            builder = builder.add_extension(alternatives, critical=False)
        if extension is not None:
            builder = builder.add_extension(extension, critical=False)
        signed = builder.sign(self._key, hashes.SHA256())
        pair = into or Pair(
            self._folder / f"{self._issued}.pem", self._folder / f"{self._issued}.key"
        )
        replace(pair.certificate, signed.public_bytes(serialization.Encoding.PEM))
        replace(
            pair.key,
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
        )
        return pair

    def client(self) -> ssl.SSLContext:
        """A client context that detects truncation (RFC 8446 §6.1)."""
        context = ssl.create_default_context(cafile=str(self.root))
        context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF  # set by Pythons up to 3.11.2
        return context


def replace(path: Path, data: bytes) -> None:
    """Replaces a file atomically, as programs that renew certificates do."""
    new_file = path.with_suffix(".new")
    new_file.write_bytes(data)
    os.replace(new_file, path)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    end: timedelta = VALID,
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - VALID)
        .not_valid_after(now + end)
    )
