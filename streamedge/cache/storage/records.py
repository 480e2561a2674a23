"""What is cached under one key, and what is remembered of it between requests.

Owns ``Asset`` (what a request asks for) and ``Record`` (what its origin last said, kept on disk so
that every worker and every restart knows it). Pure: values and their encoding.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from email.utils import formatdate
from typing import NamedTuple

from streamedge.cache.rfc9111.freshness import TtlRules
from streamedge.control.invalidation_index import Revocation
from streamedge.control.invalidations import tags_of
from streamedge.control.position import UNKNOWN
from streamedge.http_date import parse_http_date_s
from streamedge.keys import join_key, key_bytes
from streamedge.origin import Origin, OriginHead, Version


class InvalidationTarget(NamedTuple):
    """What invalidations are matched against.

    ``scope``: the id of the distribution ("": nothing can be invalidated); ``target``: the
    object's name and the query that is part of the key, as ``control.invalidations.target_of``
    spells them; ``tag_field``: the response field that has cache tags, in lower case ("": none).
    """

    scope: str = ""
    target: str = ""
    tag_field: str = ""


NO_TARGET = InvalidationTarget()


@dataclass(frozen=True, slots=True)
class Asset:
    """What one cache key names, and where it comes from.

    ``key`` begins with the origin's identity, so that no two origins' objects can meet;
    ``origin_name`` is the operator's word for it, for metrics. ``parent_keys``: the
    keys that this one was made from; an object that is refused under one of them is refused under
    this one too. ``scope``, ``target`` and ``tag_field`` make an ``InvalidationTarget``; an object
    made from a version has none, because it is reached through that version alone.
    """

    key: str
    name: str
    origin: Origin
    origin_name: str
    rules: TtlRules
    parent_keys: tuple[str, ...] = ()
    scope: str = ""
    target: str = ""
    tag_field: str = ""

    @property
    def subject(self) -> InvalidationTarget:
        return InvalidationTarget(self.scope, self.target, self.tag_field)


class SentAt(NamedTuple):
    """When a request was sent to an origin: ``time_s`` since 1970, and where the change number and
    the control log stood then.

    An answer is as old as its request: what changes while it is on its way makes it out of date.
    """

    time_s: float
    change: int
    position: int = UNKNOWN


@dataclass(frozen=True, slots=True)
class Record:
    """What the origin said of an asset, and when it last said so (seconds since 1970).

    ``initial_age_s`` is how old it was by then (RFC 9111 §4.2.3). A record whose ``head`` has
    status 0 is a marker, not an answer. ``varies_by``: the request fields that the answers of
    this key differ by; each has a record of its own. ``sent_change`` and ``position``: where the
    change number and the control log stood when the request was sent that this answers; a write
    (``changes``) or an invalidation since then refuses it. ``trailers`` came behind the body, and
    stay apart from ``head`` (§3.1).
    """

    key: str
    head: OriginHead
    validated_s: float
    initial_age_s: float = 0.0
    varies_by: tuple[str, ...] = ()
    sent_change: int = 0
    trailers: tuple[tuple[str, str], ...] = ()
    position: int = UNKNOWN

    @property
    def is_marker(self) -> bool:
        return self.head.status == 0

    @property
    def memory_bytes(self) -> int:
        """What it takes in memory, roughly: its texts, and as much again for what holds them."""
        pairs = [*self.head.headers.items(), *self.trailers]
        texts = sum(len(name) + len(value) + 150 for name, value in pairs)
        return 2000 + 3 * len(self.key) + texts

    def age_s(self, now_s: float) -> float:
        """Its age at ``now_s``, in seconds."""
        return self.initial_age_s + now_s - self.validated_s


class Provenance(NamedTuple):
    """What a running response is of: what may invalidate it, where the control log stood when it
    was asked for, and the response's fields by lower-case name."""

    subject: InvalidationTarget
    position: int
    fields: Mapping[str, str]

    def is_covered_by(self, revocation: Revocation) -> bool:
        """Whether it is to be ended."""
        scope, target, tag_field = self.subject
        tags = self.fields.get(tag_field, "")
        return revocation.covers(scope, target, lambda: tags_of((tags,)), self.position)


def stored_fields(head: OriginHead) -> dict[str, str]:
    """All header fields of a stored answer that RFC 9111 decides by, in lower case."""
    fields = dict(head.headers)
    if head.content_type:
        fields["content-type"] = head.content_type
    if head.version.etag:
        fields["etag"] = head.version.etag
    if head.version.last_modified_s is not None and "last-modified" not in fields:
        fields["last-modified"] = formatdate(head.version.last_modified_s, usegmt=True)
    return fields


def served_head(head: OriginHead) -> OriginHead:
    """The head as viewers get it: with the Last-Modified that a validation has changed.

    The stored version keeps its own, because it says which bytes are stored.
    """
    if "last-modified" not in head.headers:
        return head
    headers = dict(head.headers)
    modified_s = parse_http_date_s(headers.pop("last-modified"))
    return replace(head, headers=headers, version=replace(head.version, last_modified_s=modified_s))


def marker(key: str, varies_by: tuple[str, ...]) -> Record:
    """A record that is no answer: it says by which request fields the answers of a key differ.

    It carries no state of writes, so that whichever process stores it last does no harm.
    """
    head = OriginHead(Version("", 0), "", {}, status=0)
    return Record(key, head, 0.0, 0.0, varies_by)


def asset_digest(key: str) -> str:
    """The name of an asset's record file: SHA-256 in hex."""
    return hashlib.sha256(key_bytes(key)).hexdigest()


def version_digest(key: str, version: Version, extent: int) -> bytes:
    """What an extent's file is named by: SHA-256 of asset, version and place."""
    # The size of what has an id of its own is not always known from the beginning.
    parts = (version.id,) if version.id else version_parts(version)
    return hashlib.sha256(key_bytes(join_key(key, str(extent), *parts))).digest()


def version_parts(version: Version) -> tuple[str, ...]:
    """All that tells a version from others, as the parts of a key."""
    modified = "" if version.last_modified_s is None else str(version.last_modified_s)
    return version.etag, str(version.size_bytes), modified, version.id


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
            "id": version.id,
            "is_measured": version.is_measured,
            "status": record.head.status,
            "initial_age_s": record.initial_age_s,
            "varies_by": record.varies_by,
            "asked_change": record.sent_change,
            "trailers": record.trailers,
            "position": record.position,
        }
    ).encode()


def decode_record(data: bytes, key: str) -> Record | None:
    """The record in a file's content, or None when it is damaged or another asset's."""
    try:
        document = json.loads(data)
        version = Version(
            str(document["etag"]),
            int(document["size_bytes"]),
            None if document["last_modified_s"] is None else int(document["last_modified_s"]),
            str(document.get("id", "")),
            bool(document.get("is_measured", True)),
        )
        headers = {str(name): str(value) for name, value in document["headers"].items()}
        status = int(document.get("status", 200))
        head = OriginHead(version, str(document["content_type"]), headers, status)
        record = Record(
            str(document["key"]),
            head,
            float(document["validated_s"]),
            float(document.get("initial_age_s", 0.0)),
            tuple(str(name) for name in document.get("varies_by", ())),
            int(document["asked_change"]),
            tuple((str(name), str(value)) for name, value in document.get("trailers", ())),
            int(document.get("position", UNKNOWN)),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
    return record if record.key == key else None
