"""How a public key is read from PEM, and how it says whether a signature is its own.

Owns RSA (PKCS#1 v1.5) and ECDSA (P-256, DER signatures), by the library ``cryptography``, which
takes long to import: ``keys`` asks for this module when the first key is read.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import NamedTuple

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

from streamedge.access.keys import RSA_BITS_MAX, RSA_BITS_MIN, HashName, KeyFileError

# SHA-1 is CloudFront's default, and what most signers in use have.
HASHES: dict[HashName, SHA1 | SHA256] = {"SHA1": SHA1(), "SHA256": SHA256()}  # noqa: S303


class KeyRead(NamedTuple):
    """A key's fingerprint and algorithm, and what verifies: signature, message, hash."""

    fingerprint: str
    algorithm: str
    verifies: Callable[[bytes, bytes, HashName], bool]


def read_key(pem: bytes) -> KeyRead:
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
    spelled = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return KeyRead(sha256(spelled).hexdigest(), algorithm, verifies)


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
