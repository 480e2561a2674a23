"""Checks that this system has the ciphers that the config needs."""

from __future__ import annotations

from collections.abc import Iterator

from streamedge.config.errors.mistakes import Mistake
from streamedge.config.errors.schema_location import value_at

_RTMPE = ("listen", "rtmpe")


def cipher_mistakes(document: dict[str, object]) -> Iterator[Mistake]:
    """RTMPE without RC4."""
    if value_at(document, _RTMPE) is True and not _has_rc4():
        yield Mistake(
            _RTMPE,
            "RTMPE needs RC4, which this system's OpenSSL does not have: set false, or install"
            " OpenSSL's legacy provider (Debian and Ubuntu: openssl-provider-legacy) and unset"
            " CRYPTOGRAPHY_OPENSSL_NO_LEGACY",
        )


def _has_rc4() -> bool:
    from streamedge import rc4  # noqa: PLC0415  # slow, seldom needed

    return rc4.is_available()
