"""Builds requests to origins and interprets their responses (RFC 9111 §4.3).

Pure, except that ``record_and_body`` makes the response's body readable or closes it. Validations
follow §4.3.1 and §4.3.4; ranges are requested in whole chunks.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import field, replace

from streamedge.cache.rfc9111.freshness import IMMUTABLE, initial_age_s
from streamedge.cache.rfc9111.storing import is_storable, storable_fields
from streamedge.cache.rfc9111.validation import (
    conditional_fields,
    head_contradicts,
    head_freshens,
    is_selected,
    updated_fields,
)
from streamedge.cache.rfc9111.vary import parse_vary, varies_by_everything
from streamedge.cache.storage.extent import CHUNK_BYTES, EXTENT_BYTES
from streamedge.cache.storage.records import Asset, Record, SentAt, stored_fields
from streamedge.http_date import parse_http_date_s
from streamedge.http_fields import parse_content_range
from streamedge.origin import (
    UNKNOWN_BYTES,
    OriginHead,
    OriginRequest,
    OriginResponse,
    Upstream,
    Version,
)
from streamedge.origin.answers import fold_fields, representation_fields
from streamedge.origin.objects import ObjectUpstream, ResponseRead
from streamedge.origin.peer.tier import TieredObject
from streamedge.spans import NO_BYTES, Span
from streamedge.value_object import value_object

WHOLE = Span(0, UNKNOWN_BYTES)
# A Last-Modified that is this much older than its response is a strong validator (RFC 9110
# §8.8.2.2).
STRONG_AFTER_S = 60

REQUEST_DIRECTIVES = ("cache-control", "pragma")  # RFC 9111 §5.2.1, §5.4
_CONDITIONS = ("if-none-match", "if-modified-since")
_RANGE = ("range", "if-range")
_OWN_FIELDS = frozenset(_CONDITIONS + _RANGE)  # sent where the response is for one viewer only
# The request fields that lead to these statuses (RFC 9110 §15.3.7, §15.4.5, §15.5.17).
_FIELDS_BY_STATUS = {206: _RANGE, 304: _CONDITIONS, 416: ("if-range",)}
_SINGLE_RANGE = re.compile(r"bytes=(\d*)-(\d*)", re.ASCII)


@value_object
class CacheRequest:
    """A viewer's GET or HEAD as the cache sees it.

    - ``asset`` has the key that the cache policy makes.
    - ``origin_request`` is sent if nothing is stored.
    - ``fields`` are the viewer's own, by lower-case name.
    - ``want`` is the span that will be read first. Empty: no bytes; WHOLE: all.
    - ``suffix_bytes``: that many of the last bytes will be read, and only the size of the object
      shows which span that is. 0: ``want`` counts.
    - ``applies_request_directives``: whether the request's Cache-Control counts.
    - ``is_object``: the origin serves objects only, so a HEAD has the same fields as a GET.
    - ``selected_by``: the fields that the origin is sent, by which Vary selects (§4.1).
    - ``needs_version``: the response is read by positions, so it becomes a version even if it may
      not be stored. Only this request can then read it.
    - ``accepts_stale``: False for another edge, which would take a stale response for a fresh one.
    """

    asset: Asset
    upstream: Upstream
    origin_request: OriginRequest
    fields: Mapping[str, str]
    want: Span
    applies_request_directives: bool = False
    is_object: bool = False
    selected_by: Mapping[str, str] = field(default_factory=dict)
    needs_version: bool = False
    suffix_bytes: int = 0
    accepts_stale: bool = True

    @property
    def directives(self) -> dict[str, str]:
        """Its directives (§5.2.1, §5.4), where the behavior applies them."""
        if not self.applies_request_directives:
            return {}
        return {name: self.fields[name] for name in REQUEST_DIRECTIVES if name in self.fields}

    def span_of_first_read(self, size_bytes: int) -> Span:
        """The span of an object of that size that will be read first."""
        if self.suffix_bytes and size_bytes < UNKNOWN_BYTES:
            return Span(max(0, size_bytes - self.suffix_bytes), size_bytes)
        return self.want


def object_request(asset: Asset, want: Span) -> CacheRequest:
    """The request for an object that is read by positions, such as media over RTMP."""
    origin = asset.origin
    upstream: Upstream = ObjectUpstream(origin)
    origin_request = OriginRequest("GET", asset.name)
    if isinstance(origin, TieredObject):
        # Not as an Origin: that would lose what the other edge says beside the object.
        upstream, origin_request = origin.upstream, origin.request
    return CacheRequest(
        asset,
        upstream,
        origin_request,
        {},
        want,
        is_object=True,
        needs_version=True,
    )


def first_read(want: Span) -> Span:
    """The span that a cold open requests: whole chunks, within the extent where ``want`` begins."""
    aligned = want.align(CHUNK_BYTES)
    return Span(aligned.start, min(aligned.end, (want.start // EXTENT_BYTES + 1) * EXTENT_BYTES))


def build_origin_request(
    request: CacheRequest, record: Record | None, *, is_passed: bool = False
) -> OriginRequest:
    """The request to send: a validation if there is a ``record`` (§4.3.1), else a fetch.

    A range is widened to whole chunks. Objects are always requested by range, so that a slow reader
    of a long one fetches it piece by piece. The viewer's conditions are left out: the response will
    be stored, and each waiting viewer has other conditions. ``is_passed``: the response is
    for this viewer only, so its own conditions and range are sent.
    """
    fields = list(request.origin_request.fields)
    method = request.origin_request.method
    if is_passed and record is None:
        if request.is_object or _OWN_FIELDS.isdisjoint(request.fields):
            return request.origin_request
        fields += [(name, request.fields[name]) for name in _CONDITIONS if name in request.fields]
        # Several ranges could make the origin send the same bytes again and again.
        if method == "GET" and _SINGLE_RANGE.fullmatch(request.fields.get("range", "")):
            fields += [(name, request.fields[name]) for name in _RANGE if name in request.fields]
        return replace(request.origin_request, fields=tuple(fields))
    if record is not None:
        fields += conditional_fields(stored_fields(record.head)).items()
    if record is None and request.suffix_bytes and method == "GET":
        # Chunks are stored from their start on. The size is unknown, so request one chunk more.
        fields.append(("range", f"bytes=-{request.suffix_bytes + CHUNK_BYTES - 1}"))
    elif request.is_object and not request.want.size:
        method = "HEAD"
    elif method == "GET" and (request.is_object or (record is None and request.want != WHOLE)):
        span = first_read(request.want)
        if request.want.size:
            fields.append(("range", f"bytes={span.start}-{span.end - 1}"))
    return _with(request.origin_request, method, fields)


def _with(
    origin_request: OriginRequest, method: str, fields: list[tuple[str, str]]
) -> OriginRequest:
    """The request with a method and fields; itself if they are its own."""
    if method == origin_request.method and len(fields) == len(origin_request.fields):
        return origin_request  # fields are only added
    return replace(origin_request, method=method, fields=tuple(fields))


def without_range(fields: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """A request's fields without those that ask for a range."""
    return tuple(field for field in fields if field[0] not in _RANGE)


