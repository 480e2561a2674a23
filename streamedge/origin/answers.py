"""Requests for objects, and the meaning of an origin's responses (RFC 9110), for HTTP and S3.

Pure: the head of a response in, an ``Opening`` or an OriginError out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from streamedge.errors import OriginError, OriginFailure
from streamedge.http_date import format_http_date, parse_http_date_s
from streamedge.http_fields import HOP_BY_HOP, parse_connection, parse_content_range
from streamedge.origin import OriginHead, Version
from streamedge.origin.media_types import guess_media_type
from streamedge.spans import Span

_FAILURES = {
    401: OriginFailure.FORBIDDEN,
    403: OriginFailure.FORBIDDEN,
    404: OriginFailure.NOT_FOUND,
    410: OriginFailure.NOT_FOUND,
    412: OriginFailure.CHANGED,
}

# Those after HOP_BY_HOP are attributes of OriginHead.
_DROPPED_FIELDS = HOP_BY_HOP | {
    *("content-length", "content-range", "content-type", "etag", "last-modified")
}

_NO_CODINGS = frozenset({"", "aws-chunked", "identity"})
_LENGTH = re.compile(r"\d{1,18}", re.ASCII)
_ERROR_CODE = re.compile(rb"<Code>([A-Za-z0-9.]{1,64})</Code>")
_QUOTED_MAX_CHARS = 120  # of a text from an origin in a message

NO_SUCH_BUCKET = "NoSuchBucket"
"""The error code for a bucket that does not exist: a mistake in the config, no missing object."""


@dataclass(frozen=True, slots=True)
class ObjectRequest:
    """One GET or HEAD. ``subject`` names origin and object in messages.

    ``sends_if_match``: whether ``if_match`` is sent as a condition. The response is compared with
    it in any case.
    """

    subject: str
    name: str
    method: str = "GET"
    span: Span | None = None
    if_match: Version | None = None
    if_none_match: Version | None = None
    sends_if_match: bool = True

    def __post_init__(self) -> None:
        if self.span is not None and (self.span.start < 0 or self.span.size == 0):
            raise ValueError(f"{self.span} is not a valid byte range")


@dataclass(frozen=True, slots=True)
class Opening:
    """The head of a successful response: the object, and the bytes of it in the body."""

    head: OriginHead
    span: Span


def request_fields(request: ObjectRequest) -> dict[str, str]:
    """The header fields of ``request``.

    If-Match works with strong validators alone (RFC 9110 §13.1.1); for a weak or missing ETag,
    or one with bytes that clients and servers encode differently, the date is sent instead.
    ``read_response`` compares the response in any case.
    """
    fields = {"Accept-Encoding": "identity"}
    if request.span is not None:
        fields["Range"] = f"bytes={request.span.start}-{request.span.end - 1}"
    if request.if_match is not None and request.sends_if_match:
        if request.if_match.is_strong and request.if_match.etag.isascii():
            fields["If-Match"] = request.if_match.etag
        elif request.if_match.last_modified_s is not None:
            fields["If-Unmodified-Since"] = format_http_date(request.if_match.last_modified_s)
    if request.if_none_match is not None:
        if request.if_none_match.etag and request.if_none_match.etag.isascii():
            fields["If-None-Match"] = request.if_none_match.etag
        elif request.if_none_match.last_modified_s is not None:
            fields["If-Modified-Since"] = format_http_date(request.if_none_match.last_modified_s)
    return fields


def fold_fields(fields: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Header fields by lower-case name, repeated ones joined with ", " (RFC 9110 §5.3).

    Set-Cookie, which cannot be joined so (RFC 6265 §3), is joined with line feeds.
    """
    folded: dict[str, str] = {}
    for name, value in fields:
        lower = name.lower()
        separator = "\n" if lower == "set-cookie" else ", "
        folded[lower] = f"{folded[lower]}{separator}{value}" if lower in folded else value
    return folded


