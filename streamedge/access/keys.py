"""Public keys of signers: reading PEM and verifying signatures.

Accepted are RSA keys of 2048 to 4096 bits (PKCS#1 v1.5) and ECDSA keys on P-256 (DER signatures),
as in CloudFront's PublicKeyConfig. No private key is ever read, and no message quotes the content
of a file. Pure: the caller reads the file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Literal, NamedTuple

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from streamedge.errors import StreamEdgeError

HashName = Literal["SHA1", "SHA256"]

PEM_LIMIT_BYTES = 16 << 10
RSA_BITS_MIN = 2048
RSA_BITS_MAX = 4096


class KeyFileError(StreamEdgeError):
    """A PEM file has no supported public key; the message is for the operator."""


@dataclass(frozen=True, slots=True, eq=False)
class PublicKey:
    """A signer's public key. Keys are equal if id and key are, so a reloaded key is the same.

    ``fingerprint``: SHA-256 of the DER SubjectPublicKeyInfo, 64 hexadecimal digits. ``algorithm``
    in words: ``"RSA-2048"``, ``"ECDSA P-256"``.
    """

    key_id: str
    fingerprint: str
    algorithm: str
    _verifies: Callable[[bytes, bytes, HashName], bool] = field(repr=False)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PublicKey):
            return NotImplemented
        return self.fingerprint == other.fingerprint and self.key_id == other.key_id

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def verifies(self, signature: bytes, message: bytes, hash_name: HashName) -> bool:
        """Whether ``signature`` is a valid signature of ``message`` by this key."""
        return self._verifies(signature, message, hash_name)


def load_public_key(key_id: str, pem: bytes) -> PublicKey:
    """The public key in ``pem``, SubjectPublicKeyInfo or PKCS#1. Raises KeyFileError."""
    if len(pem) > PEM_LIMIT_BYTES:
        raise KeyFileError(f"expected a public key in at most {PEM_LIMIT_BYTES} bytes of PEM")
    if b"PRIVATE KEY-----" in pem:
        raise KeyFileError("this is a private key: the edge needs only the public key")
    return PublicKey(key_id, *parse_key(pem))


# SHA-1 is CloudFront's default, and most signers use it.
HASHES: dict[HashName, SHA1 | SHA256] = {"SHA1": SHA1(), "SHA256": SHA256()}  # noqa: S303


class ParsedKey(NamedTuple):
    """A key's fingerprint, algorithm, and function that verifies (signature, message, hash)."""

    fingerprint: str
    algorithm: str
    verifies: Callable[[bytes, bytes, HashName], bool]


def parse_key(pem: bytes) -> ParsedKey:
    """The public key in ``pem``. Raises KeyFileError."""
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise KeyFileError(
            'expected a public key in PEM, beginning "-----BEGIN PUBLIC KEY-----"'
        ) from exc
    if isinstance(key, RSAPublicKey) and RSA_BITS_MIN <= key.key_size <= RSA_BITS_MAX:
        algorithm, verifies = f"RSA-{key.key_size}", _rsa(key)
    elif isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        algorithm, verifies = "ECDSA P-256", _ecdsa(key)
    else:
        raise KeyFileError(
            f"expected an RSA key of {RSA_BITS_MIN} to {RSA_BITS_MAX} bits or an ECDSA key on P-256"
        )
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return ParsedKey(sha256(der).hexdigest(), algorithm, verifies)


def _rsa(key: RSAPublicKey) -> Callable[[bytes, bytes, HashName], bool]:
    def verifies(signature: bytes, message: bytes, hash_name: HashName) -> bool:
        try:
            key.verify(signature, message, PKCS1v15(), HASHES[hash_name])
        except InvalidSignature:
            return False
        return True

    return verifies


def _ecdsa(key: EllipticCurvePublicKey) -> Callable[[bytes, bytes, HashName], bool]:
    def verifies(signature: bytes, message: bytes, hash_name: HashName) -> bool:
        try:
            key.verify(signature, message, ECDSA(HASHES[hash_name]))
        except InvalidSignature:
            return False
        return True

    return verifies
