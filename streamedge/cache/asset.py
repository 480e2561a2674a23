"""What is cached under one key, and what is remembered of it between requests.

Owns ``Asset`` (what a request asks for) and ``Record`` (what its origin last said, kept on disk so
that every worker and every restart knows it). Pure: values and their encoding.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from streamedge.origin import Origin, OriginHead, Version


@dataclass(frozen=True, slots=True)
class Asset:
    """What one cache key names, and where it comes from.

    ``key`` begins with the origin's identity, so that no two origins' objects can meet;
    ``origin_name`` is the operator's word for it, for metrics.
    """

    key: str
    name: str
    origin: Origin
    origin_name: str
    default_ttl_s: float


@dataclass(frozen=True, slots=True)
class Record:
    """What the origin said of an asset, and when it last said so (seconds since 1970)."""

    key: str
    head: OriginHead
    validated_s: float


def asset_digest(key: str) -> str:
    """The name of an asset's record file: SHA-256 in hex."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def version_digest(key: str, version: Version, extent: int) -> bytes:
    """What an extent's file is named by: SHA-256 of asset, version and place."""
    what = f"{key}\0{version.etag}\0{version.size_bytes}\0{version.last_modified_s}\0{extent}"
    return hashlib.sha256(what.encode("utf-8", "surrogateescape")).digest()


def encode_record(record: Record) -> bytes:
    """A record file's content."""
    version = record.head.version
    return json.dumps(
        {
            "key": record.key,
            "etag": version.etag,
            "size_bytes": version.size_bytes,
            "last_modified_s": version.last_modified_s,
            "content_type": record.head.content_type,
            "headers": record.head.headers,
            "validated_s": record.validated_s,
        }
    ).encode()


def decode_record(data: bytes, key: str) -> Record | None:
    """The record in a file's content, or None when it is damaged or another asset's."""
    try:
        said = json.loads(data)
        version = Version(
            str(said["etag"]),
            int(said["size_bytes"]),
            None if said["last_modified_s"] is None else int(said["last_modified_s"]),
        )
        headers = {str(name): str(value) for name, value in said["headers"].items()}
        head = OriginHead(version, str(said["content_type"]), headers)
        record = Record(str(said["key"]), head, float(said["validated_s"]))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
    return record if record.key == key else None
