"""Assets and their records, and the encoding of records on disk.

An ``Asset`` is a cache key with its origin and TTLs. A ``Record`` is the origin's last response
about it; it is on disk, so all workers have it, also after a restart. A record's file is a line of
JSON; behind it is the body of a small object. Pure.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from json.encoder import encode_basestring_ascii
from typing import NamedTuple

from streamedge.cache.rfc9111.freshness import TtlRules
from streamedge.control.invalidation_index import Revocation
from streamedge.control.invalidations import tags_of
from streamedge.control.position import UNKNOWN_POSITION
from streamedge.http_date import format_http_date, parse_http_date_s
from streamedge.keys import join_key, key_bytes
from streamedge.memo import cache_short_texts
from streamedge.origin import Origin, OriginHead, Version
from streamedge.spans import Span
from streamedge.value_object import value_object

_text = encode_basestring_ascii  # what the encoder calls for a text


class InvalidationTarget(NamedTuple):
    """The values that invalidations are matched against.

    ``scope``: the id of the distribution ("": nothing can be invalidated). ``target``: the object's
    name and the query that is part of the key, as ``control.invalidations.target_of`` writes them.
    ``tag_field``: the response field with cache tags, in lower case ("": none).
    """

    scope: str = ""
    target: str = ""
    tag_field: str = ""


NO_TARGET = InvalidationTarget()


@value_object
class Asset:
    """A cache key, the origin of its object, and the TTLs that apply.

    ``key`` begins with the origin's identity, so objects of two origins never share a key.
    ``origin_name`` is the origin's name in the config, for metrics. ``parent_keys``: the keys that
    this one was made from; an object that is refused under one of them is refused under this one
    too. ``subject``: the values that invalidations of this asset are matched against; an object
    made from a version has none, because it is reached through that version alone.
    """

    key: str
    name: str
    origin: Origin
    origin_name: str
    rules: TtlRules
    parent_keys: tuple[str, ...] = ()
    subject: InvalidationTarget = NO_TARGET


class SentAt(NamedTuple):
    """When a request was sent to an origin: ``time_s`` since 1970, the value of the change counter
    and the end of the control log at that moment.

    A response is as old as its request: a change while it is in transit makes it out of date. One
    of another edge is as old as that edge's, which has had it for ``held_s`` seconds.
    """

    time_s: float
    change: int
    position: int = UNKNOWN_POSITION
    held_s: float = 0.0


@value_object
class Record:
    """The origin's response about an asset, and when the origin last confirmed it.

    ``validated_s``: seconds since 1970. ``initial_age_s``: its age at that time (RFC 9111 §4.2.3).
    A record whose ``head`` has status 0 is a marker and no response. ``varies_by``: the request
    fields by which the responses of this key differ; each variant has a record of its own.
    ``sent_change`` and ``position``: the change counter and the end of the control log when the
    request was sent; a later write (``changes``) or invalidation refuses the record. ``trailers``
    are the fields behind the body, which must not be merged into ``head`` (§3.1). ``body_crc``: the
    CRC-32 of the body if it is in the record's file; None: it is in extents. ``held_s``: for how
    long other edges had the response before this one, in seconds.
    """

    key: str
    head: OriginHead
    validated_s: float
    initial_age_s: float = 0.0
    varies_by: tuple[str, ...] = ()
    sent_change: int = 0
    trailers: tuple[tuple[str, str], ...] = ()
    position: int = UNKNOWN_POSITION
    body_crc: int | None = None
    held_s: float = 0.0

    @property
    def is_marker(self) -> bool:
        return self.head.status == 0

    @property
    def memory_bytes(self) -> int:
        """A rough estimate of the memory that it uses: its texts and the objects around them."""
        pairs = [*self.head.headers.items(), *self.trailers]
        texts = sum([len(name) + len(value) + 150 for name, value in pairs])
        return 2000 + 3 * len(self.key) + texts

    def with_body(self, crc: int) -> Record:
        """The record of an object whose body, with that CRC-32, is in the record's file."""
        return Record(  # in a third of the time of ``replace``, for each miss
            self.key,
            self.head,
            self.validated_s,
            self.initial_age_s,
            self.varies_by,
            self.sent_change,
            self.trailers,
            self.position,
            crc,
            self.held_s,
        )

    def age_s(self, now_s: float) -> float:
        """Its age at ``now_s``, in seconds."""
        return self.initial_age_s + now_s - self.validated_s


class Provenance(NamedTuple):
    """The data of a running response that revocations are matched against.

    ``subject``: the values that invalidations match; ``position``: the end of the control log when
    its request was sent; ``fields``: the response's, by lower-case name.
    """

    subject: InvalidationTarget
    position: int
    fields: Mapping[str, str]

    def is_covered_by(self, revocation: Revocation) -> bool:
        """Whether a revocation ends this response."""
        scope, target, tag_field = self.subject
        tags = self.fields.get(tag_field, "")
        return revocation.covers(scope, target, lambda: tags_of((tags,)), self.position)


