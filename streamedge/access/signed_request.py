"""Parses signatures of requests: in the query of a URL or a stream's name, or in cookies.

A parameter that is missing, repeated, too long or not in the form that signers write is an error,
so one signature has one text form. The signature is not verified here. Pure.

Source: CloudFront Developer Guide, "Creating a signed URL using a canned policy" and the pages
beside it; "Set signed cookies using a canned policy" and "… a custom policy".
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

from streamedge.access.keys import HashName

PARSED_QUERIES_MAX = 1024  # cached, because a player repeats its query
PARSED_CHARACTERS_MAX = 4096  # longer ones are not cached, so all entries take at most 8 MiB
SIGNATURE_LIMIT_BYTES = 8 << 10

COOKIE_PREFIX = "CloudFront-"
_TO_URL_SAFE = str.maketrans("+=/", "-_~")
_FROM_URL_SAFE = str.maketrans("-_~", "+=/")
_EXPIRES = re.compile(r"0|[1-9][0-9]{0,11}")
_HASH_NAMES: Final[Mapping[str, HashName]] = {"SHA1": "SHA1", "SHA256": "SHA256"}

# With a Policy, Expires belongs to the publisher's own query.
_CANNED_NAMES = frozenset({"Expires", "Signature", "Key-Pair-Id", "Hash-Algorithm"})
_CUSTOM_NAMES = frozenset({"Policy", "Signature", "Key-Pair-Id", "Hash-Algorithm"})
_NAME = "(Policy|Expires|Signature|Key-Pair-Id|Hash-Algorithm)="
_PARAMETERS = re.compile(f"(?:^|&){_NAME}([^&]*)")
_COOKIES = re.compile(f"(?:^|;)[ \t]*{COOKIE_PREFIX}{_NAME}([^;]*)")


class Signed(NamedTuple):
    """The signature of a request; each field is present once and well-formed.

    ``policy_text`` ("" for a canned policy) and ``signature_text`` are url-safe base64. They are
    not decoded yet, because most are in the cache. ``expires_s`` is the time of a canned policy in
    seconds since 1970, else 0.
    """

    signature_text: str
    policy_text: str
    expires_s: int
    key_id: str
    hash_name: HashName


@dataclass(frozen=True, slots=True)
class SignatureError:
    """A malformed signature; ``reason`` is a few words for the log."""

    reason: str


def encode(content: bytes) -> str:
    """Base64 with "-", "_" and "~" in place of characters that URLs must escape."""
    return b64encode(content).decode("ascii").translate(_TO_URL_SAFE)


def decode(text: str) -> bytes | None:
    """The bytes that ``encode`` turns into ``text``; None for any other text."""
    try:
        content = b64decode(text.translate(_FROM_URL_SAFE), validate=True)
    except (Base64Error, ValueError):
        return None
    return content if encode(content) == text else None


def from_query(
    query: str, limit_bytes: int = SIGNATURE_LIMIT_BYTES
) -> tuple[Signed | SignatureError | None, str]:
    """The signature in a query, and the query without it; other parts are unchanged.

    None and the whole query where there is no signature. ``limit_bytes`` bounds policy and
    signature together, in characters.
    """
    parse = _parse_query if len(query) <= PARSED_CHARACTERS_MAX else _parse_query.__wrapped__
    return parse(query, limit_bytes)


@lru_cache(maxsize=PARSED_QUERIES_MAX)
def _parse_query(query: str, limit_bytes: int) -> tuple[Signed | SignatureError | None, str]:
    signed = _signed(_PARAMETERS.findall(query), limit_bytes)
    return signed, query if signed is None else _without_signature(query)


def from_cookies(
    cookies: str, limit_bytes: int = SIGNATURE_LIMIT_BYTES
) -> Signed | SignatureError | None:
    """The signature in Cookie fields joined by "; "; None where there is none."""
    return _signed(_COOKIES.findall(cookies), limit_bytes) if COOKIE_PREFIX in cookies else None


def _without_signature(query: str) -> str:
    parts = [(part, part.partition("=")[0]) for part in query.split("&") if "=" in part]
    names = _CUSTOM_NAMES if any(name == "Policy" for _, name in parts) else _CANNED_NAMES
    signature_parts = {part for part, name in parts if name in names}
    return "&".join(part for part in query.split("&") if part not in signature_parts)


def _signed(fields: list[tuple[str, str]], limit_bytes: int) -> Signed | SignatureError | None:
    parameters = dict(fields)
    signature_text, key_id = parameters.get("Signature"), parameters.get("Key-Pair-Id")
    policy_text, expires = parameters.get("Policy"), parameters.get("Expires")
    if signature_text is None and key_id is None and policy_text is None:
        return None
    if len(parameters) != len(fields) and _is_ambiguous(fields):
        return SignatureError("a field of the signature is repeated")
    if not signature_text:
        return SignatureError("Signature is missing")
    if not key_id:
        return SignatureError("Key-Pair-Id is missing")
    hash_name = _HASH_NAMES.get(parameters.get("Hash-Algorithm", "SHA1"))
    if hash_name is None:
        return SignatureError("Hash-Algorithm is unknown")
    if len(policy_text or "") + len(signature_text) > limit_bytes:
        return SignatureError("signature is too long")
    if policy_text is not None:
        if not policy_text:
            return SignatureError("Policy is empty")
        return Signed(signature_text, policy_text, 0, key_id, hash_name)
    if expires is None:
        return SignatureError("Policy or Expires is missing")
    if not _EXPIRES.fullmatch(expires):
        return SignatureError("Expires is not a number of seconds")
    return Signed(signature_text, "", int(expires), key_id, hash_name)


def _is_ambiguous(fields: list[tuple[str, str]]) -> bool:
    names = [name for name, _ in fields]
    relevant = _CUSTOM_NAMES if "Policy" in names else _CANNED_NAMES
    return any(names.count(name) > 1 for name in relevant)
