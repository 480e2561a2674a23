"""The unsent rest of a response's body on a stream: bytes, and spans of objects in the cache.

Bytes of an object are read from its cache file when the peer's windows and the connection have room
for them, not before: a stream that waits has no bytes in memory.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable

from streamedge.cache.open_object import Failure
from streamedge.delivery.net.pieces import Piece, Source
from streamedge.spans import Span


class OutgoingBody:
    """A queue of parts, read in order."""

    __slots__ = ("_cancel_wait", "_parts")

    def __init__(self) -> None:
        self._parts: deque[memoryview | Piece] = deque()
        self._cancel_wait: Callable[[], None] | None = None

    @property
    def is_empty(self) -> bool:
        return not self._parts

    def push(self, *parts: bytes | tuple[Source, Span]) -> None:
        for part in parts:
            if isinstance(part, tuple):
                if part[1].size:
                    self._parts.append(Piece(*part))
            elif part:
                self._parts.append(memoryview(part))

    def read(self, count: int) -> bytes:
        """At most ``count`` of the next bytes; none if they are not in the cache yet.

        Raises OSError if a cache file cannot be read, or is shorter than it should be.
        """
        part = self._parts[0]
        if isinstance(part, Piece):
            return self._read_piece(part, count)
        data = bytes(part[:count])
        if len(data) == len(part):
            self._parts.popleft()
        else:
            self._parts[0] = part[count:]
        return data

    def wait(self, woken: Callable[[Failure | None], None]) -> None:
        """Calls ``woken`` once when ``read`` can return bytes, or with the reason why it never
        will."""
        piece = self._parts[0]
        if not isinstance(piece, Piece):
            woken(None)
            return

        def wake(failure: Failure | None) -> None:
            self._cancel_wait = None
            woken(failure)

        span = Span(piece.position, piece.end)
        self._cancel_wait = piece.source.when_ready(span, wake, eager=not piece.is_begun)

    def close(self) -> None:
        """Drops the rest. May be called twice."""
        self._parts.clear()
        if self._cancel_wait is not None:
            self._cancel_wait()
            self._cancel_wait = None

    def _read_piece(self, piece: Piece, count: int) -> bytes:
        ready = piece.source.ready(piece.position, piece.end)
        if ready is None:
            return b""
        piece.is_begun = True
        data = os.pread(ready.fd, min(count, ready.size_bytes), ready.offset)
        if not data:  # the file is too short: fetch these bytes again, once
            piece.report_missing()
            return b""
        piece.position += len(data)
        if piece.position == piece.end:
            self._parts.popleft()
        return data
