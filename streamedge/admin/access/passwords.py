"""Hashes of passwords (scrypt, RFC 7914) and of tokens (SHA-256), as one line of text each. Pure.

    scrypt:LOG2N:R:P:SALT:KEY    salt of 16 bytes and key of 32, base64url without padding
    sha256:DIGEST                of a token of 256 random bits, which no dictionary has

A check of a password takes a third of a second and 32 MiB by design: never on an event loop.
"""

from __future__ import annotations

import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import scrypt, sha256
from hmac import compare_digest
from unicodedata import normalize

from streamedge.config.schema.admin import PASSWORD_HASH

LOG2_N, R, P = 15, 8, 3  # one of the equally strong settings of OWASP's password storage page
SALT_BYTES = 16
KEY_BYTES = 32
TOKEN_BYTES = 32
PASSWORD_CHARACTERS_MAX = 1024
_MEMORY_MAX_BYTES = 256 << 20  # above 128 * N * R, of which OpenSSL needs a little more


def hash_password(password: str, salt: bytes | None = None) -> str:
    """The line for ``[admin.users.NAME]``; a random salt by default."""
    salt = secrets.token_bytes(SALT_BYTES) if salt is None else salt
    key = _derive(password, salt, LOG2_N, R, P)
    return f"scrypt:{LOG2_N}:{R}:{P}:{_encode(salt)}:{_encode(key)}"


def is_password(password: str, line: str) -> bool:
    """Whether ``line`` is the hash of ``password``; False for any other text."""
    match = PASSWORD_HASH.fullmatch(line)
    if match is None or len(password) > PASSWORD_CHARACTERS_MAX:
        return False
    log2_n, r, p = int(match[1]), int(match[2]), int(match[3])
    key = _derive(password, _decode(match[4]), log2_n, r, p)
    return compare_digest(key, _decode(match[5]))


def new_token() -> str:
    """A random token."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def hash_token(token: str) -> str:
    """The line for ``[admin.tokens.NAME]``."""
    return f"sha256:{sha256(token.encode(errors='surrogatepass')).hexdigest()}"


def _derive(password: str, salt: bytes, log2_n: int, r: int, p: int) -> bytes:
    # One text has several encodings, and keyboards differ in theirs (RFC 8265 §4.2).
    octets = normalize("NFC", password).encode(errors="surrogatepass")
    n = 1 << log2_n
    return scrypt(octets, salt=salt, n=n, r=r, p=p, maxmem=_MEMORY_MAX_BYTES, dklen=KEY_BYTES)


def _encode(octets: bytes) -> str:
    return urlsafe_b64encode(octets).decode().rstrip("=")


def _decode(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
