"""The interface between the cache and origins.

``Origin``, with ``Version``, ``OriginHead`` and ``OriginRead``, reads objects in pieces.
``Upstream``, with ``OriginRequest`` and ``OriginResponse``, sends any other HTTP request. An
implementation makes one attempt per call and classifies its failure; retries, resuming and storing
belong to the cache (``cache/fill.py``).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import field
from typing import Protocol, runtime_checkable

from streamedge.spans import Span
from streamedge.value_object import value_object

UNKNOWN_BYTES = 1 << 62
"""The size of a body without Content-Length until its end was received."""

Fields = list[tuple[str, str]]
"""Header fields in the order in which they were sent; names in any case."""


class VariedFields(list[tuple[str, str]]):
    """Fields of a response of which some values often differ between responses to equal requests.

    ``template``: the same object for all responses that differ in these values only; ``places``:
    the indexes of their fields. No other value depends on them.
    """

    __slots__ = ("places", "template")

    def __init__(
        self, fields: Iterable[tuple[str, str]], template: object, places: tuple[int, ...]
    ) -> None:
        super().__init__(fields)
        self.template = template
        self.places = places


@value_object
class Version:
    """One state of an object: two equal versions have equal bytes.

    ``etag`` is as the origin sends it, with quotes and ``W/``, or "" if it sends none.
    ``last_modified_s`` is in seconds since 1970, or None. ``id`` identifies a single response
    without usable validators; the rest of such a version cannot be requested. ``is_measured``:
    whether its length was known before its end.
    """

    etag: str
    size_bytes: int
    last_modified_s: int | None = None
    id: str = ""
    is_measured: bool = True

    @property
    def is_strong(self) -> bool:
        """Whether ``etag`` can be used in If-Match and If-Range (RFC 9110 §8.8.3.2)."""
        return self.etag.startswith('"')

    @property
    def has_ended(self) -> bool:
        """Whether its size is known."""
        return self.size_bytes < UNKNOWN_BYTES


@value_object
class OriginHead:
    """The version of an object and its representation headers.

    ``headers`` has lower-case names, one entry each (repeated fields joined with ", ", Set-Cookie
    with a line feed); hop-by-hop fields, Content-Length, Content-Range, Content-Type and ETag are
    left out, and so is Last-Modified unless it is newer than the version's. ``status`` is 200 for
    an object.
    """

    version: Version
    content_type: str
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 200


class OriginRead(Protocol):
    """A response being read. Iterate ``pieces`` at most once, and always ``close``."""

    @property
    def head(self) -> OriginHead: ...

    @property
    def span(self) -> Span:
        """The bytes of the object in the body; known before the first piece.

        It begins at or before the requested start (an origin that ignores ranges sends all bytes
        from 0) and ends after that start, before or after the requested end.
        """
        ...

    def pieces(self) -> AsyncIterator[bytes]:
        """The body in order, exactly ``span.size`` bytes in pieces of any size above 0.

        Raises OriginError BROKEN when it ends early or runs over, TIMEOUT when it stalls.
        """
        ...

    async def close(self) -> None:
        """Returns the connection to the pool if the body was read to its end, else drops it. Never
        raises."""
        ...


@runtime_checkable
class PrioritizedRead(Protocol):
    """An answer that is derived from other objects in the cache, and reads them with a priority.

    It reads ahead of demand until ``expedite`` is called.
    """

    def expedite(self) -> None:
        """A viewer waits for its next byte now."""
        ...


class Origin(Protocol):
    """Where objects come from. ``name`` is the object's decoded path without a leading slash."""

    async def head(self, name: str) -> OriginHead:
        """Requests the version only. Raises OriginError."""
        ...

    async def read(
        self,
        name: str,
        span: Span | None = None,
        *,
        if_match: Version | None = None,
        if_none_match: Version | None = None,
    ) -> OriginRead | None:
        """Starts to read ``span`` (clipped to the object's end; None: all of it).

        ``if_match``: read only this version, else raise OriginError CHANGED. The response's
        validators are compared too, because not every server honours If-Match.
        ``if_none_match``: return None if the object still is this version.
        Raises OriginError; RANGE_OUTSIDE when the object ends at or before ``span.start``.
        """
        ...

    async def close(self) -> None:
        """Drops all connections."""
        ...


@value_object
class OriginRequest:
    """Any HTTP request. ``name`` is the decoded path without a leading slash; ``query`` is as the
    viewer sent it, without "?". ``path``, percent-encoded and without a leading slash, is sent to
    an HTTP origin unchanged; "": the path is made from the name. ``fields`` are sent unchanged,
    with those that the origin adds.

    ``trailers`` is called when ``body`` has ended; its fields are sent if the body was chunked.
    ``interim`` is called with each 1xx response. ``if_match``: the only version that the response
    may have; ``fields`` have the condition.
    """

    method: str
    name: str
    query: str = ""
    fields: tuple[tuple[str, str], ...] = ()
    body: AsyncIterator[bytes] | None = None
    interim: Callable[[int, Fields], None] | None = None
    trailers: Callable[[], Fields] = list
    path: str = ""
    if_match: Version | None = None


class Duplex(Protocol):
    """A connection after an upgrade from HTTP to another protocol (RFC 9110 §7.8)."""

    async def read(self) -> bytes:
        """At least one byte; b"" when the peer has closed its side."""
        ...

    async def write(self, data: bytes) -> None:
        """Sends bytes; returns when more can be written."""
        ...

    def close(self) -> None: ...


class OriginResponse(Protocol):
    """A response whose head was received. Read its body once to its end, or ``close`` it."""

    @property
    def status(self) -> int: ...

    @property
    def fields(self) -> Fields: ...

    @property
    def size_bytes(self) -> int | None:
        """The body's length; None if it ends with the connection or the last chunk."""
        ...

    @property
    def trailers(self) -> Fields:
        """The trailer fields after a chunked body; known at its end."""
        ...

    def body(self) -> AsyncIterator[bytes]:
        """The body. Raises OriginError BROKEN when it is truncated, TIMEOUT when it stalls."""
        ...

    def take_received_body(self) -> bytes | None:
        """In place of ``body``: all of it, if it is short, has a known length, and was received
        already. None: it has to be read by ``body``.
        """
        ...

    def upgrade(self) -> tuple[bytes, Duplex]:
        """After 101: the bytes received so far, and the connection."""
        ...

    def close(self) -> None: ...


class Upstream(Protocol):
    """An origin that accepts any request."""

    async def send(self, request: OriginRequest) -> OriginResponse:
        """Returns when the head of the response was received, of any status. Raises OriginError."""
        ...


class SentRequest(Protocol):
    """A request that was sent, and whose response is awaited by a callback or by a task."""

    def when_answered(self, answered: Callable[[], None]) -> None:
        """Calls ``answered`` once, when a head was received or the request has failed."""
        ...

    def take_response(self) -> OriginResponse | None:
        """The response if its final head was received; None: ``response`` returns it or raises."""
        ...

    async def response(self) -> OriginResponse:
        """As ``Upstream.send``, unless the response was taken."""
        ...


@runtime_checkable
class ImmediateUpstream(Protocol):
    """An ``Upstream`` that can often send a request without waiting for a connection."""

    def send_at_once(
        self, request: OriginRequest, interim: Callable[[int, Fields], None] | None
    ) -> SentRequest | None:
        """Sends a request without a body; None if that has to wait, and ``send`` sends it.

        ``interim`` counts in place of the request's own.
        """
        ...
