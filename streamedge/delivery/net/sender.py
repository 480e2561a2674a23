"""The byte mover: a connection's bytes, in order, out of memory or straight out of cache files.

A queue of parts goes to a wire: bytes as they are, and pieces of an object as spans of a cache
file. The outlet sends what is ready, then waits for the peer or for the fill (the reader says
when), and goes on; so a response can begin while the object is still on its way from its origin.
HTTP and RTMP both send through here, with TLS and without (``wires``), and nothing else writes to
the connection meanwhile.

It never decides what to send, nor when a peer is too slow: ``blocked_since_s``, set while it waits
for the peer, lets a sweep find that out.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from streamedge.cache.open_object import Failure
from streamedge.cache.storage.extent import Ready
from streamedge.delivery.net.writers import SEND_QUANTUM_BYTES, writer_to
from streamedge.spans import Span


class Source(Protocol):
    """What a piece's bytes come from: a cache reader."""

    def ready(self, position: int, end: int) -> Ready | None: ...

    def when_ready(
        self, want: Span, woken: Callable[[Failure | None], None], *, eager: bool = False
    ) -> Callable[[], None]: ...

    def lost(self, position: int) -> None: ...


class _Piece:
    """The rest of a span that is to be sent from a source."""

    __slots__ = ("begun", "end", "lost_at", "position", "source")

    def __init__(self, source: Source, span: Span) -> None:
        self.source = source
        self.position = span.start
        self.end = span.end
        self.begun = False
        self.lost_at = -1


class Sender:
    """One connection's way out. ``drained`` and ``failed`` are the owner's callbacks.

    ``drained()``: all that was pushed has been handed to the kernel; called from within ``push``
    when that happens at once. ``failed(cause)``: a piece's bytes cannot come, or the peer is gone
    (cause None); what was queued is dropped, and the connection's state is no longer known.
    """

    __slots__ = (
        "_drained",
        "_failed",
        "_loop",
        "_next_turn",
        "_parts",
        "_pumping",
        "_take_back",
        "_taken_bytes",
        "_wire",
        "blocked_since_s",
    )

    def __init__(
        self,
        transport: asyncio.BaseTransport,
        loop: asyncio.AbstractEventLoop,
        drained: Callable[[], None],
        failed: Callable[[Failure | None], None],
    ) -> None:
        self._wire = writer_to(transport, loop)
        self._loop = loop
        self._drained = drained
        self._failed = failed
        self._parts: deque[bytes | memoryview | _Piece] = deque()
        self._take_back: Callable[[], None] | None = None
        self._next_turn: asyncio.Handle | None = None
        self._pumping = False
        self._taken_bytes = 0
        self.blocked_since_s: float | None = None

    @property
    def idle(self) -> bool:
        """Whether all that was pushed has been handed to the kernel."""
        return not self._parts and not self._wire.unsent_bytes()

    @property
    def sent_bytes(self) -> int:
        """What has been handed to the kernel, of all that was ever pushed."""
        return self._taken_bytes - self._wire.unsent_bytes()

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
        waits = self.blocked_since_s is not None or self._take_back is not None
        if not waits and self._next_turn is None and not self._pumping:
            self._pump()

    def send_at_once(self, head: bytes, ready: Ready) -> int:
        """Sends ``head`` and bytes of a cache file as far as it goes at once: how many it took.

        For answers that are short or find an empty connection; only when idle. What is left is the
        caller's to ``push``, which also finds out about a peer that is gone; so it is (nothing)
        when all was taken and ``idle`` does not hold yet.
        """
        assert not self._parts
        taken = self._wire.send_together(head, ready)
        self._taken_bytes += taken
        return taken

    def close(self) -> None:
        """Lets go of the wire and of whatever is queued. Harmless when done twice."""
        self._parts.clear()
        self._stop_watching()
        if self._next_turn is not None:
            self._next_turn.cancel()
            self._next_turn = None
        if self._take_back is not None:
            self._take_back()
            self._take_back = None
        self._wire.close()

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
                turn += sent
                if turn >= SEND_QUANTUM_BYTES and self._parts:
                    self._end_turn()
                    return
            if self._wire.unsent_bytes():
                raise BlockingIOError
        except BlockingIOError:
            self._watch()
            return
        except OSError:
            self._fail(None)
            return
        except Exception:
            self._fail(None)  # a defect: the connection ends rather than wait for ever
            raise
        finally:
            self._pumping = False
        self._stop_watching()
        self._drained()

    def _send(self, data: bytes | memoryview) -> int:
        """Sends bytes, held back for what follows when that can follow at once."""
        sent = self._wire.send(data, more=self._more_follows())
        self._taken_bytes += sent
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
        count = min(ready.size_bytes, self._wire.piece_bytes)
        sent = self._wire.send_file(ready.fd, ready.offset, count)
        if sent == 0:  # the file ends before bytes that were ready: they are fetched anew, once
            if piece.lost_at == piece.position:
                raise OSError("a cache file is shorter than its header says")
            piece.lost_at = piece.position
            piece.source.lost(piece.position)
            return 0
        self._taken_bytes += sent
        piece.position += sent
        if piece.position == piece.end:
            self._parts.popleft()
        elif sent < count:
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
        self._wire.watch(self._pump)

    def _end_turn(self) -> None:
        """Goes on after whoever else is due: when the wire says so, if it is asked already."""
        if self.blocked_since_s is not None:
            self._watch()
        else:
            self._next_turn = self._loop.call_soon(self._pump)

    def _stop_watching(self) -> None:
        if self.blocked_since_s is not None:
            self.blocked_since_s = None
            self._wire.unwatch()

    def _fail(self, cause: Failure | None) -> None:
        self._parts.clear()
        self._stop_watching()
        self._failed(cause)
