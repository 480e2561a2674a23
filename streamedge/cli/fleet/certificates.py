"""Makes the CA of a fleet and the certificates of its edges.

Every edge trusts this CA alone, for connections between edges. Keys are ECDSA on P-256.
"""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from streamedge.errors import StreamEdgeError

CA_DAYS = 3650
CLOCK_TOLERANCE = timedelta(hours=1)  # of an edge whose clock is behind
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class CertificateFilesError(StreamEdgeError):
    """Why a certificate cannot be made; the message says what to do."""


def make_certificate(name: str, ca: Path, days: int) -> list[Path]:
    """Writes NAME.pem and NAME.key beside the CA, which is made if it is missing.

    Returns the files that were written. Raises CertificateFilesError.
    """
    if not _NAME.fullmatch(name):
        raise CertificateFilesError(
            f"{name[:64]!a} is no name of an edge: use letters, digits, '_' and '-'"
        )
    ca_key_file = ca.with_suffix(".key")
    written = []
    try:
        if not ca.exists() and not ca_key_file.exists():
            _make_ca(ca, ca_key_file)
            written += [ca, ca_key_file]
        authority, key = _load_ca(ca, ca_key_file)
        files = ca.with_name(f"{name}.pem"), ca.with_name(f"{name}.key")
        if ca in files:
            raise CertificateFilesError(f"the CA has the name {ca}: give it another one")
        _make_leaf(name, authority, key, days, *files)
    except OSError as exc:
        raise CertificateFilesError(f"{exc.filename or ca}: {exc.strerror}") from exc
    return [*written, *files]


def _make_ca(certificate_file: Path, key_file: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _x509_name("StreamEdge fleet CA")
    builder = _builder(name, name, key.public_key(), CA_DAYS)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    _write(key_file, _key_pem(key), 0o600)
    _write(certificate_file, certificate.public_bytes(serialization.Encoding.PEM), 0o644)


def _load_ca(
    certificate_file: Path, key_file: Path
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    for file in (certificate_file, key_file):
        if not file.exists():
            raise CertificateFilesError(
                f"{file} is missing: the CA needs both files; name its certificate with --ca"
            )
    try:
        certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
        key = serialization.load_pem_private_key(key_file.read_bytes(), None)
    except (ValueError, TypeError) as exc:
        raise CertificateFilesError(
            f"{certificate_file} and {key_file} are no CA in PEM without a password"
        ) from exc
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CertificateFilesError(f"{key_file} holds no ECDSA key")
    if key.public_key() != certificate.public_key():
        raise CertificateFilesError(f"{key_file} is not the key of {certificate_file}")
    return certificate, key


def _make_leaf(
    name: str,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    days: int,
    certificate_file: Path,
    key_file: Path,
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    issuer_identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(
        authority_key.public_key()
    )
    certificate = (
        _builder(_x509_name(name), authority.subject, key.public_key(), days)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(issuer_identifier, critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    _write(key_file, _key_pem(key), 0o600)
    _write(certificate_file, certificate.public_bytes(serialization.Encoding.PEM), 0o644)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_TOLERANCE)
        .not_valid_after(now + timedelta(days=days))
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _x509_name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _write(path: Path, data: bytes, mode: int) -> None:
    """Replaces a file at once, so that an edge reads the old or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new_file = path.with_name(f".{path.name}.new")
    new_file.unlink(missing_ok=True)
    descriptor = os.open(new_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(descriptor, "wb") as file:
        file.write(data)
        os.fsync(file.fileno())
    os.replace(new_file, path)
