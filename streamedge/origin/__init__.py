"""What every origin promises, and nothing about how it keeps it.

Owns the words the cache speaks to an origin: ``Origin`` with ``Version``, ``OriginHead`` and
``OriginRead`` for objects that are read piece by piece, ``Upstream`` with ``OriginRequest`` and
``OriginResponse`` for whatever else HTTP can say. A concrete origin makes one attempt per call and
classifies its failure; retries, resuming and storing are the cache's business (``cache/fill.py``).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Protocol

from streamedge.spans import Span

UNKNOWN_BYTES = 1 << 62
"""The size of what comes without a length, until its end has come."""

Fields = list[tuple[str, str]]
"""Header fields in the order in which they were sent; names in any case."""


@dataclass(frozen=True, slots=True)
class Version:
    """What an object is at one moment: two equal versions have equal bytes.

    ``etag`` is as the origin sends it, quotes and ``W/`` included, or "" where it sends none;
    ``last_modified_s`` is in seconds since 1970, or None. ``id`` tells one answer from all others
    where its validators do not; what is left of it cannot be asked for. ``is_measured``: whether
    its length was known before its end.
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


@dataclass(frozen=True, slots=True)
class OriginHead:
    """What an origin said of an object: its version and its representation headers.

    ``headers`` has lower-case names, one entry each (repeated fields joined with ", ", Set-Cookie
    with a line feed); hop-by-hop fields, Content-Length, Content-Range, Content-Type and ETag are
    not among them, Last-Modified only where it is newer than the version's. ``status`` is 200 for
    an object.
    """

    version: Version
    content_type: str
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 200


class OriginRead(Protocol):
    """One running answer. Iterate ``pieces`` at most once, and always ``close``."""

    @property
    def head(self) -> OriginHead: ...

    @property
    def span(self) -> Span:
        """The bytes of the object that the body brings: known before the first piece.

        It begins at or before the asked start (an origin that ignores ranges sends all from 0)
        and ends behind it, before or behind the asked end.
        """
        ...

    def pieces(self) -> AsyncIterator[bytes]:
        """The body in order, exactly ``span.size`` bytes in pieces of any size above 0.

        Raises OriginError BROKEN when it ends early or runs over, TIMEOUT when it stalls.
        """
        ...

    async def close(self) -> None:
        """Gives the connection back (body read to its end) or drops it. Never raises."""
        ...


class Origin(Protocol):
    """Where objects come from. ``name`` is the object's decoded path without a leading slash."""

    async def head(self, name: str) -> OriginHead:
        """Asks for the version alone. Raises OriginError."""
        ...

    async def read(
        self,
        name: str,
        span: Span | None = None,
        *,
        if_match: Version | None = None,
        if_none_match: Version | None = None,
    ) -> OriginRead | None:
        """Begins to read ``span`` (clipped to the object's end; None: all of it).

        ``if_match``: answer only for this version, else OriginError CHANGED; the answer's own
        validators are compared too, because not every server honours If-Match.
        ``if_none_match``: None is returned when the object still is this version.
        Raises OriginError; RANGE_OUTSIDE when the object ends at or before ``span.start``.
        """
        ...

    async def close(self) -> None:
        """Drops all connections."""
        ...


@dataclass(frozen=True, slots=True)
class OriginRequest:
    """Any request. ``name`` is the decoded path without a leading slash, ``query`` is as it was
    sent, without "?". ``path``, percent-encoded and without a leading slash, goes to a site as it
    is; "": made of the name. ``fields`` go out as they are, beside those that the origin adds
    itself.

    ``trailers`` are asked for when ``body`` has ended, and sent if that went out in chunks.
    ``interim`` is told of each 1xx answer.
    """

    method: str
    name: str
    query: str = ""
    fields: tuple[tuple[str, str], ...] = ()
    body: AsyncIterator[bytes] | None = None
    interim: Callable[[int, Fields], None] | None = None
    trailers: Callable[[], Fields] = list
    path: str = ""


class Duplex(Protocol):
    """A connection that no longer speaks HTTP (RFC 9110 §7.8)."""

    async def read(self) -> bytes:
        """What has come, at least one byte; b"" when the peer has ended."""
        ...

    async def write(self, data: bytes) -> None:
        """Hands bytes over; returns when there is room for more."""
        ...

    def close(self) -> None: ...


class OriginResponse(Protocol):
    """An answer whose head has come. Read its body once to its end, or ``close`` it."""

    @property
    def status(self) -> int: ...

    @property
    def fields(self) -> Fields: ...

    @property
    def size_bytes(self) -> int | None:
        """The body's length; None when only its end will tell."""
        ...

    @property
    def trailers(self) -> Fields:
        """What came after a chunked body; known at its end."""
        ...

    def body(self) -> AsyncIterator[bytes]:
        """The body. Raises OriginError BROKEN when it is cut, TIMEOUT when it stalls."""
        ...

    def upgrade(self) -> tuple[bytes, Duplex]:
        """After 101: what has come already, and the connection."""
        ...

    def close(self) -> None: ...


class Upstream(Protocol):
    """An origin that answers any request."""

    async def send(self, request: OriginRequest) -> OriginResponse:
        """Returns when the answer's head has come, whatever its status. Raises OriginError."""
        ...
