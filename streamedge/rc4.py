"""RC4, which RTMPE needs. OpenSSL has it in its "legacy" provider, which a system may not have."""

from __future__ import annotations

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.decrepit.ciphers.algorithms import ARC4
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext


def rc4(key: bytes, *, dropped_bytes: int) -> CipherContext:
    """A key stream without its first bytes; encrypts and decrypts. Raises UnsupportedAlgorithm."""
    cipher = Cipher(ARC4(key), None).encryptor()
    cipher.update(bytes(dropped_bytes))
    return cipher


def is_available() -> bool:
    """Whether this system's OpenSSL has RC4."""
    try:
        rc4(bytes(16), dropped_bytes=0)
    except UnsupportedAlgorithm:
        return False
    return True
