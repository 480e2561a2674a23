"""What is asked of an HTTP origin, and what its answer means.

Owns the reading of status, header fields and byte ranges (RFC 9110), for plain HTTP and S3 alike.
Pure: an answer's head in, an ``Opening`` or a named OriginError out; it never sees a socket.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from urllib.parse import urlsplit

from streamedge.errors import OriginError, OriginFailure
from streamedge.http_date import parse_http_date_s
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

# RFC 9110 §7.6.1 and §11.7, RFC 9112; then what OriginHead carries elsewhere.
_NOT_KEPT = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "content-length",
        "content-range",
        "content-type",
        "etag",
        "last-modified",
    }
)

_NO_CODINGS = frozenset({"", "aws-chunked", "identity"})
_LENGTH = re.compile(r"\d{1,18}", re.ASCII)
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", re.ASCII | re.IGNORECASE)
_ERROR_CODE = re.compile(rb"<Code>([A-Za-z0-9.]{1,64})</Code>")
_SEEN_MAX_CHARS = 120  # of an origin's own words in a message


@dataclass(frozen=True, slots=True)
class ObjectRequest:
    """One GET or HEAD. ``subject`` names origin and object in messages.

    ``sends_if_match``: whether the origin is told of ``if_match``, and not the answer alone
    compared with it.
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
            raise ValueError(f"{self.span} is not a range of bytes that can be asked for")


@dataclass(frozen=True, slots=True)
class Opening:
    """A good answer's head: what the object is, and which of its bytes the body brings."""

    head: OriginHead
    span: Span


def request_fields(ask: ObjectRequest) -> dict[str, str]:
    """The header fields that say ``ask``.

    If-Match works with strong validators alone (RFC 9110 §13.1.1); for a weak or missing ETag,
    or one with bytes that clients and servers encode differently, the date is asked for instead.
    ``read_answer`` compares what comes back in any case.
    """
    fields = {"Accept-Encoding": "identity"}
    if ask.span is not None:
        fields["Range"] = f"bytes={ask.span.start}-{ask.span.end - 1}"
    if ask.if_match is not None and ask.sends_if_match:
        if ask.if_match.is_strong and ask.if_match.etag.isascii():
            fields["If-Match"] = ask.if_match.etag
        elif ask.if_match.last_modified_s is not None:
            fields["If-Unmodified-Since"] = formatdate(ask.if_match.last_modified_s, usegmt=True)
    if ask.if_none_match is not None:
        if ask.if_none_match.etag and ask.if_none_match.etag.isascii():
            fields["If-None-Match"] = ask.if_none_match.etag
        elif ask.if_none_match.last_modified_s is not None:
            fields["If-Modified-Since"] = formatdate(ask.if_none_match.last_modified_s, usegmt=True)
    return fields


