"""Pieces of cached objects in a send queue, for the senders of all protocols."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from streamedge.cache.open_object import Failure
from streamedge.cache.storage.extent import Ready
from streamedge.spans import Span


class Source(Protocol):
    """The source of a piece's bytes: a cache reader."""

    def ready(self, position: int, end: int) -> Ready | None: ...

    def when_ready(
        self, want: Span, woken: Callable[[Failure | None], None], *, eager: bool = False
    ) -> Callable[[], None]: ...

    def report_missing(self, position: int) -> None: ...


class Piece:
    """The unsent rest of a span of a source."""

    __slots__ = ("end", "is_begun", "lost_at", "position", "source")

    def __init__(self, source: Source, span: Span) -> None:
        self.source = source
        self.position = span.start
        self.end = span.end
        self.is_begun = False
        self.lost_at = -1

    def report_missing(self) -> None:
        """Makes the cache fetch the next bytes again: the file ends before them.

        Raises OSError if that happens a second time.
        """
        if self.lost_at == self.position:
            raise OSError("a cache file is shorter than its header states")
        self.lost_at = self.position
        self.source.report_missing(self.position)
