"""Parses the requests of an HTTP/1.1 connection. Sans-IO: bytes in, calls of the owner out.

httptools finds the end of lines, fields and chunks. This module keeps the input state, limits
heads and trailer sections, refuses what recipients could read in two ways, and continues behind an
Upgrade field, where httptools stops.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, NamedTuple, Protocol

import httptools

from streamedge.delivery.http.http1.states import TRANSITIONS, Cause, Input
from streamedge.delivery.http.http1.upgrade import RawField, Upgrade, body_parser, upgrade_of
from streamedge.delivery.http.request.request import (
    HEAD_BYTES_MAX,
    HEAD_MEMBERS_MAX,
    has_unambiguous_length,
    is_head_too_large,
    request_line_error,
    request_size_bytes,
)
from streamedge.delivery.http.request.trailers import TRAILER_BYTES_MAX

PIECE_BYTES = 4096
"""Parsed before the clock is read again: 150 of the smallest requests, some milliseconds."""

AT_ONCE_LINES = 64
"""Lines that are parsed without a look at the clock: 20 of the smallest requests, or one with as
many header fields; at most half a millisecond."""


def is_parsed_at_once(data: bytes) -> bool:
    """Whether what one read returned is so little that it need not wait for its share of time."""
    return len(data) <= PIECE_BYTES and data.count(b"\n") <= AT_ONCE_LINES


class RequestHead(NamedTuple):
    """A request line and header section; names of ``fields`` in lower case.

    ``raw_trailers`` is complete when the request is.
    """

    method: str
    target: bytes
    fields: list[RawField]
    http_version: str
    keep_alive: bool
    raw_trailers: list[RawField]


class ParserOwner(Protocol):
    """What a parser calls, within ``feed``."""

    def head_received(self, head: RequestHead) -> None: ...

    def body_received(self, data: bytes) -> None: ...

    def request_received(self) -> None:
        """The request whose head came last is complete."""
        ...

    def input_refused(self, status: HTTPStatus) -> None:
        """The input is not HTTP, or too long; nothing more is parsed. ``status``: the response."""
        ...


class RequestParser:
    """The parser of one connection."""

    __slots__ = (
        "_begun",
        "_fields",
        "_header_bytes",
        "_owner",
        "_parser",
        "_raw_trailers",
        "_target",
        "_trailer_bytes",
        "_upgrade",
        "state",
    )

    def __init__(self, owner: ParserOwner) -> None:
        self._owner = owner
        self._parser: Any = None  # an httptools.HttpRequestParser, while a request is parsed
        self._target = b""
        self._fields: list[RawField] = []
        # The trailer section; None until the header section has ended.
        self._raw_trailers: list[RawField] | None = None
        self._trailer_bytes = 0
        self._header_bytes = 0
        self._upgrade = Upgrade.NONE  # the meaning of the request's Upgrade field
        self.state = Input.BETWEEN
        self._begun = 0  # requests that have begun in the last ``feed``

    @property
    def header_bytes(self) -> int:
        """Bytes received of a head that is not complete."""
        return self._header_bytes

    @property
    def has_parsed_one(self) -> bool:
        """Whether the last ``feed`` has ended exactly one request that began in it."""
        return self._begun == 1 and self.state is Input.BETWEEN

    def feed(self, data: bytes) -> bytes:
        """Parses received bytes; returns those behind an Upgrade field, which are not parsed yet.

        In the state WAITING they wait for the origin's decision; otherwise they are fed again.
        """
        if self.state is Input.REFUSED:
            return b""
        self._begun = 0
        self._header_bytes += len(data)
        if self._parser is None:
            self._parser = httptools.HttpRequestParser(self)
            # Bytes behind a request with "Connection: close" are not an error.
            self._parser.set_dangerous_leniencies(lenient_data_after_close=True)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            return self._behind_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as exc:
            # An exception in a callback is the peer's fault only if it is about the peer's bytes.
            cause = exc.__context__
            if cause is not None and not isinstance(cause, _PEER_FAULTS):
                raise cause from exc
            self._refuse(HTTPStatus.BAD_REQUEST)
        if self.state is Input.BETWEEN:
            # An idle connection needs neither.
            self._parser, self._fields = None, []
        if self._header_bytes > HEAD_BYTES_MAX:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        return b""

    def close(self) -> None:
        """The connection is lost: drops the owner, and the request that is incomplete."""
        self.become(Cause.CONNECTION_LOST)
        self._parser = None
        del self._owner

    def become(self, cause: Cause) -> None:
        """Makes the transition for ``cause``."""
        state = TRANSITIONS.get((self.state, cause))
        if state is None:
            raise RuntimeError(f"{cause.name} cannot happen in {self.state.name}")
        self.state = state
        if cause is Cause.UPGRADE_DECLINED:
            self._upgrade = Upgrade.NONE

    def _behind_upgrade(self, rest: bytes) -> bytes:
        """Continues behind a head with an Upgrade field.

        An Upgrade that is not accepted is ignored (RFC 9110 §7.8): the body and the next request
        are parsed. Bytes behind a WebSocket request may belong to that protocol; they wait until
        the origin has answered.
        """
        if self.state is Input.REFUSED:
            return b""
        self._header_bytes = 0
        if self._upgrade is Upgrade.WEBSOCKET:
            self.become(Cause.UPGRADE_REQUESTED)
        elif self._upgrade is Upgrade.WITH_BODY:
            self._upgrade = Upgrade.NONE
            self._parser = body_parser(self, self._fields)
        return rest

    def _refuse(self, status: HTTPStatus) -> None:
        if self.state is not Input.REFUSED:
            self.become(Cause.PROTOCOL_BROKEN)
            self._owner.input_refused(status)

    # httptools' callbacks.

    def on_message_begin(self) -> None:
        self.become(Cause.REQUEST_BEGUN)
        self._begun += 1
        self._target = b""
        self._fields = []
        self._raw_trailers = None

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._raw_trailers is None:
            self._fields.append((name.lower(), value))
            return
        # httptools calls this for trailer fields too. They must never mix with header fields,
        # which decide about the request before its body has come.
        self._raw_trailers.append((name.lower(), value))
        self._trailer_bytes += request_size_bytes(b"", [(name, value)])
        if self._trailer_bytes > TRAILER_BYTES_MAX:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            raise _RefusedError

    def on_headers_complete(self) -> None:
        parser = self._parser
        version = parser.get_http_version()
        method = parser.get_method()
        status = self._head_error(version, method)
        self._header_bytes = 0
        if status is None and parser.should_upgrade():
            self._upgrade = upgrade_of(method, self._fields)
            if self._upgrade is Upgrade.CONNECT:
                status = HTTPStatus.BAD_REQUEST
        if status is not None:
            self._refuse(status)
            raise _RefusedError
        self._raw_trailers, self._trailer_bytes = [], 0
        self.become(Cause.HEAD_COMPLETE)
        keep_alive = version != "1.0" and bool(parser.should_keep_alive())
        self._owner.head_received(
            RequestHead(
                method.decode("ascii"),
                self._target,
                self._fields,
                version,
                keep_alive,
                self._raw_trailers,
            )
        )

    def on_body(self, body: bytes) -> None:
        self._header_bytes = 0
        self._owner.body_received(body)

    def on_message_complete(self) -> None:
        if self._upgrade is Upgrade.WITH_BODY:
            return  # httptools skips this body; ``body_parser`` parses it
        self.become(Cause.REQUEST_COMPLETE)
        self._header_bytes = 0
        self._owner.request_received()

    def _head_error(self, http_version: str, method: bytes) -> HTTPStatus | None:
        """The error status for a head that httptools accepts but the edge must not; else None."""
        if self._header_bytes > HEAD_MEMBERS_MAX and is_head_too_large(self._target, self._fields):
            return HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        status = request_line_error(http_version, method, self._target)
        if status is None and not has_unambiguous_length(self._fields, http_version):
            return HTTPStatus.BAD_REQUEST
        return status


class _RefusedError(Exception):
    """Stops httptools: the input was refused."""


_PEER_FAULTS = (httptools.HttpParserError, UnicodeDecodeError, _RefusedError)
