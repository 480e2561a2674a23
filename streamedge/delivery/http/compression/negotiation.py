"""Which content coding an answer has, and what that changes in its head: RFC 9110 §8.4 and §12.5.3.

Owns the choice (by Accept-Encoding), which answers are worth it, and the compressed form's ETag,
Vary and other fields. Pure: header values in, decisions and heads out; the compressed bytes are
``compressor``'s.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from enum import Enum

from streamedge.cache.rfc9111.cache_control import split_list
from streamedge.origin import OriginHead, Version

COMPRESSED_BYTES_MIN = 1_000  # of the identity form; CloudFront's limits
COMPRESSED_BYTES_MAX = 10_000_000
COMPRESSED_STATUSES = frozenset({200, 403, 404})

# CloudFront's list ("Serving compressed files", File types that CloudFront compresses), and two
# types that are younger than most of it.
COMPRESSED_TYPES = frozenset(
    {
        "application/dash+xml",
        "application/eot",
        "application/font",
        "application/font-sfnt",
        "application/javascript",
        "application/json",
        "application/manifest+json",
        "application/opentype",
        "application/otf",
        "application/pkcs7-mime",
        "application/protobuf",
        "application/rss+xml",
        "application/truetype",
        "application/ttf",
        "application/vnd.apple.mpegurl",
        "application/vnd.ms-fontobject",
        "application/wasm",
        "application/x-font-opentype",
        "application/x-font-truetype",
        "application/x-font-ttf",
        "application/x-httpd-cgi",
        "application/x-javascript",
        "application/x-mpegurl",
        "application/x-opentype",
        "application/x-otf",
        "application/x-perl",
        "application/x-ttf",
        "application/xhtml+xml",
        "application/xml",
        "font/eot",
        "font/opentype",
        "font/otf",
        "font/ttf",
        "image/svg+xml",
        "text/css",
        "text/csv",
        "text/html",
        "text/javascript",
        "text/js",
        "text/plain",
        "text/richtext",
        "text/tab-separated-values",
        "text/x-component",
        "text/x-java-source",
        "text/x-script",
        "text/xml",
        "vnd.apple.mpegurl",
    }
)

# What is said of the identity form's bytes does not hold for others (RFC 9530 §2 and §3, RFC 1864).
_OF_THE_BYTES = frozenset({"content-digest", "content-md5", "digest", "repr-digest"})
_CHECKSUM_PREFIX = "x-amz-checksum-"

_WEIGHT = re.compile(r"q[ \t]*=[ \t]*(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)", re.ASCII | re.IGNORECASE)


class Encoding(Enum):
    """A content coding, best first.

    The order counts where a viewer likes several as much as each other. What is compressed once and
    sent often should be small: at the levels used here, about as fast as each other, Brotli makes
    the smallest text, Zstandard comes close, gzip is what every client knows.
    """

    BROTLI = "br"
    ZSTANDARD = "zstd"
    GZIP = "gzip"


def negotiate(accept_encoding: str | None) -> Encoding | None:
    """The coding to answer with, by a request's Accept-Encoding; None: identity.

    The one with the highest weight, a coding before identity where those are equal. Identity also
    where everything is excluded: no viewer is better off with a 406. An element that cannot be
    read is passed over.
    """
    if accept_encoding is None:
        return None
    weights = _weights(accept_encoding)
    others = weights.get("*", 0.0)
    best = max(Encoding, key=lambda encoding: weights.get(encoding.value, others))
    weight = weights.get(best.value, others)
    # Unless it is named, identity is acceptable and nothing more (§12.5.3).
    return best if weight > 0 and weight >= weights.get("identity", 0.0) else None


def is_compressible(head: OriginHead) -> bool:
    """Whether an answer may be compressed, in its head's words."""
    headers = head.headers
    media_type = head.content_type.partition(";")[0].strip().lower()
    return (
        head.status in COMPRESSED_STATUSES
        and media_type in COMPRESSED_TYPES
        and COMPRESSED_BYTES_MIN <= head.version.size_bytes <= COMPRESSED_BYTES_MAX
        and "content-encoding" not in headers
        and "content-range" not in headers
        and "no-transform" not in _tokens(headers.get("cache-control", ""))
    )


def encoded_head(head: OriginHead, encoding: Encoding, size_bytes: int) -> OriginHead:
    """The head of the compressed form of an answer, from the present head of its identity form."""
    headers = {
        name: value
        for name, value in with_vary(head.headers).items()
        if name not in _OF_THE_BYTES and not name.startswith(_CHECKSUM_PREFIX)
    }
    headers["content-encoding"] = encoding.value
    version = Version(
        encoded_etag(head.version.etag, encoding), size_bytes, head.version.last_modified_s
    )
    return replace(head, version=version, headers=headers)


def encoded_etag(etag: str, encoding: Encoding) -> str:
    """The compressed form's entity tag; "" where the identity form has none.

    Weak, because another edition of a compressor makes other bytes of the same text: so If-Range
    never joins bytes of two forms, and If-Match never takes one form for another (both compare
    strongly, §8.8.3.2). And each coding has a tag of its own, although weak tags could be shared:
    a cache behind this edge may ask with the tags of all forms that it holds (RFC 9111 §4.3.1), and
    a 304 must not tell it to give one viewer the form that another viewer's client understands.
    """
    opaque = etag.removeprefix("W/")
    if len(opaque) < 2 or not (opaque.startswith('"') and opaque.endswith('"')):
        return ""
    return f'W/{opaque[:-1]}-{encoding.value}"'


def with_vary(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers with Accept-Encoding in Vary.

    For every answer that could have been compressed, the identity form too (§12.5.5).
    """
    said = headers.get("vary", "")
    if _tokens(said) & {"*", "accept-encoding"}:
        return dict(headers)
    return {**headers, "vary": f"{said}, Accept-Encoding" if said.strip() else "Accept-Encoding"}


def _weights(accept_encoding: str) -> dict[str, float]:
    """Weight by coding in lower case; of a coding that is named twice, the first one's."""
    weights: dict[str, float] = {}
    for element in split_list(accept_encoding):
        name, *parameters = (part.strip(" \t") for part in element.split(";"))
        weight = 1.0
        if parameters:
            match = _WEIGHT.fullmatch(parameters[0])
            if match is None or len(parameters) > 1:
                continue
            weight = float(match[1])
        if name:
            coding = name.lower()
            weights.setdefault("gzip" if coding == "x-gzip" else coding, weight)  # §8.4.1.3
    return weights


def _tokens(value: str) -> set[str]:
    """The elements of a list without their arguments, in lower case."""
    return {part.partition("=")[0].strip().lower() for part in split_list(value)}