def may_store(
    request: CacheRequest,
    origin_request: OriginRequest,
    status: int,
    response_fields: Mapping[str, str],
) -> bool:
    """Whether the origin's response may be stored, for all requests of its key (§3)."""
    rules = request.asset.rules
    if rules is IMMUTABLE and status >= 400:
        return False  # an error while an object is made from its source passes
    if origin_request.method != "GET" and not request.is_object:
        return False
    if origin_request is request.origin_request:
        sent = request.selected_by
    else:
        sent = fold_fields(origin_request.fields)
    return is_storable(
        "GET",
        {**sent, **request.directives},
        status,
        response_fields,
        rules,
        applies_request_directives=request.applies_request_directives,
    )


def may_pass(
    request: CacheRequest,
    origin_request: OriginRequest,
    status: int,
    response_fields: Mapping[str, str],
) -> bool:
    """Whether a response to ``request`` also answers the viewer's own request."""
    field_names = _FIELDS_BY_STATUS.get(status)
    if field_names is None:
        is_whole = status == 200 and _leaves_range(request, origin_request)
        return origin_request.method == request.origin_request.method and not is_whole
    origin_fields = fold_fields(origin_request.fields)
    return (
        origin_request.method == request.origin_request.method
        and all(origin_fields.get(name) == request.fields.get(name) for name in field_names)
        and (status != 304 or any(name in origin_fields for name in field_names))
        and (status != 206 or _is_part_of(origin_fields.get("range", ""), response_fields))
    )


def _leaves_range(request: CacheRequest, origin_request: OriginRequest) -> bool:
    """Whether the origin was not sent a range of the viewer's that is sent where a response is for
    this viewer only: it would get a part then.
    """
    if request.is_object or "range" not in request.fields or origin_request.method != "GET":
        return False
    if not _SINGLE_RANGE.fullmatch(request.fields["range"]):
        return False
    return all(name != "range" for name, _value in origin_request.fields)


def leaves_conditions(request: CacheRequest, origin_request: OriginRequest) -> bool:
    """Whether the origin was not sent the viewer's conditions: the edge has to evaluate them."""
    if not any(name in request.fields for name in _CONDITIONS):
        return False
    return not any(name in _CONDITIONS for name, _value in origin_request.fields)


def _is_part_of(range_value: str, response_fields: Mapping[str, str]) -> bool:
    """Whether a 206 has the first byte of the one range requested, and consistent fields.

    It may be shorter, or wider if the server sends whole blocks (RFC 9110 §14.4, §15.3.7).
    """
    requested = _SINGLE_RANGE.fullmatch(range_value)
    part = parse_content_range(response_fields.get("content-range", ""))
    if requested is None or part is None:
        return False
    part_bytes = str(part.span.size)
    if response_fields.get("content-length", part_bytes).strip() != part_bytes:
        return False
    # A range without its first number counts from the end, so its last number is no position.
    return not requested[1] or part.span.start <= int(requested[1][:19]) < part.span.end


