"""The byte mover: a connection's bytes, in order, out of memory or straight out of cache files.

A queue of parts goes to a socket: bytes as they are, and pieces of an object by ``os.sendfile``.
The outlet sends what is ready, then waits for the socket (EAGAIN) or for the fill (the reader
says when), and goes on; so a response can begin while the object is still on its way from its
origin. HTTP and RTMP both send through here, and nothing else writes to the socket meanwhile.

It works on a duplicate of the transport's descriptor, because event loops do not let others watch
a descriptor that a transport owns. It never decides what to send, nor when a peer is too slow:
``blocked_since_s``, set while it waits for the socket, lets a sweep find that out.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable
from typing import Protocol

from streamedge.cache.extent import Ready
from streamedge.cache.open_version import Failure
from streamedge.spans import Span

TURN_BYTES = 4 * 1024 * 1024  # sent to one peer before others get their turn


class Source(Protocol):
    """What a piece's bytes come from: a cache reader."""

    def ready(self, position: int, end: int) -> Ready | None: ...

    def when_ready(
        self, want: Span, woken: Callable[[Failure | None], None], *, eager: bool = False
    ) -> Callable[[], None]: ...


class _Piece:
    """The rest of a span that is to be sent from a source."""

    __slots__ = ("begun", "end", "position", "source")

    def __init__(self, source: Source, span: Span) -> None:
        self.source = source
        self.position = span.start
        self.end = span.end
        self.begun = False


class Outlet:
    """One connection's way out. ``drained`` and ``failed`` are the owner's callbacks.

    ``drained()``: all that was pushed has been handed to the kernel; called from within ``push``
    when that happens at once. ``failed(cause)``: a piece's bytes cannot come, or the peer is gone
    (cause None); what was queued is dropped, and the connection's state is no longer known.
    """

    __slots__ = (
        "_descriptor",
        "_drained",
        "_failed",
        "_loop",
        "_next_turn",
        "_parts",
        "_pumping",
        "_socket",
        "_take_back",
        "_watching",
        "blocked_since_s",
        "sent_bytes",
    )

    def __init__(
        self,
        transport: asyncio.BaseTransport,
        loop: asyncio.AbstractEventLoop,
        drained: Callable[[], None],
        failed: Callable[[Failure | None], None],
    ) -> None:
        self._descriptor = os.dup(transport.get_extra_info("socket").fileno())
        self._socket = socket.socket(fileno=self._descriptor)
        self._loop = loop
        self._drained = drained
        self._failed = failed
        self._parts: deque[bytes | memoryview | _Piece] = deque()
        self._take_back: Callable[[], None] | None = None
        self._next_turn: asyncio.Handle | None = None
        self._watching = False
        self._pumping = False
        self.blocked_since_s: float | None = None
        self.sent_bytes = 0

    @property
    def idle(self) -> bool:
        """Whether all that was pushed has been handed to the kernel."""
        return not self._parts

    @property
    def queued_bytes(self) -> int:
        """Memory that waits to be sent; pieces of objects take none."""
        return sum(len(part) for part in self._parts if not isinstance(part, _Piece))

    def push(self, *parts: bytes | tuple[Source, Span]) -> None:
        """Queues parts and sends what can be sent now."""
        for part in parts:
            if isinstance(part, tuple):
                if part[1].size:
                    self._parts.append(_Piece(*part))
            elif part:
                self._parts.append(part)
        waits = self._watching or self._take_back is not None or self._next_turn is not None
        if not waits and not self._pumping:
            self._pump()

    def send_at_once(self, head: bytes, ready: Ready) -> int:
        """Sends ``head`` and bytes of a cache file if the kernel takes them: how many it took.

        For answers that are short or find an empty socket; only when idle. What is left is the
        caller's to ``push``, which also finds out about a peer that is gone.
        """
        assert not self._parts
        file, offset, size = ready
        sent = 0
        try:
            sent = self._socket.send(head, socket.MSG_MORE)
            if sent == len(head):
                count = size if size < TURN_BYTES else TURN_BYTES
                sent += os.sendfile(self._descriptor, file, offset, count)
        except OSError:
            return sent  # the socket is full or the peer gone: ``push`` finds out which
        finally:
            self.sent_bytes += sent
        return sent

    def close(self) -> None:
        """Lets go of the socket and of whatever is queued. Harmless when done twice."""
        self._parts.clear()
        self._stop_watching()
        if self._next_turn is not None:
            self._next_turn.cancel()
            self._next_turn = None
        if self._take_back is not None:
            self._take_back()
            self._take_back = None
        self._socket.close()

    def _pump(self) -> None:
        """Sends until the queue is empty, the turn is over, or somebody has to be waited for."""
        self._pumping = True
        self._next_turn = None
        turn = 0
        try:
            while self._parts:
                part = self._parts[0]
                sent = self._send_piece(part) if isinstance(part, _Piece) else self._send(part)
                if sent < 0:
                    return
                self.sent_bytes += sent
                turn += sent
                if turn >= TURN_BYTES and self._parts:
                    self._end_turn()
                    return
        except BlockingIOError:
            self._watch()
            return
        except OSError:
            self._fail(None)
            return
        finally:
            self._pumping = False
        self._stop_watching()
        self._drained()

    def _send(self, data: bytes | memoryview) -> int:
        """Sends bytes, held back for what follows when that can follow at once."""
        more = socket.MSG_MORE if self._more_follows() else 0
        sent = self._socket.send(data, more)
        if sent == len(data):
            self._parts.popleft()
        else:
            self._parts[0] = memoryview(data)[sent:]
        return sent

    def _more_follows(self) -> bool:
        if len(self._parts) < 2:
            return False
        following = self._parts[1]
        return not isinstance(following, _Piece) or (
            following.source.ready(following.position, following.end) is not None
        )

    def _send_piece(self, piece: _Piece) -> int:
        """Sends what is ready of a piece; -1 when it has to be waited for."""
        ready = piece.source.ready(piece.position, piece.end)
        if ready is None:
            self._stop_watching()
            self._take_back = piece.source.when_ready(
                Span(piece.position, piece.end), self._woken, eager=not piece.begun
            )
            return -1
        piece.begun = True
        count = min(ready.size_bytes, TURN_BYTES)
        sent = os.sendfile(self._descriptor, ready.fd, ready.offset, count)
        if sent == 0:
            raise OSError("a cache file is shorter than its header says")
        piece.position += sent
        if piece.position == piece.end:
            self._parts.popleft()
        elif sent < count:
            self.sent_bytes += sent
            raise BlockingIOError  # the socket is full: asking again would only be told so
        return sent

    def _woken(self, failure: Failure | None) -> None:
        self._take_back = None
        if failure is None:
            self._pump()
        else:
            self._fail(failure)

    def _watch(self) -> None:
        self.blocked_since_s = self._loop.time()
        if not self._watching:
            self._watching = True
            self._loop.add_writer(self._descriptor, self._pump)

    def _end_turn(self) -> None:
        """Goes on after whoever else is due: when the socket says so, if it is asked already."""
        if self._watching:
            self._watch()
        else:
            self._next_turn = self._loop.call_soon(self._pump)

    def _stop_watching(self) -> None:
        self.blocked_since_s = None
        if self._watching:
            self._watching = False
            self._loop.remove_writer(self._descriptor)

    def _fail(self, cause: Failure | None) -> None:
        self._parts.clear()
        self._stop_watching()
        self._failed(cause)
