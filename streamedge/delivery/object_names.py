"""From what a viewer spells to an object's name: never outside the origin's prefix.

Pure. An object's name is its path below the origin, decoded, without a leading slash. A site has
no objects but resources, whose paths are its own to read (RFC 3986 §2.2): there the name says which
rules hold, and the path itself is the key and goes to the origin octet for octet.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

NAME_BYTES_MAX = 1024  # S3's limit on keys
# What ends a line or a name for some reader; and dots and slashes in overlong UTF-8.
_NEVER = re.compile(rb"[\0-\x1f\x7f\\]|\xc0[\xae\xaf]|\xc1\x9c|\xe0\x80[\xae\xaf]")


def object_name(spelled: str | bytes) -> str | None:
    """The name that a percent-encoded path spells, or None when it is not a name at all.

    Refused: ".." and "." segments (encoded or not), control characters, backslashes, more than
    NAME_BYTES_MAX, what is not UTF-8, and the empty name. It is decoded exactly once.
    """
    name = path_name(spelled)
    return name if name is not None and is_object_name(name) else None


def is_object_name(name: str) -> bool:
    """Whether a path's name may be an object's: not empty, UTF-8, at most NAME_BYTES_MAX."""
    try:
        return 0 < len(name.encode("utf-8")) <= NAME_BYTES_MAX
    except UnicodeEncodeError:
        return False


def path_name(spelled: str | bytes) -> str | None:
    """What a percent-encoded path means, decoded once; None for a path that nobody may ask for.

    Refused: what some server would read as another place or as the end of a line: "." and ".."
    segments (encoded or not, with parameters or without), control characters and backslashes.
    Octets that are not UTF-8 become lone surrogates.
    """
    decoded = unquote_to_bytes(spelled).removeprefix(b"/")
    if _NEVER.search(decoded):
        return None
    if any(segment.partition(b";")[0] in {b"..", b"."} for segment in decoded.split(b"/")):
        return None
    return decoded.decode("utf-8", "surrogateescape")
