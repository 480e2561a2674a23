"""Part sizes and XML documents of multipart uploads. Pure.

The limits are S3's (Amazon S3 User Guide, "Amazon S3 multipart upload limits").
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from xml.sax.saxutils import escape, unescape

PART_MIN_BYTES = 8 << 20
PARTS_MAX = 10_000
BUFFERED_PART_MAX_BYTES = 64 << 20
"""Parts up to this size are buffered in memory until the bucket has them."""
OBJECT_MAX_BYTES = 5 << 40

_GROWTH_PARTS = 1000  # of unknown total size; after so many parts, the part size doubles
_MIB = 1 << 20

_UPLOAD_ID = re.compile(rb"<UploadId>([^<]{1,2048})</UploadId>")
_ETAG = re.compile(rb"<ETag>([^<]{1,256})</ETag>")
_ENTITIES = {"&quot;": '"', "&#34;": '"', "&apos;": "'"}


def part_size_bytes(number: int, size_bytes: int | None) -> int:
    """The size of part ``number`` (from 1) of an object of ``size_bytes``, None: unknown.

    A known size is divided evenly, in MiB. For an unknown one, parts start with PART_MIN_BYTES
    and double every _GROWTH_PARTS parts up to BUFFERED_PART_MAX_BYTES: 492 GiB in all.
    """
    if size_bytes is not None:
        even = -(-size_bytes // PARTS_MAX)
        return max(PART_MIN_BYTES, -(-even // _MIB) * _MIB)
    doublings = min((number - 1) // _GROWTH_PARTS, 8)
    return min(PART_MIN_BYTES << doublings, BUFFERED_PART_MAX_BYTES)


def completion(etags: Iterable[str]) -> bytes:
    """The body of CompleteMultipartUpload: the parts' ETags in order, from part 1 on."""
    parts = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(etag)}</ETag></Part>"
        for number, etag in enumerate(etags, start=1)
    )
    return (
        '<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"{parts}</CompleteMultipartUpload>"
    ).encode()


def find_upload_id(body: bytes) -> str:
    """The id in the response to CreateMultipartUpload, or ""."""
    return _find(_UPLOAD_ID, body)


def find_etag(body: bytes) -> str:
    """The object's ETag in the response to CompleteMultipartUpload, quotes included, or ""."""
    return _find(_ETAG, body)


def _find(pattern: re.Pattern[bytes], body: bytes) -> str:
    match = pattern.search(body)
    return unescape(match[1].decode("utf-8", "replace"), _ENTITIES) if match else ""
