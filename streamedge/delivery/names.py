"""From what a viewer spells to an object's name: never outside the origin's prefix.

Pure. An object's name is its path below the origin, decoded, without a leading slash.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

NAME_BYTES_MAX = 1024  # S3's limit on keys
_NEVER = re.compile(rb"[\0-\x1f\x7f\\]")  # what ends a line or a name for some reader


def object_name(spelled: str | bytes) -> str | None:
    """The name that a percent-encoded path spells, or None when it is not a name at all.

    Refused: ".." and "." segments (encoded or not), control characters, backslashes, more than
    NAME_BYTES_MAX, what is not UTF-8, and the empty name. It is decoded exactly once.
    """
    decoded = unquote_to_bytes(spelled).removeprefix(b"/")
    if not decoded or len(decoded) > NAME_BYTES_MAX or _NEVER.search(decoded):
        return None
    if any(segment in {b"..", b"."} for segment in decoded.split(b"/")):
        return None
    try:
        return decoded.decode("utf-8")
    except UnicodeDecodeError:
        return None
