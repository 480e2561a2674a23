"""What a scripted origin answers: an HTTP server's rules, and the ways to break them.

Owns objects, requests and answers as values. Pure: sending them is ``fakes``'s business.
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

PATTERN_PERIOD_BYTES = 65_521  # a prime: no two chunks of a power-of-two size are alike


class Content(Protocol):
    """Bytes of an object, by position."""

    @property
    def size_bytes(self) -> int: ...

    def read(self, span: Span) -> bytes: ...


@dataclass(frozen=True, slots=True)
class BytesContent:
    """Content that is in memory."""

    data: bytes

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    def read(self, span: Span) -> bytes:
        return self.data[span.start : span.end]


@dataclass(frozen=True, slots=True)
class Pattern:
    """Content of any size that is computed: byte i depends on ``seed`` and i alone.

    ``Pattern(n, s).read(Span(a, b))`` is what a reader of those bytes must get.
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
    """How one request is answered. The default is what a good server does.

    ``status``: this status with ``body``, whatever was asked. ``headers``: added, or put in place
    of those of the same name; a value of None takes the field away. ``ignore_range`` and
    ``ignore_conditions``: as if those fields had not been sent; ``refuse_if_match``: 412 to every
    If-Match. A 206 brings ``range_max`` bytes at the most, or whole blocks of ``range_block``
    bytes. ``chunked``: chunked coding in
    place of Content-Length, with ``trailers`` behind its last chunk. ``extra``: bytes after the
    whole body. The rest ends the answer after so many body bytes: ``cut_at`` closes the
    connection, ``reset_at`` resets it (RST), ``stall_at`` says nothing more. ``silent``: not a
    word. ``raw``: these bytes are all the answer, then the connection closes. ``interim``: 1xx
    answers that go before it. ``early``: without waiting for the request's body. ``after``: not
    before this is set. ``echoes``: 101, and from then on every byte comes back.
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
    trailers: tuple[tuple[str, str], ...] = ()
    interim: tuple[tuple[int, tuple[tuple[str, str], ...]], ...] = ()
    early: bool = False
    after: asyncio.Event | None = None
    echoes: bool = False


@dataclass(slots=True)
class ReceivedRequest:
    """A request as it came, and how much of its answer has gone.

    ``path`` is as sent, ``name`` decoded; ``headers`` by lower-case name; ``connection`` counts
    from 1. ``span`` is what Range asks for, not yet clipped: None without one, an end of
    ``sys.maxsize`` when it is open, a negative start for a suffix. ``fields`` are as they were
    sent; ``body`` is what has come of it, decoded, ``trailers`` the lines behind it, ``has_ended``
    whether that is all.
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
    """An object as it was put into the origin."""

    content: Content
    etag: str
    last_modified_s: int | None
    content_type: str
    headers: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Response:
    """What goes back: a head, and the bytes ``span`` of ``content``."""

    status: int
    headers: tuple[tuple[str, str], ...]
    content: Content
    span: Span


def parse_request(head: bytes, connection: int) -> ReceivedRequest:
    """A request from its head, blank line included."""
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
    """One range; a suffix range has a negative start. None: no range, or one to ignore."""
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", text)
    if found is None or found[0] == "bytes=-":
        return None
    first, last = found.groups()
    if not first:
        return Span(-int(last), sys.maxsize)
    return Span(int(first), int(last) + 1 if last else sys.maxsize)


def decide(request: ReceivedRequest, turn: Reply, found: OriginObject | None) -> Response:
    """The answer to ``request`` for the object ``found`` (None: there is none)."""
    answer = _decide_plainly(request, turn, found)
    replaced = {name.lower() for name, _ in turn.headers}
    headers = [pair for pair in answer.headers if pair[0].lower() not in replaced]
    headers += [(name, value) for name, value in turn.headers if value is not None]
    return replace(answer, headers=tuple(headers))


def _decide_plainly(request: ReceivedRequest, turn: Reply, found: OriginObject | None) -> Response:
    if turn.status is not None:
        content = BytesContent(turn.body)
        return _with_framing(Response(turn.status, (), content, Span(0, content.size_bytes)), turn)
    if request.method not in ("GET", "HEAD"):
        return _whole_answer(405, (("Allow", "GET, HEAD"),), BytesContent(b""))
    if found is None:
        return _whole_answer(404, (), BytesContent(b"no such object\n"))
    headers = _object_headers(found)
    status = 200 if turn.ignore_conditions else _check_conditions(request.headers, found)
    if turn.refuse_if_match and "if-match" in request.headers:
        status = 412
    if status != 200:
        return _whole_answer(status, headers, BytesContent(b""))
    size_bytes = found.content.size_bytes
    asked = None if turn.ignore_range else request.span
    if asked is not None and request.method == "GET":
        start = asked.start if asked.start >= 0 else max(0, size_bytes + asked.start)
        end = asked.end if turn.range_max is None else min(asked.end, start + turn.range_max)
        span = Span(start, end).align(turn.range_block).intersect(Span(0, size_bytes))
        if span.size == 0:
            refused = (("Content-Range", f"bytes */{size_bytes}"),)
            return _whole_answer(416, refused, BytesContent(b""))
        place = ("Content-Range", f"bytes {span.start}-{span.end - 1}/{size_bytes}")
        return _with_framing(Response(206, (*headers, place), found.content, span), turn)
    return _with_framing(Response(200, headers, found.content, Span(0, size_bytes)), turn)


def encode_head(answer: Response) -> bytes:
    """Status line, header fields and blank line."""
    return encode_status(answer.status, answer.headers)


def encode_status(status: int, headers: tuple[tuple[str, str], ...]) -> bytes:
    """The same of an answer that is nothing else."""
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


def _check_conditions(headers: dict[str, str], found: OriginObject) -> int:
    """200, 304 or 412: RFC 9110 §13.2.2."""
    if "if-match" in headers:
        if headers["if-match"] not in ("*", found.etag) or found.etag.startswith("W/"):
            return 412
    elif _is_before(headers.get("if-unmodified-since"), found.last_modified_s):
        return 412
    if "if-none-match" in headers:
        if headers["if-none-match"].removeprefix("W/") == found.etag.removeprefix("W/"):
            return 304
    elif (since := headers.get("if-modified-since")) and not _is_before(
        since, found.last_modified_s
    ):
        return 304
    return 200


def _is_before(date: str | None, last_modified_s: int | None) -> bool:
    if date is None or last_modified_s is None:
        return False
    return parsedate_to_datetime(date).timestamp() < last_modified_s


def _object_headers(found: OriginObject) -> tuple[tuple[str, str], ...]:
    headers = [("Accept-Ranges", "bytes"), *found.headers]
    if found.etag:
        headers.append(("ETag", found.etag))
    if found.content_type:
        headers.append(("Content-Type", found.content_type))
    if found.last_modified_s is not None:
        headers.append(("Last-Modified", formatdate(found.last_modified_s, usegmt=True)))
    return tuple(headers)


def _whole_answer(status: int, headers: tuple[tuple[str, str], ...], content: Content) -> Response:
    span = Span(0, content.size_bytes)
    return _with_framing(Response(status, headers, content, span), Reply())


def _with_framing(answer: Response, turn: Reply) -> Response:
    framing = (
        ("Transfer-Encoding", "chunked")
        if turn.chunked
        else ("Content-Length", str(answer.span.size))
    )
    return replace(answer, headers=(*answer.headers, framing))
