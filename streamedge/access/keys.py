"""Public keys of signers: read from PEM, named by an id, asked whether a signature is theirs.

Owns which keys will do (RSA of 2048 to 4096 bits with PKCS#1 v1.5, ECDSA on P-256 with DER
signatures, as CloudFront's PublicKeyConfig has them); ``verification`` does it. It never holds a
private key, and no message here quotes what a file holds. Pure: the caller has read the file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from streamedge.errors import StreamEdgeError

HashName = Literal["SHA1", "SHA256"]

PEM_LIMIT_BYTES = 16 << 10
RSA_BITS_MIN = 2048
RSA_BITS_MAX = 4096


class KeyFileError(StreamEdgeError):
    """A PEM file has no public key that will do; the message is fit for the operator."""


@dataclass(frozen=True, slots=True, eq=False)
class PublicKey:
    """A signer's public key. Two are equal when id and key are: a reloaded one is the same.

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
        """Whether ``signature`` is this key's of ``message``; bytes that are none are not."""
        return self._verifies(signature, message, hash_name)


def load_public_key(key_id: str, pem: bytes) -> PublicKey:
    """The public key in ``pem``, SubjectPublicKeyInfo or PKCS#1. Raises KeyFileError."""
    if len(pem) > PEM_LIMIT_BYTES:
        raise KeyFileError(f"expected a public key in at most {PEM_LIMIT_BYTES} bytes of PEM")
    if b"PRIVATE KEY-----" in pem:
        raise KeyFileError("this is a private key: the edge needs the public one alone")
    # An edge whose viewers need no signature starts without the library.
    from streamedge.access.verification import read_key  # noqa: PLC0415

    return PublicKey(key_id, *read_key(pem))