def read_response(
    request: ObjectRequest, status: int, fields: Mapping[str, str], error_code: str = ""
) -> Opening | None:
    """The opening of a response; None if the object still is ``request.if_none_match``.

    ``fields`` are from ``fold_fields``, ``error_code`` is from ``find_error_code``. Raises
    OriginError: by status, CHANGED for another version than ``request.if_match``, UNAVAILABLE for
    a response that contradicts itself or the request.
    """
    expected = request.if_none_match
    if status == 304 and expected is not None:
        return None
    opening = _read_opening(request, status, fields, error_code)
    version = opening.head.version
    if expected is not None and is_same_version(expected, version):
        return None
    if request.span is not None and version.size_bytes <= request.span.start:
        raise OriginError(
            OriginFailure.RANGE_OUTSIDE,
            f"{request.subject}: byte {request.span.start} lies past the end"
            f" at {version.size_bytes}",
        )
    return opening


def read_head(
    request: ObjectRequest, status: int, fields: Mapping[str, str], error_code: str = ""
) -> OriginHead:
    """The head in a response to a request without If-None-Match. Raises as ``read_response``."""
    return _read_opening(request, status, fields, error_code).head


def _read_opening(
    request: ObjectRequest, status: int, fields: Mapping[str, str], error_code: str
) -> Opening:
    if status not in (200, 206):
        raise _refusal(request, status, fields, error_code)
    if status == 206:
        span, size_bytes = _partial_span(request, fields)
    else:
        size_bytes = _whole_size(request, fields)
        span = Span(0, size_bytes)
    head = OriginHead(
        version=Version(
            etag=fields.get("etag", "").strip(),
            size_bytes=size_bytes,
            last_modified_s=parse_http_date_s(fields.get("last-modified", "")),
        ),
        content_type=fields.get("content-type", "").strip() or guess_media_type(request.name),
        headers=representation_fields(fields),
    )
    require_version(request.subject, request.if_match, head.version)
    return Opening(head, span)


def may_retry_unconditionally(request: ObjectRequest, status: int) -> bool:
    """Whether to repeat a request that got 412 without its If-Match. Some servers reject every
    If-Match, and the response is compared with the version in any case.
    """
    return status == 412 and request.if_match is not None and request.sends_if_match


def failure_of_status(status: int) -> OriginFailure:
    """The failure for a status other than 200 and 206."""
    return _FAILURES.get(status, OriginFailure.UNAVAILABLE)


def is_same_version(expected: Version, actual: Version) -> bool:
    """Whether two versions name the same bytes, by ETag (weak comparison, RFC 9110 §8.8.3.2) or,
    when one of them has none, by date; sizes must always agree.
    """
    if expected.size_bytes != actual.size_bytes:
        return False
    if expected.etag and actual.etag:
        return expected.etag.removeprefix("W/") == actual.etag.removeprefix("W/")
    if expected.last_modified_s is not None and actual.last_modified_s is not None:
        return expected.last_modified_s == actual.last_modified_s
    return not expected.etag and not actual.etag


def require_version(subject: str, expected: Version | None, actual: Version) -> None:
    """Raises OriginError CHANGED unless ``actual`` is ``expected`` (None: any version is)."""
    if expected is not None and not is_same_version(expected, actual):
        raise OriginError(
            OriginFailure.CHANGED,
            f"{subject}: the object is now {_describe(actual)}, expected was {_describe(expected)}",
        )


def find_error_code(body: bytes) -> str:
    """The code in an S3 error document (Amazon S3 API Reference, "Error responses"), or ""."""
    match = _ERROR_CODE.search(body)
    return match[1].decode("ascii") if match else ""


def _partial_span(request: ObjectRequest, fields: Mapping[str, str]) -> tuple[Span, int]:
    """The span and the object's size from a 206, which must have the first requested byte.

    A server may send less, or more if it sends whole blocks (RFC 9110 §15.3.7).
    """
    if request.span is None:
        raise _contradiction(request, 206, "no range was requested")
    content_range = fields.get("content-range", "").strip()
    part = parse_content_range(content_range)
    if part is None or part.size_bytes is None:
        raise _contradiction(request, 206, f"Content-Range is {_quoted(content_range)}")
    span, size_bytes = part.span, part.size_bytes
    if not span.start <= request.span.start < span.end:
        raise _contradiction(
            request,
            206,
            f"Content-Range is {_quoted(content_range)}"
            f" for bytes {request.span.start}-{request.span.end - 1}",
        )
    length = fields.get("content-length", "").strip()
    if length and length != str(span.size):
        raise _contradiction(
            request,
            206,
            f"Content-Length is {_quoted(length)}, Content-Range {_quoted(content_range)}",
        )
    return span, size_bytes


