"""Decodes a URL path to an object's name, which never leaves the origin's prefix.

Pure. An object's name is its path below the origin, decoded, without a leading slash. A site has
resources, not objects, and interprets its paths itself (RFC 3986 §2.2): there the name selects the
rules, and the path itself is the key and goes to the origin octet for octet.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

NAME_BYTES_MAX = 1024  # S3's limit on keys
# Bytes that end a line or a name for some parsers; dots and slashes in overlong UTF-8.
_NEVER = re.compile(rb"[\0-\x1f\x7f\\]|\xc0[\xae\xaf]|\xc1\x9c|\xe0\x80[\xae\xaf]")


def object_name(path: str | bytes) -> str | None:
    """The name of a percent-encoded path, or None when it is no valid name.

    Refused: ".." and "." segments (encoded or not), control characters, backslashes, more than
    NAME_BYTES_MAX, what is not UTF-8, and the empty name. It is decoded exactly once.
    """
    name = path_name(path)
    return name if name is not None and is_object_name(name) else None


def is_object_name(name: str) -> bool:
    """Whether a path's name may be an object's: not empty, UTF-8, at most NAME_BYTES_MAX."""
    try:
        return 0 < len(name.encode("utf-8")) <= NAME_BYTES_MAX
    except UnicodeEncodeError:
        return False


def path_name(path: str | bytes) -> str | None:
    """Decodes a percent-encoded path once; None for a path that is refused.

    Refused: what some server would interpret as another path or as the end of a line: "." and ".."
    segments (encoded or not, with parameters or without), control characters and backslashes.
    Octets that are not UTF-8 become lone surrogates.
    """
    decoded = unquote_to_bytes(path).removeprefix(b"/")
    if _NEVER.search(decoded):
        return None
    if b"/." in b"/" + decoded and any(
        segment.partition(b";")[0] in {b"..", b"."} for segment in decoded.split(b"/")
    ):
        return None
    return decoded.decode("utf-8", "surrogateescape")
