"""The responses of a scripted origin: an HTTP server's rules, and ways to break them.

Objects, requests and responses are values. Pure: ``scripted_origin`` sends them.
"""

from __future__ import annotations

import asyncio
import random
import re
import sys
from dataclasses import dataclass, field, replace
from email.utils import formatdate, parsedate_to_datetime
from functools import cache
from http import HTTPStatus
from typing import Protocol
from urllib.parse import unquote

from streamedge.spans import Span

PATTERN_PERIOD_BYTES = 65_521  # a prime: chunks of a power-of-two size all differ


class Content(Protocol):
    """Bytes of an object, by position."""

    @property
    def size_bytes(self) -> int: ...

    def read(self, span: Span) -> bytes: ...


@dataclass(frozen=True, slots=True)
class BytesContent:
    """Content in memory."""

    data: bytes

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    def read(self, span: Span) -> bytes:
        return self.data[span.start : span.end]


@dataclass(frozen=True, slots=True)
class Pattern:
    """Computed content of any size: byte i depends only on ``seed`` and i.

    A reader of the bytes a to b must receive ``Pattern(n, s).read(Span(a, b))``.
    """

    size_bytes: int
    seed: int = 0

    def read(self, span: Span) -> bytes:
        start, end = min(span.start, self.size_bytes), min(span.end, self.size_bytes)
        period = _pattern_period(self.seed)
        first = start % PATTERN_PERIOD_BYTES
        repeats = (first + end - start) // PATTERN_PERIOD_BYTES + 1
        return (period * repeats)[first : first + end - start]


@cache
def _pattern_period(seed: int) -> bytes:
    return random.Random(seed).randbytes(PATTERN_PERIOD_BYTES)


@dataclass(frozen=True, slots=True)
class Reply:
    """How the origin responds to one request. The default is a correct response.

    ``status``: this status with ``body``, for any request. ``headers`` are added or replace fields
    of the same name; None removes the field. ``ignore_range`` and ``ignore_conditions`` ignore
    those request fields; ``refuse_if_match`` sends 412 for every If-Match. A 206 has at most
    ``range_max`` bytes, or whole blocks of ``range_block`` bytes. ``chunked``: chunked coding
    instead of Content-Length, with ``trailers`` after the last chunk. ``extra``: bytes after the
    complete body. Three end the response after so many body bytes: ``cut_at`` closes the
    connection, ``reset_at`` resets it (RST), ``stall_at`` sends nothing more. ``silent``: no
    response at all. ``raw``: sends only these bytes, then closes, unless ``keeps_open``.
    ``interim``: 1xx responses ahead of it. ``early``: does not wait for the request's body.
    ``after``: waits for this event. ``echoes``: 101, then every byte is sent back.
    """

    status: int | None = None
    headers: tuple[tuple[str, str | None], ...] = ()
    body: bytes = b""
    ignore_range: bool = False
    ignore_conditions: bool = False
    refuse_if_match: bool = False
    range_max: int | None = None
    range_block: int = 1
    chunked: bool = False
    extra: bytes = b""
    cut_at: int | None = None
    reset_at: int | None = None
    stall_at: int | None = None
    silent: bool = False
    raw: bytes | None = None
    keeps_open: bool = False
    trailers: tuple[tuple[str, str], ...] = ()
    interim: tuple[tuple[int, tuple[tuple[str, str], ...]], ...] = ()
    early: bool = False
    after: asyncio.Event | None = None
    echoes: bool = False


@dataclass(slots=True)
class ReceivedRequest:
    """A request as received, and how much of its response has been sent.

    ``path`` is encoded as sent, ``name`` is decoded; ``headers`` have lower-case names;
    ``connection`` counts from 1. ``span`` is the span of Range, not clipped: None without Range,
    an end of ``sys.maxsize`` for an open range, a negative start for a suffix. ``fields`` are as
    sent. ``body`` is the decoded part that has arrived, ``trailers`` the lines after it;
    ``has_ended``: the body is complete.
    """

    method: str
    path: str
    name: str
    span: Span | None
    headers: dict[str, str]
    connection: int
    body_bytes_sent: int = 0
    fields: tuple[tuple[str, str], ...] = ()
    body: bytearray = field(default_factory=bytearray)
    has_ended: bool = False
    trailers: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class OriginObject:
    """An object of the origin."""

    content: Content
    etag: str
    last_modified_s: int | None
    content_type: str
    headers: tuple[tuple[str, str], ...]
    status: int = 200


@dataclass(frozen=True, slots=True)
class Response:
    """A response: its head, and the bytes ``span`` of ``content``."""

    status: int
    headers: tuple[tuple[str, str], ...]
    content: Content
    span: Span


def parse_request(head: bytes, connection: int) -> ReceivedRequest:
    """Parses a request's head, including the blank line."""
    request_line, *lines = head.decode("latin-1").split("\r\n")[:-2]
    method, path, _ = request_line.split(" ")
    fields = tuple(
        (name, value.strip()) for name, _, value in (one.partition(":") for one in lines)
    )
    headers = {name.lower(): value for name, value in fields}
    name = unquote(path.partition("?")[0]).removeprefix("/")
    span = _parse_range(headers.get("range", ""))
    return ReceivedRequest(method, path, name, span, headers, connection, fields=fields)


