"""Requests between the caches of two edges: their encoding in header fields. Pure.

A peer request is a GET or HEAD of one fixed path. It has the range and the conditions that the
requesting cache would send to the origin, and two fields of its own: ``StreamEdge-Peer`` says who
requests, and ``StreamEdge-Request`` describes the object and the request to the origin. The
requesting edge has decided access, behavior, cache key and TTLs; the other edge uses them.

There are three kinds. A *lookup* selects the present version, as a viewer's request does. A *read*
has a version, and gets bytes of that version only. A *pending* read gets the body of a write that
waits in the other edge's queue. Every response to them has
``StreamEdge-As-Of``; a response without it is a refusal of the other edge, which says nothing about
the object.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from streamedge.errors import OriginFailure
from streamedge.fleet.members import NAME_CHARACTERS_MAX
from streamedge.fleet.position import format_position, parse_position
from streamedge.origin import Version

PEER_PATH = "/streamedge/peer"
PEER_FIELD = "streamedge-peer"
REQUEST_FIELD = "streamedge-request"
AS_OF_FIELD = "streamedge-as-of"
STALE_FIELD = "streamedge-stale"
HELD_FIELD = "streamedge-held"
FAILURE_FIELD = "streamedge-failure"
REFUSED_FIELD = "streamedge-refused"
NOT_PENDING = "not pending here"
"""The refusal of a pending read whose write has ended."""
OWN_PREFIX = "streamedge-"

ENCODED_BYTES_MAX = 12 << 10
"""Of ``StreamEdge-Request``: a larger request goes to the origin."""
DECODED_BYTES_MAX = 128 << 10
"""Of its content when it is not compressed."""
PLAIN_BYTES_MAX = 2 << 10  # a longer text is compressed: it repeats the object's name

_COMPRESSED = "deflate:"
_PEER = re.compile(
    r"edge=([A-Za-z0-9_-]+); rank=(\d{1,4}); need=(\d{1,7}-\d{1,13})(; cached|; pending)?", re.ASCII
)
_METHOD = re.compile(r"GET|HEAD")
_FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
_FIELD_VALUE = re.compile(r"[\t -~\x80-\xff]*")
_TARGET = re.compile(r"[!-~]*")  # a path or a query, as it is sent

TtlParts: TypeAlias = tuple[float, float, float, float, bool, tuple[tuple[int, float], ...]]
"""The values of ``TtlRules`` in their order."""


class PeerHeader(NamedTuple):
    """The value of ``StreamEdge-Peer``.

    ``edge`` requests. ``rank`` is the receiver's by the edge's view. ``need``: a position of the
    shared log that the edge has applied; the receiver must have, too. ``is_cached_only``: the
    receiver sends what is cached; it neither waits nor requests. ``is_pending``: it sends the body
    of a write in its queue, of the version that the request has.
    """

    edge: str
    rank: int
    need: int
    is_cached_only: bool = False
    is_pending: bool = False


@dataclass(frozen=True, slots=True)
class AssetDescription:
    """An asset as other edges see it; the fields are those of ``Asset`` and of its binding.

    ``identity`` and ``origin_name`` are the origin's. ``directives`` are the viewer's
    Cache-Control and Pragma, if the behavior applies them.
    """

    identity: str
    origin_name: str
    key: str
    name: str
    rules: TtlParts
    parent_keys: tuple[str, ...] = ()
    scope: str = ""
    target: str = ""
    tag_field: str = ""
    is_object: bool = False
    directives: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class PeerRequest:
    """The value of ``StreamEdge-Request``: the asset, and the request to its origin.

    ``version``: None for a lookup. ``variant``: the key of the variant whose version is read; ""
    without a Vary.
    """

    asset: AssetDescription
    method: str = "GET"
    path: str = ""
    query: str = ""
    fields: tuple[tuple[str, str], ...] = ()
    version: Version | None = None
    variant: str = ""


class PeerAnswer(NamedTuple):
    """What a response says beside the object.

    ``as_of``: the position of the shared log that it is as new as. ``is_stale``: it may be sent
    because the origin failed, and must not be stored. ``failure``: the request failed at the
    origin. ``held_s``: for how long edges have had it since the origin sent or confirmed it.
    """

    as_of: int
    is_stale: bool = False
    failure: OriginFailure | None = None
    held_s: float = 0.0


def encode_peer(header: PeerHeader) -> str:
    """The value of ``StreamEdge-Peer``."""
    text = f"edge={header.edge}; rank={header.rank}; need={format_position(header.need)}"
    if header.is_pending:
        return f"{text}; pending"
    return f"{text}; cached" if header.is_cached_only else text


def decode_peer(text: str) -> PeerHeader | None:
    """The header in a value of ``StreamEdge-Peer``; None if it is not one."""
    match = _PEER.fullmatch(text)
    if match is None or len(match[1]) > NAME_CHARACTERS_MAX:
        return None
    roles = match[4] == "; cached", match[4] == "; pending"
    try:
        return PeerHeader(match[1], int(match[2]), parse_position(match[3]), *roles)
    except ValueError:
        return None


def encode_request(request: PeerRequest) -> str | None:
    """The value of ``StreamEdge-Request``: printable ASCII. None: it would be too long."""
    asset = request.asset
    text = json.dumps(
        [
            asset.identity,
            asset.origin_name,
            asset.key,
            asset.name,
            asset.rules,
            asset.parent_keys,
            asset.scope,
            asset.target,
            asset.tag_field,
            asset.is_object,
            asset.directives,
            request.method,
            request.path,
            request.query,
            request.fields,
            _version_parts(request.version),
            request.variant,
        ],
        separators=(",", ":"),
    )
    if len(text) > DECODED_BYTES_MAX:
        return None
    if len(text) > PLAIN_BYTES_MAX:
        text = _COMPRESSED + base64.b64encode(zlib.compress(text.encode("ascii"), 1)).decode()
    return text if len(text) <= ENCODED_BYTES_MAX else None


def decode_request(text: str) -> PeerRequest | None:
    """The request in a value of ``StreamEdge-Request``; None if it is not one.

    Never takes more memory than DECODED_BYTES_MAX allows.
    """
    if len(text) > ENCODED_BYTES_MAX:
        return None
    try:
        return _read_request(json.loads(_plain_text(text)))
    except (ValueError, TypeError, OverflowError, RecursionError, zlib.error, binascii.Error):
        return None


def encode_answer(answer: PeerAnswer) -> list[tuple[str, str]]:
    """The header fields of a response."""
    fields = [(AS_OF_FIELD, format_position(answer.as_of))]
    if answer.is_stale:
        fields.append((STALE_FIELD, "1"))
    if answer.failure is not None:
        fields.append((FAILURE_FIELD, answer.failure.value))
    if answer.held_s:
        fields.append((HELD_FIELD, repr(answer.held_s)))
    return fields


def decode_answer(fields: Mapping[str, str]) -> PeerAnswer | None:
    """The answer in a response's fields by lower-case name; None: the other edge refused.

    Raises ValueError for a response that no edge sends.
    """
    as_of = fields.get(AS_OF_FIELD)
    if as_of is None:
        return None
    failure = fields.get(FAILURE_FIELD)
    return PeerAnswer(
        parse_position(as_of),
        STALE_FIELD in fields,
        None if failure is None else OriginFailure(failure),
        _seconds(float(fields.get(HELD_FIELD, "0"))),
    )


def without_own_fields(fields: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Fields without those of this protocol."""
    return [field for field in fields if not field[0].lower().startswith(OWN_PREFIX)]


