"""What an origin is asked for a request, and what its answer makes of what is stored.

Pure, but for the read that an answer's body becomes. RFC 9111 §4.3.1 and §4.3.4 decide on
validation; ranges are asked for in whole chunks.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from streamedge.cache.rfc9111.freshness import IMMUTABLE, initial_age_s
from streamedge.cache.rfc9111.storing import storable_fields
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
from streamedge.spans import Span

WHOLE = Span(0, UNKNOWN_BYTES)
SOLID_AFTER_S = (
    60  # older than its answer, a Last-Modified tells versions apart (RFC 9110 §8.8.2.2)
)

_CONDITIONS = ("if-none-match", "if-modified-since")
_RANGE = ("range", "if-range")
# What an answer of some statuses answers (RFC 9110 §15.3.7, §15.4.5, §15.5.17).
_FIELDS_ANSWERED = {206: _RANGE, 304: _CONDITIONS, 416: ("if-range",)}
_SINGLE_RANGE = re.compile(r"bytes=(\d*)-(\d*)", re.ASCII)


@dataclass(frozen=True, slots=True)
class CacheRequest:
    """A viewer's GET or HEAD as the cache sees it.

    ``asset`` is keyed by the cache policy. ``request`` is what the origin is asked when nothing
    is known, ``fields`` are the viewer's own, names in lower case. ``is_object``: the origin has
    objects alone, so that HEAD tells what GET would bring. ``want`` is what will be read first
    (empty: nothing, WHOLE: all); ``suffix_bytes``: how many of the last bytes will be, where only
    the size tells which those are. ``applies_request_directives``: whether Cache-Control of the
    request counts.
    ``selected_by``: the fields that the origin is sent, by which Vary selects (§4.1).
    ``needs_version``: the answer is read by positions, so it becomes a version even where it may
    not be stored; then it is for this request alone.
    """

    asset: Asset
    upstream: Upstream
    request: OriginRequest
    fields: Mapping[str, str]
    want: Span
    applies_request_directives: bool = False
    is_object: bool = False
    selected_by: Mapping[str, str] = field(default_factory=dict)
    needs_version: bool = False
    suffix_bytes: int = 0

    def wanted_of(self, size_bytes: int) -> Span:
        """What will be read first of an object of that size."""
        if self.suffix_bytes and size_bytes < UNKNOWN_BYTES:
            return Span(max(0, size_bytes - self.suffix_bytes), size_bytes)
        return self.want


def object_request(asset: Asset, want: Span) -> CacheRequest:
    """What is asked for an object that is read by positions, such as media over RTMP."""
    request = OriginRequest("GET", asset.name)
    return CacheRequest(
        asset, ObjectUpstream(asset.origin), request, {}, want, is_object=True, needs_version=True
    )


def first_read(want: Span) -> Span:
    """What a cold open asks for: whole chunks, within the extent where ``want`` begins."""
    aligned = want.align(CHUNK_BYTES)
    return Span(aligned.start, min(aligned.end, (want.start // EXTENT_BYTES + 1) * EXTENT_BYTES))


def request_for(
    ask: CacheRequest, record: Record | None, *, is_passed: bool = False
) -> OriginRequest:
    """What to ask: for a validation what §4.3.1 says, for a range its whole chunks.

    Of an object always a range, so that a slow reader of a long one fetches it piece by piece.
    The viewer's own conditions are left out: the answer is to be stored, and each viewer who waits
    for it has conditions of its own. ``is_passed``: just what the viewer asks, for the answer is
    for nobody else.
    """
    fields = list(ask.request.fields)
    method = ask.request.method
    if is_passed and record is None:
        if not ask.is_object:
            fields += [(name, ask.fields[name]) for name in _CONDITIONS if name in ask.fields]
            # Several ranges could make the origin send the same bytes again and again.
            if method == "GET" and _SINGLE_RANGE.fullmatch(ask.fields.get("range", "")):
                fields += [(name, ask.fields[name]) for name in _RANGE if name in ask.fields]
        return replace(ask.request, fields=tuple(fields))
    if record is not None:
        fields += conditional_fields(stored_fields(record.head)).items()
    if record is None and ask.suffix_bytes and method == "GET":
        # A chunk is stored from its start on, so ask for one more: the size is not known.
        fields.append(("range", f"bytes=-{ask.suffix_bytes + CHUNK_BYTES - 1}"))
    elif ask.is_object and not ask.want.size:
        method = "HEAD"
    elif method == "GET" and (ask.is_object or (record is None and ask.want != WHOLE)):
        span = first_read(ask.want)
        if ask.want.size:
            fields.append(("range", f"bytes={span.start}-{span.end - 1}"))
    return replace(ask.request, method=method, fields=tuple(fields))


def without_range(fields: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """A request's fields, so that it asks for all of the object."""
    return tuple(field for field in fields if field[0] not in _RANGE)