def confirms_record(
    record: Record, origin_request: OriginRequest, status: int, fields: Mapping[str, str]
) -> bool:
    """Whether a response confirms the stored one (§4.3.4, §4.3.5).

    Never if its Vary differs from the stored one: then it is open which requests it holds for.
    """
    if "vary" in fields and (
        varies_by_everything(fields) or parse_vary(fields) != parse_vary(stored_fields(record.head))
    ):
        return False
    if status == 200 and origin_request.method == "HEAD":
        return record.head.status == 200 and head_freshens(_stored_get(record), fields)
    return status == 304 and is_selected(stored_fields(record.head), fields)


def contradicts_record(
    record: Record, origin_request: OriginRequest, status: int, fields: Mapping[str, str]
) -> bool:
    """Whether the response to a HEAD shows that a GET would now get another body (§4.3.5)."""
    if status != 200 or origin_request.method != "HEAD":
        return False
    return record.head.status != 200 or head_contradicts(_stored_get(record), fields)


def _stored_get(record: Record) -> dict[str, str]:
    length = {"content-length": str(record.head.version.size_bytes)}
    return stored_fields(record.head) | length


def freshen_record(
    record: Record, fields: Mapping[str, str], sent_at: SentAt, now_s: float
) -> Record:
    """A record after the response to the request ``sent_at`` confirmed it (§3.2, §4.3.4)."""
    before = stored_fields(record.head)
    now = updated_fields(before, fields)
    headers = representation_fields(now)
    if now.get("last-modified") != before.get("last-modified"):
        # Not in the version, which identifies the stored bytes.
        headers["last-modified"] = now["last-modified"]
    return replace(
        record,
        head=replace(record.head, headers=headers, content_type=now.get("content-type", "")),
        validated_s=sent_at.time_s,
        initial_age_s=age_when_sent_s(fields, sent_at, now_s),
        sent_change=sent_at.change,
        position=sent_at.position,
        held_s=sent_at.held_s,
    )


def age_when_sent_s(fields: Mapping[str, str], sent_at: SentAt, now_s: float) -> float:
    """The age that a response had when its request was sent, in seconds (§4.2.3).

    A response whose request was sent before a write counts as older than the write.
    """
    return max(0.0, initial_age_s(fields, sent_at.time_s, now_s) - (now_s - sent_at.time_s))


def record_and_body(
    asset: Asset,
    origin_request: OriginRequest,
    response: OriginResponse,
    fields: Mapping[str, str],
    sent_at: SentAt,
    now_s: float,
) -> tuple[Record, ResponseRead | None] | None:
    """The record of a response and a read of its body; None: it cannot be stored.

    There is no read if the response has no body.
    """
    status, size_bytes = response.status, response.size_bytes
    span = Span(0, UNKNOWN_BYTES if size_bytes is None else size_bytes)
    whole_bytes = span.end
    if origin_request.method == "HEAD":
        whole_bytes, span = int(fields.get("content-length", "0")), NO_BYTES
    if status == 206:
        part = parse_content_range(fields.get("content-range", ""))
        range_requested = fold_fields(origin_request.fields).get("range", "")
        if (
            part is None
            or part.size_bytes is None
            or part.span.size != size_bytes
            or not _is_part_of(range_requested, fields)
        ):
            return None
        span, whole_bytes = part.span, part.size_bytes
    version = _version(fields, whole_bytes, now_s, is_named=asset.rules is IMMUTABLE)
    if status == 206 and version.id:
        return None
    head = OriginHead(
        version,
        fields.get("content-type", "").strip(),
        representation_fields(storable_fields(fields)),
        200 if status == 206 else status,
    )
    record = Record(
        asset.key,
        head,
        sent_at.time_s,
        age_when_sent_s(fields, sent_at, now_s),
        sent_change=sent_at.change,
        position=sent_at.position,
        held_s=sent_at.held_s,
    )
    if not span.size:
        response.close()
        return record, None
    return record, ResponseRead(head, span, response)


def _version(
    fields: Mapping[str, str], size_bytes: int, now_s: float, *, is_named: bool
) -> Version:
    """The version of a response's body; ``is_named``: the asset's key identifies it already.

    A version without a strong validator or a known size gets a random id.
    """
    etag = fields.get("etag", "").strip()
    modified_s = parse_http_date_s(fields.get("last-modified", ""), now_s)
    date_s = parse_http_date_s(fields.get("date", ""), now_s)
    is_strong = etag.startswith('"') or (
        modified_s is not None
        and modified_s + STRONG_AFTER_S <= (now_s if date_s is None else date_s)
    )
    if size_bytes < UNKNOWN_BYTES and (is_strong or is_named):
        return Version(etag, size_bytes, modified_s)
    return Version(
        etag, size_bytes, modified_s, f"{random.getrandbits(128):032x}", size_bytes < UNKNOWN_BYTES
    )