def _parse_range(text: str) -> Span | None:
    """One range; a suffix range has a negative start. None: no range, or an ignored one."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", text)
    if match is None or match[0] == "bytes=-":
        return None
    first, last = match.groups()
    if not first:
        return Span(-int(last), sys.maxsize)
    return Span(int(first), int(last) + 1 if last else sys.maxsize)


def decide(request: ReceivedRequest, reply: Reply, target: OriginObject | None) -> Response:
    """The response to ``request`` for ``target`` (None: no such object)."""
    response = _decide_without_headers(request, reply, target)
    replaced = {name.lower() for name, _ in reply.headers}
    headers = [pair for pair in response.headers if pair[0].lower() not in replaced]
    headers += [(name, value) for name, value in reply.headers if value is not None]
    return replace(response, headers=tuple(headers))


def _decide_without_headers(
    request: ReceivedRequest, reply: Reply, target: OriginObject | None
) -> Response:
    if reply.status is not None:
        content = BytesContent(reply.body)
        return _with_framing(
            Response(reply.status, (), content, Span(0, content.size_bytes)), reply
        )
    if request.method not in ("GET", "HEAD"):
        return _complete_response(405, (("Allow", "GET, HEAD"),), BytesContent(b""))
    if target is None:
        return _complete_response(404, (), BytesContent(b"no such object\n"))
    headers = _object_headers(target)
    if target.status != 200:
        return _complete_response(target.status, headers, target.content)
    status = 200 if reply.ignore_conditions else _check_conditions(request.headers, target)
    if reply.refuse_if_match and "if-match" in request.headers:
        status = 412
    if status != 200:
        return _complete_response(status, headers, BytesContent(b""))
    size_bytes = target.content.size_bytes
    requested = None if reply.ignore_range else request.span
    if requested is not None and request.method == "GET":
        start = requested.start if requested.start >= 0 else max(0, size_bytes + requested.start)
        end = (
            requested.end
            if reply.range_max is None
            else min(requested.end, start + reply.range_max)
        )
        span = Span(start, end).align(reply.range_block).intersect(Span(0, size_bytes))
        if span.size == 0:
            unsatisfied = (("Content-Range", f"bytes */{size_bytes}"),)
            return _complete_response(416, unsatisfied, BytesContent(b""))
        content_range = ("Content-Range", f"bytes {span.start}-{span.end - 1}/{size_bytes}")
        return _with_framing(Response(206, (*headers, content_range), target.content, span), reply)
    return _with_framing(Response(200, headers, target.content, Span(0, size_bytes)), reply)


def encode_head(response: Response) -> bytes:
    """Status line, header fields and blank line."""
    return encode_status(response.status, response.headers)


def encode_status(status: int, headers: tuple[tuple[str, str], ...]) -> bytes:
    """Status line, the given fields and blank line."""
    reason = HTTPStatus(status).phrase if status in set(HTTPStatus) else ""
    lines = [f"HTTP/1.1 {status} {reason}"]
    lines += [f"{name}: {value}" for name, value in headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def encode_chunk(piece: bytes) -> bytes:
    """One chunk of the chunked coding (RFC 9112 §7.1)."""
    return b"%x\r\n%b\r\n" % (len(piece), piece)


def encode_last_chunk(trailers: tuple[tuple[str, str], ...]) -> bytes:
    """The end of the chunked coding."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in trailers)
    return f"0\r\n{lines}\r\n".encode("latin-1")


def _check_conditions(headers: dict[str, str], target: OriginObject) -> int:
    """200, 304 or 412: RFC 9110 §13.2.2."""
    if "if-match" in headers:
        if headers["if-match"] not in ("*", target.etag) or target.etag.startswith("W/"):
            return 412
    elif _is_before(headers.get("if-unmodified-since"), target.last_modified_s):
        return 412
    if "if-none-match" in headers:
        listed = {one.strip().removeprefix("W/") for one in headers["if-none-match"].split(",")}
        if "*" in listed or target.etag.removeprefix("W/") in listed - {""}:
            return 304
    elif (
        (since := headers.get("if-modified-since"))
        and _is_date(since)
        and not _is_before(since, target.last_modified_s)
    ):
        return 304
    return 200


def _is_date(text: str) -> bool:
    """Whether a field has a date; others are ignored (RFC 9110 §13.1.3, §13.1.4)."""
    try:
        parsedate_to_datetime(text)
    except ValueError:
        return False
    return True


def _is_before(date: str | None, last_modified_s: int | None) -> bool:
    if date is None or last_modified_s is None or not _is_date(date):
        return False
    return parsedate_to_datetime(date).timestamp() < last_modified_s


def _object_headers(target: OriginObject) -> tuple[tuple[str, str], ...]:
    headers = [("Accept-Ranges", "bytes"), *target.headers]
    if target.etag:
        headers.append(("ETag", target.etag))
    if target.content_type:
        headers.append(("Content-Type", target.content_type))
    if target.last_modified_s is not None:
        headers.append(("Last-Modified", formatdate(target.last_modified_s, usegmt=True)))
    return tuple(headers)


def _complete_response(
    status: int, headers: tuple[tuple[str, str], ...], content: Content
) -> Response:
    span = Span(0, content.size_bytes)
    return _with_framing(Response(status, headers, content, span), Reply())


def _with_framing(response: Response, reply: Reply) -> Response:
    framing = (
        ("Transfer-Encoding", "chunked")
        if reply.chunked
        else ("Content-Length", str(response.span.size))
    )
    return replace(response, headers=(*response.headers, framing))