def may_pass(
    ask: CacheRequest, request: OriginRequest, status: int, response_fields: Mapping[str, str]
) -> bool:
    """Whether a response to ``request`` also answers the viewer's own request."""
    sent = fold_fields(request.fields)
    field_names = _FIELDS_ANSWERED.get(status, ())
    return (
        request.method == ask.request.method
        and all(sent.get(name) == ask.fields.get(name) for name in field_names)
        and (status != 304 or any(name in sent for name in field_names))
        and (status != 206 or _is_part_of(sent.get("range", ""), response_fields))
    )


def _is_part_of(wanted: str, response_fields: Mapping[str, str]) -> bool:
    """Whether a 206 brings the first byte of what a single range asks for, and says so rightly.

    It may be shorter than that, or of whole blocks, and so wider (RFC 9110 §14.4, §15.3.7).
    """
    requested = _SINGLE_RANGE.fullmatch(wanted)
    part = parse_content_range(response_fields.get("content-range", ""))
    if requested is None or part is None:
        return False
    part_bytes = str(part.span.size)
    if response_fields.get("content-length", part_bytes).strip() != part_bytes:
        return False
    # A range without its first number counts from the end, so its last number is no position.
    return not requested[1] or part.span.start <= int(requested[1][:19]) < part.span.end


def is_confirmed(
    record: Record, request: OriginRequest, status: int, fields: Mapping[str, str]
) -> bool:
    """Whether an answer says that the stored one still holds (§4.3.4, §4.3.5).

    Not one that varies by other fields than the stored one: for which requests that holds, is open.
    """
    if "vary" in fields and (
        varies_by_everything(fields) or parse_vary(fields) != parse_vary(stored_fields(record.head))
    ):
        return False
    if status == 200 and request.method == "HEAD":
        return record.head.status == 200 and head_freshens(_stored_get(record), fields)
    return status == 304 and is_selected(stored_fields(record.head), fields)


def is_contradicted(
    record: Record, request: OriginRequest, status: int, fields: Mapping[str, str]
) -> bool:
    """Whether a HEAD has found that a GET would now bring something else (§4.3.5)."""
    if status != 200 or request.method != "HEAD":
        return False
    return record.head.status != 200 or head_contradicts(_stored_get(record), fields)


def _stored_get(record: Record) -> dict[str, str]:
    length = {"content-length": str(record.head.version.size_bytes)}
    return stored_fields(record.head) | length


def confirmed(record: Record, fields: Mapping[str, str], sent: SentAt, now_s: float) -> Record:
    """A record after its answer was confirmed (§3.2, §4.3.4) by an answer to what was ``sent``."""
    before = stored_fields(record.head)
    now = updated_fields(before, fields)
    headers = representation_fields(now)
    if now.get("last-modified") != before.get("last-modified"):
        # Apart from the version, which says which bytes are stored.
        headers["last-modified"] = now["last-modified"]
    return replace(
        record,
        head=replace(record.head, headers=headers, content_type=now.get("content-type", "")),
        validated_s=sent.time_s,
        initial_age_s=age_when_sent_s(fields, sent, now_s),
        sent_change=sent.change,
        position=sent.position,
    )


def age_when_sent_s(fields: Mapping[str, str], sent: SentAt, now_s: float) -> float:
    """§4.2.3, counted from the sending: what was asked before a write must be older than it."""
    return max(0.0, initial_age_s(fields, sent.time_s, now_s) - (now_s - sent.time_s))


def opening(
    asset: Asset,
    request: OriginRequest,
    response: OriginResponse,
    fields: Mapping[str, str],
    sent: SentAt,
    now_s: float,
) -> tuple[Record, ResponseRead | None] | None:
    """A record of an answer and the read that brings its body; None: it cannot be kept."""
    status, size_bytes = response.status, response.size_bytes
    span = Span(0, UNKNOWN_BYTES if size_bytes is None else size_bytes)
    whole_bytes = span.end
    if request.method == "HEAD":
        whole_bytes, span = int(fields.get("content-length", "0")), Span(0, 0)
    if status == 206:
        part = parse_content_range(fields.get("content-range", ""))
        range_requested = fold_fields(request.fields).get("range", "")
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
        sent.time_s,
        age_when_sent_s(fields, sent, now_s),
        sent_change=sent.change,
        position=sent.position,
    )
    if not span.size:
        response.close()
        return record, None
    return record, ResponseRead(head, span, response)


def _version(
    fields: Mapping[str, str], size_bytes: int, now_s: float, *, is_named: bool
) -> Version:
    """What tells this answer's bytes from others'; ``is_named``: the asset's key does already."""
    etag = fields.get("etag", "").strip()
    modified_s = parse_http_date_s(fields.get("last-modified", ""), now_s)
    date_s = parse_http_date_s(fields.get("date", ""), now_s)
    is_solid = etag.startswith('"') or (
        modified_s is not None
        and modified_s + SOLID_AFTER_S <= (now_s if date_s is None else date_s)
    )
    if size_bytes < UNKNOWN_BYTES and (is_solid or is_named):
        return Version(etag, size_bytes, modified_s)
    return Version(
        etag, size_bytes, modified_s, f"{random.getrandbits(128):032x}", size_bytes < UNKNOWN_BYTES
    )
