"""What every origin promises, and nothing about how it keeps it.

Owns the words the cache speaks to an origin: ``Version``, ``OriginHead``, ``OriginRead``,
``Origin``. A concrete origin makes one attempt per call and classifies its failure; retries,
resuming and storing are the cache's business (``cache/fill.py``).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Protocol

from streamedge.spans import Span


@dataclass(frozen=True, slots=True)
class Version:
    """What an object is at one moment: two equal versions have equal bytes.

    ``etag`` is as the origin sends it, quotes and ``W/`` included, or "" where it sends none;
    ``last_modified_s`` is in seconds since 1970, or None.
    """

    etag: str
    size_bytes: int
    last_modified_s: int | None = None

    @property
    def is_strong(self) -> bool:
        """Whether ``etag`` can be used in If-Match and If-Range (RFC 9110 §8.8.3.2)."""
        return self.etag.startswith('"')


@dataclass(frozen=True, slots=True)
class OriginHead:
    """What an origin said of an object: its version and its representation headers.

    ``headers`` has lower-case names, one entry each (repeated fields joined with ", "); hop-by-hop
    fields, Content-Length, Content-Range, ETag and Last-Modified are not among them.
    """

    version: Version
    content_type: str
    headers: dict[str, str] = field(default_factory=dict)


class OriginRead(Protocol):
    """One running answer. Iterate ``pieces`` at most once, and always ``close``."""

    @property
    def head(self) -> OriginHead: ...

    @property
    def span(self) -> Span:
        """The bytes of the object that the body brings: known before the first piece.

        It begins at or before the asked start (an origin that ignores ranges sends all from 0).
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
