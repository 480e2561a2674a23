"""Negotiates the content coding of a response: RFC 9110 §8.4 and §12.5.3.

Chooses the coding by Accept-Encoding, decides which responses are compressed, and sets ETag, Vary
and the other fields of a compressed one. Pure; ``compressor`` makes the compressed bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from enum import Enum

from streamedge.cache.rfc9111.cache_control import parse_cache_control, split_list
from streamedge.origin import OriginHead, Version

COMPRESSED_BYTES_MIN = 1_000  # size before compression; CloudFront's limits
COMPRESSED_BYTES_MAX = 10_000_000
COMPRESSED_STATUSES = frozenset({200, 403, 404})

# CloudFront's list ("Serving compressed files", File types that CloudFront compresses), and two
# newer types.
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

# Digests of the uncompressed bytes do not hold for compressed ones (RFC 9530 §2, §3; RFC 1864).
_DIGEST_FIELDS = frozenset({"content-digest", "content-md5", "digest", "repr-digest"})
_CHECKSUM_PREFIX = "x-amz-checksum-"

_WEIGHT = re.compile(r"q[ \t]*=[ \t]*(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)", re.ASCII | re.IGNORECASE)


class ContentCoding(Enum):
    """A content coding, best first.

    The order decides where a viewer gives several codings the same weight. A response is compressed
    once and sent often, so it should be small. At the levels used here, which take about the same
    time, Brotli gives the smallest text and Zstandard is close; every client supports gzip.
    """

    BROTLI = "br"
    ZSTANDARD = "zstd"
    GZIP = "gzip"


def negotiate(accept_encoding: str | None) -> ContentCoding | None:
    """The content coding for a request's Accept-Encoding; None means identity.

    The coding with the highest weight wins, and a coding wins over identity at the same weight.
    Identity is also chosen where everything is excluded: a 406 would help no viewer. Invalid
    elements are ignored.
    """
    if accept_encoding is None:
        return None
    weights = _weights(accept_encoding)
    default = weights.get("*", 0.0)
    best = max(ContentCoding, key=lambda encoding: weights.get(encoding.value, default))
    weight = weights.get(best.value, default)
    # Identity without a weight of its own is acceptable, but never preferred (§12.5.3).
    return best if weight > 0 and weight >= weights.get("identity", 0.0) else None


def is_compressible(head: OriginHead) -> bool:
    """Whether a response with this head may be compressed."""
    headers = head.headers
    media_type = head.content_type.partition(";")[0].strip().lower()
    return (
        head.status in COMPRESSED_STATUSES
        and media_type in COMPRESSED_TYPES
        and COMPRESSED_BYTES_MIN <= head.version.size_bytes <= COMPRESSED_BYTES_MAX
        and "content-encoding" not in headers
        and "content-range" not in headers
        and not parse_cache_control(headers.get("cache-control", "")).no_transform
    )


def encoded_head(head: OriginHead, encoding: ContentCoding, size_bytes: int) -> OriginHead:
    """The head of the compressed representation, from the current head of the identity one.

    ``size_bytes`` is the compressed size.
    """
    headers = {
        name: value
        for name, value in with_vary(head.headers).items()
        if name not in _DIGEST_FIELDS and not name.startswith(_CHECKSUM_PREFIX)
    }
    headers["content-encoding"] = encoding.value
    version = Version(
        encoded_etag(head.version.etag, encoding), size_bytes, head.version.last_modified_s
    )
    return replace(head, version=version, headers=headers)


def encoded_etag(etag: str, encoding: ContentCoding) -> str:
    """The entity tag of the compressed representation; "" if the identity one has none.

    The tag is weak, because another version of a compressor gives other bytes for the same text. So
    If-Range never combines bytes of two representations, and If-Match never confuses them (both
    compare strongly, §8.8.3.2). Each coding has its own tag, although weak tags may be shared: a
    cache in front of the edge may send the tags of all representations that it has (RFC 9111
    §4.3.1), and a 304 must not select one whose coding the viewer does not accept.
    """
    opaque = etag.removeprefix("W/")
    if len(opaque) < 2 or not (opaque.startswith('"') and opaque.endswith('"')):
        return ""
    return f'W/{opaque[:-1]}-{encoding.value}"'


def with_vary(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers with Accept-Encoding in Vary.

    Every response that could have been compressed needs it, the identity one too (§12.5.5).
    """
    vary = headers.get("vary", "")
    if _tokens(vary) & {"*", "accept-encoding"}:
        return dict(headers)
    return {**headers, "vary": f"{vary}, Accept-Encoding" if vary.strip() else "Accept-Encoding"}


def _weights(accept_encoding: str) -> dict[str, float]:
    """The weight of each coding, in lower case; the first one counts where a coding is repeated."""
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
    """The elements of a list in lower case, without their arguments."""
    return {part.partition("=")[0].strip().lower() for part in split_list(value)}