def _whole_size(request: ObjectRequest, fields: Mapping[str, str]) -> int:
    length = fields.get("content-length", "").strip()
    if not length:
        raise _contradiction(
            request, 200, "the origin sends no length (Content-Length), which the edge needs"
        )
    if _LENGTH.fullmatch(length) is None:
        raise _contradiction(request, 200, f"Content-Length is {_quoted(length)}")
    return int(length)


def content_codings(value: str) -> str:
    """A Content-Encoding without names that are no coding: S3 keeps "aws-chunked", the framing
    of an upload, and "identity" means no coding (RFC 9110 §8.4.1, §12.5.3)."""
    codings = [coding.strip() for coding in value.split(",")]
    return ", ".join(coding for coding in codings if coding.lower() not in _NO_CODINGS)


def without_no_codings(name: str, value: str) -> str | None:
    """A field's value for viewers; None: the field is left out."""
    return (content_codings(value) or None) if name == "content-encoding" else value


def representation_fields(fields: Mapping[str, str]) -> dict[str, str]:
    """The fields that ``OriginHead.headers`` holds."""
    nominated = parse_connection(fields.get("connection", ""))
    remaining = {
        name: value
        for name, value in fields.items()
        if name not in _DROPPED_FIELDS and name not in nominated
    }
    if "content-encoding" in remaining:
        codings = content_codings(remaining["content-encoding"])
        if codings:
            remaining["content-encoding"] = codings
        else:
            del remaining["content-encoding"]
    return remaining


def _refusal(
    request: ObjectRequest, status: int, fields: Mapping[str, str], error_code: str
) -> OriginError:
    message = f"{request.subject}: answered {status}{' ' + error_code if error_code else ''}"
    if status == 416:
        start = 0 if request.span is None else request.span.start
        if request.if_match is not None and start < request.if_match.size_bytes:
            return OriginError(
                OriginFailure.CHANGED,
                f"{message}: byte {start} was within {_describe(request.if_match)}",
                status=status,
            )
        content_range = _quoted(fields.get("content-range", ""))
        return OriginError(
            OriginFailure.RANGE_OUTSIDE,
            f"{message} for byte {start}, Content-Range {content_range}",
            status=status,
        )
    if error_code == NO_SUCH_BUCKET:
        return OriginError(
            OriginFailure.UNAVAILABLE,
            f"{message}: the bucket does not exist; check the origin's bucket, region and endpoint",
            retried=True,
            status=status,
        )
    failure = failure_of_status(status)
    if 300 <= status < 400 and status != 304:
        host = _location_host(fields.get("location", ""))
        message = f"{message}, a redirect to {host}, which is not followed"
    region = fields.get("x-amz-bucket-region", "")
    if region and failure is OriginFailure.UNAVAILABLE:
        message = f"{message} (the bucket is in region {_quoted(region)})"
    return OriginError(failure, message, status=status, fields=fields)


def _location_host(location: str) -> str:
    """The host of a Location only: its path and query may hold a signature."""
    try:
        host = urlsplit(location).hostname
    except ValueError:
        host = None
    return _quoted(host) if host else "no host"


def _contradiction(request: ObjectRequest, status: int, reason: str) -> OriginError:
    return OriginError(
        OriginFailure.UNAVAILABLE, f"{request.subject}: answered {status}, but {reason}"
    )


def _describe(version: Version) -> str:
    return f"{_quoted(version.etag)} of {version.size_bytes} bytes"


def _quoted(text: str) -> str:
    """A text from an origin, escaped and shortened for one log line."""
    return ascii(text if len(text) <= _QUOTED_MAX_CHARS else text[:_QUOTED_MAX_CHARS] + "…")