def _plain_text(text: str) -> str:
    if not text.startswith(_COMPRESSED):
        return text
    data = base64.b64decode(text.removeprefix(_COMPRESSED).encode("ascii"), validate=True)
    decompressor = zlib.decompressobj()
    plain = decompressor.decompress(data, DECODED_BYTES_MAX)
    if not decompressor.eof or decompressor.unused_data:
        raise ValueError("the compressed text is too long or truncated")
    return plain.decode("ascii")


def _read_request(values: Any) -> PeerRequest:
    """The request in decoded JSON. Raises ValueError, TypeError, OverflowError."""
    identity, origin_name, key, name, rules, parents, scope, target, tag_field, *rest = values
    is_object, directives, method, path, query, fields, version, variant = rest
    texts = (identity, origin_name, key, name, scope, target, tag_field, method, path, query)
    _require(all(isinstance(text, str) for text in (*texts, variant, *parents)))
    _require(isinstance(is_object, bool) and bool(key) and bool(identity))
    _require(_METHOD.fullmatch(method) and _TARGET.fullmatch(path) and _TARGET.fullmatch(query))
    return PeerRequest(
        AssetDescription(
            identity,
            origin_name,
            key,
            name,
            _read_rules(rules),
            tuple(parents),
            scope,
            target,
            tag_field,
            is_object,
            _read_fields(directives),
        ),
        method,
        path,
        query,
        _read_fields(fields),
        None if version is None else _read_version(version),
        variant,
    )


def _version_parts(version: Version | None) -> tuple[str, int, int | None] | None:
    if version is None:
        return None
    return version.etag, version.size_bytes, version.last_modified_s


def _read_rules(values: Any) -> TtlParts:
    least, default, most, error, is_strict, by_status = values
    _require(isinstance(is_strict, bool))
    pairs = tuple((int(status), _seconds(ttl_s)) for status, ttl_s in by_status)
    return _seconds(least), _seconds(default), _seconds(most), _seconds(error), is_strict, pairs


def _read_version(values: Any) -> Version:
    etag, size_bytes, modified_s = values
    _require(isinstance(etag, str) and _FIELD_VALUE.fullmatch(etag))
    _require(type(size_bytes) is int and 0 <= size_bytes < 1 << 62)
    _require(modified_s is None or (type(modified_s) is int and abs(modified_s) < 1 << 40))
    return Version(etag, size_bytes, modified_s)


def _read_fields(values: Any) -> tuple[tuple[str, str], ...]:
    fields = []
    for name, value in values:
        _require(_FIELD_NAME.fullmatch(name) and _FIELD_VALUE.fullmatch(value))
        fields.append((name, value))
    return tuple(fields)


def _seconds(value: Any) -> float:
    _require(type(value) in (int, float) and not math.isnan(value) and value >= 0)
    return float(value)


def _require(condition: object) -> None:
    if not condition:
        raise ValueError("not a peer request")
