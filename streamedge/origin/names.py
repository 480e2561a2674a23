"""From the name of an object to its key or path at an origin.

No name leads outside the origin's prefix. Pure: names in, keys and paths out, or ``OriginError``
NOT_FOUND for a name that no object can have.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

from streamedge.errors import OriginError, OriginFailure

KEY_MAX_BYTES = 1024  # S3's own limit (Amazon S3 User Guide, "Naming Amazon S3 objects")

_DOT_SEGMENTS = frozenset({".", ".."})
_FORBIDDEN_CHARS = re.compile(r"[\0-\x1f\x7f\\]")
_PATH = re.compile(r"[!\"$->@-~]*")  # printable, neither "#" nor "?"
_SEGMENTS = "/~!$&'()*+,;=:@"
_UNRESERVED = "/~"  # quote() itself leaves letters, digits, "_", "." and "-" alone


def object_key(prefix: str, name: str) -> str:
    """The key of ``name`` below ``prefix``, both decoded; ``prefix`` is a folder ("" is none).

    Raises OriginError NOT_FOUND for a dot segment (RFC 3986 §3.3), a control character, a
    backslash (a path separator to some servers), text that is not UTF-8, or a key over
    KEY_MAX_BYTES. Single dots are refused with the double ones: many servers drop them, and one
    object would have two names.
    """
    folder = prefix.strip("/")
    key = f"{folder}/{name}" if folder else name
    if not _DOT_SEGMENTS.isdisjoint(key.split("/")):
        raise _refusal(name, "has a dot segment")
    if _FORBIDDEN_CHARS.search(key):
        raise _refusal(name, "has a control character or a backslash")
    try:
        size_bytes = len(key.encode())
    except UnicodeEncodeError as exc:
        raise _refusal(name, "is not UTF-8") from exc
    if size_bytes > KEY_MAX_BYTES:
        raise _refusal(name, f"is longer than {KEY_MAX_BYTES} bytes")
    return key


def object_path(prefix: str, name: str) -> str:
    """``object_key`` as a URL path without a leading slash: every byte but ``/`` and RFC 3986's
    unreserved characters is percent-encoded, which is also how S3 signs a key (AWS Signature
    Version 4, "Create a canonical request").
    """
    return quote(object_key(prefix, name), safe=_UNRESERVED)


def site_path(name: str) -> str:
    """A name as the path of a URL, without a leading slash, encoded as browsers do: characters
    that RFC 3986 §3.3 allows in a segment are not encoded."""
    return quote(name, safe=_SEGMENTS, errors="surrogateescape")


def site_target(prefix: str, path: str) -> str:
    """``path``, percent-encoded, below a folder: unchanged octet for octet (RFC 9110 §7.7).

    Raises OriginError NOT_FOUND for an invalid path or one with a dot segment.
    """
    if not _PATH.fullmatch(path):
        raise _refusal(path, "is not a path")
    if not _DOT_SEGMENTS.isdisjoint(unquote(path).split("/")):
        raise _refusal(path, "has a dot segment")
    folder = site_path(prefix.strip("/")) if prefix else ""
    return f"{folder}/{path}" if folder else path


def _refusal(name: str, reason: str) -> OriginError:
    quoted = ascii(name if len(name) <= 100 else name[:100] + "…")
    return OriginError(OriginFailure.NOT_FOUND, f"no object can be named {quoted}: it {reason}")
