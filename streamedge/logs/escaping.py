"""Values of CloudFront's logs: percent-encoding, and the mask over signatures. Pure.

Source: CloudFront Developer Guide, "Configuring and using standard logs", "Standard log file
format".
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes

from streamedge.memo import cache_short_texts

ABSENT: Final = "-"
"""A value that there is none of."""

MASK: Final = "***"

_CODES: Final = {
    chr(code): f"%{code:02X}"
    for code in (*range(33), *range(127, 256), *map(ord, "<>\"#%{}|\\^~[]`'"))
}
_ENCODED = re.compile(f"[{re.escape(''.join(_CODES))}]")

# Signatures of CloudFront in queries and cookies, and of S3 in queries; a Referer may have one too,
# and players encode "?", "&" and "=".
_SECRETS = re.compile(
    r"((?:^|[?&;\s]|%3F|%26|%3B)(?:CloudFront-)?"
    r"(?:Policy|Signature|Key-Pair-Id|X-Amz-Signature|X-Amz-Security-Token)(?:=|%3D))[^&;\s#]+",
    re.IGNORECASE,
)


@cache_short_texts(4096, 512)
def escape(value: str) -> str:
    """A value as CloudFront writes it. A character of ``value`` is one byte (Latin-1).

    What the viewer sent with percent signs has them encoded once more. A value "-" is written
    "%2D", because "-" means that there is no value.
    """
    if value == ABSENT:
        return "%2D"
    return _ENCODED.sub(_code, value)


def escape_or_absent(value: str | None) -> str:
    """As ``escape``; "-" for None and for an empty value."""
    return escape(value) if value else ABSENT


def unescape(text: str) -> str | None:
    """The value that ``escape_or_absent`` writes as ``text``; None for "-"."""
    return None if text == ABSENT else unquote_to_bytes(text).decode("latin-1")


def masked(value: str) -> str:
    """``value`` with MASK in place of each signature, policy and key pair id."""
    return _SECRETS.sub(rf"\g<1>{MASK}", value)


def _code(match: re.Match[str]) -> str:
    return _CODES[match[0]]