def stored_fields(head: OriginHead) -> dict[str, str]:
    """All header fields of a stored response that RFC 9111 uses, by lower-case name."""
    fields = dict(head.headers)
    if head.content_type:
        fields["content-type"] = head.content_type
    if head.version.etag:
        fields["etag"] = head.version.etag
    if head.version.last_modified_s is not None and "last-modified" not in fields:
        fields["last-modified"] = format_http_date(head.version.last_modified_s)
    return fields


def served_head(head: OriginHead) -> OriginHead:
    """The head for viewers: with the Last-Modified of the latest validation.

    The stored version keeps its own, because it identifies the stored bytes.
    """
    if "last-modified" not in head.headers:
        return head
    headers = dict(head.headers)
    modified_s = parse_http_date_s(headers.pop("last-modified"))
    return replace(head, headers=headers, version=replace(head.version, last_modified_s=modified_s))


def marker(key: str, varies_by: tuple[str, ...]) -> Record:
    """A record without a response: it lists the request fields by which a key's responses differ.

    It depends on no write, so it does not matter which process stores it last.
    """
    head = OriginHead(Version("", 0), "", {}, status=0)
    return Record(key, head, 0.0, 0.0, varies_by)


class KeyHash(NamedTuple):
    """The SHA-256 of a key.

    ``digest``: in hex, the name of the record's file. ``number``: its first 32 bits, for slots of
    the change counter. ``lock``: the number of the lock under which one worker fetches the key.
    """

    digest: str
    number: int
    lock: Span


@cache_short_texts(1024, 1024)  # a lookup needs it several times
def key_hash(key: str) -> KeyHash:
    """The hash of a key, and the numbers that are made of it."""
    digest = hashlib.sha256(key_bytes(key)).hexdigest()
    lock = int(digest[:15], 16)
    return KeyHash(digest, int(digest[:8], 16), Span(lock, lock + 1))


def version_digest(key: str, version: Version, extent: int) -> bytes:
    """The name of an extent's file: SHA-256 of key, version and the extent's index."""
    # A version with an id may get its size later, so the name leaves the size out.
    parts = (version.id,) if version.id else version_parts(version)
    return hashlib.sha256(key_bytes(join_key(key, str(extent), *parts))).digest()


def version_parts(version: Version) -> tuple[str, ...]:
    """The parts of a key that identify a version."""
    modified = "" if version.last_modified_s is None else str(version.last_modified_s)
    return version.etag, str(version.size_bytes), modified, version.id


def encode_record(record: Record, body: bytes = b"") -> bytes:
    """The content of a record's file: JSON, and the ``body`` if the record has a ``body_crc``."""
    version, text = record.head.version, _text
    headers = ", ".join(
        [f"{text(name)}: {text(value)}" for name, value in record.head.headers.items()]
    )
    held = f', "held_s": {record.held_s!r}' if record.held_s else ""
    # The encoder takes longer for a dictionary than all of this.
    line = (
        f'{{"key": {text(record.key)}, "etag": {text(version.etag)}, '
        f'"size_bytes": {version.size_bytes}, '
        f'"last_modified_s": {_number(version.last_modified_s)}, '
        f'"content_type": {text(record.head.content_type)}, "headers": {{{headers}}}, '
        f'"validated_s": {record.validated_s!r}, "id": {text(version.id)}, '
        f'"is_measured": {"true" if version.is_measured else "false"}, '
        f'"status": {record.head.status}, "initial_age_s": {record.initial_age_s!r}, '
        f'"varies_by": {_list(record.varies_by)}, "asked_change": {record.sent_change}, '
        f'"trailers": {_list(record.trailers)}, "position": {record.position}, '
        f'"body_crc": {_number(record.body_crc)}{held}}}'
    ).encode()
    return line if record.body_crc is None else b"%b\n%b" % (line, body)


def _number(value: int | None) -> str:
    return "null" if value is None else str(value)


def _list(items: Sequence[object]) -> str:
    return json.dumps(items) if items else "[]"


def decode_record(data: bytes, key: str) -> Record | None:
    """The record in a file's content; None if it is damaged or belongs to another key.

    If it has a ``body_crc``, the last ``size_bytes`` of the content are the body.
    """
    line, _, body = data.partition(b"\n")
    record = decode_record_line(line)
    if record is None or record.key != key:
        return None
    if record.body_crc is not None and not is_body_sound(record, body):
        return None
    return record


def is_body_sound(record: Record, body: bytes) -> bool:
    """Whether a body from a record's file is whole, by size and CRC."""
    return len(body) == record.head.version.size_bytes and zlib.crc32(body) == record.body_crc


def decode_record_line(line: bytes) -> Record | None:
    """The record in the first line of a file, whatever its key; None if it is damaged."""
    try:
        document = json.loads(line)
        crc = document.get("body_crc")
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
        return Record(
            str(document["key"]),
            head,
            float(document["validated_s"]),
            float(document.get("initial_age_s", 0.0)),
            tuple(str(name) for name in document.get("varies_by", ())),
            int(document["asked_change"]),
            tuple((str(name), str(value)) for name, value in document.get("trailers", ())),
            int(document.get("position", UNKNOWN_POSITION)),
            None if crc is None else int(crc),
            float(document.get("held_s", 0.0)),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