def fold_fields(fields: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Header fields by lower-case name, repeated ones joined with ", " (RFC 9110 §5.3).

    Set-Cookie, which cannot be joined so (RFC 6265 §3), is joined with line feeds.
    """
    folded: dict[str, str] = {}
    for name, value in fields:
        lower = name.lower()
        parting = "\n" if lower == "set-cookie" else ", "
        folded[lower] = f"{folded[lower]}{parting}{value}" if lower in folded else value
    return folded


def read_answer(
    ask: ObjectRequest, status: int, fields: Mapping[str, str], error_code: str = ""
) -> Opening | None:
    """What an answer to ``ask`` brings; None when the object still is ``ask.if_none_match``.

    ``fields`` as ``fold_fields`` gives them; ``error_code`` as ``find_error_code`` does. Raises
    OriginError: by status, CHANGED when the answer is for another version than ``ask.if_match``,
    UNAVAILABLE for an answer that contradicts itself or the question.
    """
    if status == 304 and ask.if_none_match is not None:
        return None
    if status not in (200, 206):
        raise _refusal(ask, status, fields, error_code)
    if status == 206:
        span, size_bytes = _partial_span(ask, fields)
    else:
        size_bytes = _whole_size(ask, fields)
        span = Span(0, size_bytes)
    head = OriginHead(
        version=Version(
            etag=fields.get("etag", "").strip(),
            size_bytes=size_bytes,
            last_modified_s=parse_http_date_s(fields.get("last-modified", "")),
        ),
        content_type=fields.get("content-type", "").strip() or guess_media_type(ask.name),
        headers=kept_fields(fields),
    )
    require_version(ask.subject, ask.if_match, head.version)
    if ask.if_none_match is not None and is_same_version(ask.if_none_match, head.version):
        return None
    if ask.span is not None and size_bytes <= ask.span.start:
        raise OriginError(
            OriginFailure.RANGE_OUTSIDE,
            f"{ask.subject}: byte {ask.span.start} lies past the end at {size_bytes}",
        )
    return Opening(head, span)


def may_ask_plainly(ask: ObjectRequest, status: int) -> bool:
    """Whether a refused condition is worth a request without it: some servers refuse every
    If-Match, and what comes is compared with the version in any case.
    """
    return status == 412 and ask.if_match is not None and ask.sends_if_match


def failure_of_status(status: int) -> OriginFailure:
    """What a status other than 200 and 206 says of an object."""
    return _FAILURES.get(status, OriginFailure.UNAVAILABLE)


def is_same_version(known: Version, seen: Version) -> bool:
    """Whether two versions name the same bytes, by ETag (weak comparison, RFC 9110 §8.8.3.2) or,
    when one of them has none, by date; sizes must always agree.
    """
    if known.size_bytes != seen.size_bytes:
        return False
    if known.etag and seen.etag:
        return known.etag.removeprefix("W/") == seen.etag.removeprefix("W/")
    if known.last_modified_s is not None and seen.last_modified_s is not None:
        return known.last_modified_s == seen.last_modified_s
    return not known.etag and not seen.etag


def require_version(subject: str, known: Version | None, seen: Version) -> None:
    """Raises OriginError CHANGED unless ``seen`` is the version asked for (None: any is)."""
    if known is not None and not is_same_version(known, seen):
        raise OriginError(
            OriginFailure.CHANGED,
            f"{subject}: now is {_describe(seen)}, asked for was {_describe(known)}",
        )


def find_error_code(body: bytes) -> str:
    """The code in an S3 error document (Amazon S3 API Reference, "Error responses"), or ""."""
    found = _ERROR_CODE.search(body)
    return found[1].decode("ascii") if found else ""


def partial_span(fields: Mapping[str, str]) -> tuple[Span, int] | None:
    """The span and the whole size that Content-Range tells (RFC 9110 §14.4); None: neither."""
    found = _CONTENT_RANGE.fullmatch(fields.get("content-range", "").strip())
    if found is None:
        return None
    first, last, size_bytes = (int(number) for number in found.groups())
    return (Span(first, last + 1), size_bytes) if first <= last < size_bytes else None


def _partial_span(ask: ObjectRequest, fields: Mapping[str, str]) -> tuple[Span, int]:
    """The span and the object's size that a 206 tells: at least the first byte asked for.

    A server may send less, or whole blocks and so more (RFC 9110 §15.3.7).
    """
    if ask.span is None:
        raise _nonsense(ask, 206, "no range was asked for")
    content_range = fields.get("content-range", "").strip()
    found = _CONTENT_RANGE.fullmatch(content_range)
    if found is None:
        raise _nonsense(ask, 206, f"Content-Range is {_seen(content_range)}")
    first, last, size_bytes = (int(number) for number in found.groups())
    span = Span(first, last + 1)
    if not span.start <= ask.span.start < span.end <= size_bytes:
        raise _nonsense(
            ask,
            206,
            f"Content-Range is {_seen(content_range)}"
            f" for bytes {ask.span.start}-{ask.span.end - 1}",
        )
    length = fields.get("content-length", "").strip()
    if length and length != str(span.size):
        raise _nonsense(
            ask, 206, f"Content-Length is {_seen(length)}, Content-Range {_seen(content_range)}"
        )
    return span, size_bytes


def _whole_size(ask: ObjectRequest, fields: Mapping[str, str]) -> int:
    length = fields.get("content-length", "").strip()
    if not length:
        raise _nonsense(
            ask, 200, "the origin sends no length (Content-Length), which the edge needs"
        )
    if _LENGTH.fullmatch(length) is None:
        raise _nonsense(ask, 200, f"Content-Length is {_seen(length)}")
    return int(length)


def content_codings(value: str) -> str:
    """A Content-Encoding without what is none: S3 keeps "aws-chunked", which was an upload's
    framing, and "identity" means no coding (RFC 9110 §8.4.1, §12.5.3)."""
    codings = [coding.strip() for coding in value.split(",")]
    return ", ".join(coding for coding in codings if coding.lower() not in _NO_CODINGS)


def without_no_codings(name: str, value: str) -> str | None:
    """A field's value as viewers get it; None: the field means nothing."""
    return (content_codings(value) or None) if name == "content-encoding" else value


def kept_fields(fields: Mapping[str, str]) -> dict[str, str]:
    """The fields that ``OriginHead.headers`` holds."""
    nominated = {token.strip().lower() for token in fields.get("connection", "").split(",")}
    return {
        name: kept
        for name, value in fields.items()
        if name not in _NOT_KEPT
        and name not in nominated
        and (kept := without_no_codings(name, value)) is not None
    }


def _refusal(
    ask: ObjectRequest, status: int, fields: Mapping[str, str], error_code: str
) -> OriginError:
    answered = f"{ask.subject}: answered {status}{' ' + error_code if error_code else ''}"
    if status == 416:
        start = 0 if ask.span is None else ask.span.start
        if ask.if_match is not None and start < ask.if_match.size_bytes:
            return OriginError(
                OriginFailure.CHANGED,
                f"{answered}: byte {start} was within {_describe(ask.if_match)}",
                status=status,
            )
        seen = _seen(fields.get("content-range", ""))
        return OriginError(
            OriginFailure.RANGE_OUTSIDE,
            f"{answered} for byte {start}, Content-Range {seen}",
            status=status,
        )
    failure = failure_of_status(status)
    if 300 <= status < 400 and status != 304:
        host = _location_host(fields.get("location", ""))
        answered = f"{answered}, a redirect to {host}, which is not followed"
    region = fields.get("x-amz-bucket-region", "")
    if region and failure is OriginFailure.UNAVAILABLE:
        answered = f"{answered} (the bucket is in region {_seen(region)})"
    return OriginError(failure, answered, status=status, fields=fields)


def _location_host(location: str) -> str:
    """Host of a Location alone: its path and query may hold a signature."""
    try:
        host = urlsplit(location).hostname
    except ValueError:
        host = None
    return _seen(host) if host else "no host"


def _nonsense(ask: ObjectRequest, status: int, what: str) -> OriginError:
    return OriginError(OriginFailure.UNAVAILABLE, f"{ask.subject}: answered {status}, but {what}")


def _describe(version: Version) -> str:
    return f"{_seen(version.etag)} of {version.size_bytes} bytes"


def _seen(text: str) -> str:
    """An origin's own words, fit for one line of a log."""
    return ascii(text if len(text) <= _SEEN_MAX_CHARS else text[:_SEEN_MAX_CHARS] + "…")
