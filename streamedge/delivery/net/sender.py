"""Sends a connection's bytes in order, from memory or straight from cache files.

A queue holds parts: bytes, and spans of an object in a cache file. The sender sends the parts that
are ready, then waits for the peer or for the fill (the reader calls back), and continues. So a
response can begin while its object is still coming from the origin. HTTP and RTMP both send
through a sender, with TLS and without (``writers``), and nothing else writes to the connection
meanwhile.

The sender does not decide what to send or when a peer is too slow. While it waits for the peer,
``blocked_since_s`` is set; a periodic sweep closes connections that are blocked too long.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from streamedge.cache.open_object import Failure
from streamedge.cache.storage.extent import Ready
from streamedge.callbacks import do_nothing
from streamedge.delivery.net.pieces import Piece, Source
from streamedge.delivery.net.writers import SEND_QUANTUM_BYTES, writer_to
from streamedge.spans import Span


class Sender:
    """The send queue of one connection. ``drained`` and ``failed`` are the owner's callbacks.

    ``drained()``: the kernel has all pushed bytes; called within ``push`` when that happens at
    once. ``failed(cause)``: a piece's bytes cannot be read, or the peer has closed the connection
    (cause None). Then the queue is dropped, and the connection must be closed.
    """

    __slots__ = (
        "_accepted_bytes",
        "_cancel_wait",
        "_drained",
        "_failed",
        "_loop",
        "_next_quantum",
        "_parts",
        "_pumping",
        "_writer",
        "blocked_since_s",
    )

    def __init__(
        self,
        transport: asyncio.BaseTransport,
        loop: asyncio.AbstractEventLoop,
        drained: Callable[[], None],
        failed: Callable[[Failure | None], None],
    ) -> None:
        self._writer = writer_to(transport, loop)
        self._loop = loop
        self._drained = drained
        self._failed = failed
        self._parts: list[bytes | memoryview | Piece] = []
        self._cancel_wait: Callable[[], None] | None = None
        self._next_quantum: asyncio.Handle | None = None
        self._pumping = False
        self._accepted_bytes = 0
        self.blocked_since_s: float | None = None

    @property
    def idle(self) -> bool:
        """Whether the kernel has all pushed bytes."""
        return not self._parts and not self._writer.unsent_bytes()

    @property
    def sent_bytes(self) -> int:
        """How many of the pushed bytes the kernel has."""
        return self._accepted_bytes - self._writer.unsent_bytes()

    @property
    def queued_bytes(self) -> int:
        """Bytes of memory in the queue; pieces of objects take none."""
        return sum(len(part) for part in self._parts if not isinstance(part, Piece))

    def push(self, *parts: bytes | tuple[Source, Span]) -> None:
        """Queues parts, and sends now what it can."""
        for part in parts:
            if isinstance(part, tuple):
                if part[1].size:
                    self._parts.append(Piece(*part))
            elif part:
                self._parts.append(part)
        waits = self.blocked_since_s is not None or self._cancel_wait is not None
        if not waits and self._next_quantum is None and not self._pumping:
            self._pump()

    def send_at_once(self, head: bytes, ready: Ready | None) -> int:
        """Sends ``head`` and then bytes of a cache file, and returns how many it sent.

        Only for an idle sender. The caller pushes the rest; ``push`` also detects a closed peer. It
        pushes nothing when all was accepted but ``idle`` is still false.
        """
        if ready is not None:
            accepted = self._writer.send_together(head, ready)
        else:
            try:
                accepted = self._writer.send(head, more=False)
            except OSError:
                return 0  # the peer is slow or gone; the next call reports which
        self._accepted_bytes += accepted
        return accepted

    def close(self) -> None:
        """Closes the writer, and drops the queue and the owner's functions. May be called twice.

        The owner calls it before its transport closes the descriptor, in ``connection_lost``.
        """
        self._parts.clear()
        self._stop_watching()
        if self._next_quantum is not None:
            self._next_quantum.cancel()
            self._next_quantum = None
        if self._cancel_wait is not None:
            self._cancel_wait()
            self._cancel_wait = None
        self._writer.close()
        self._drained = self._failed = do_nothing

    def _pump(self) -> None:
        """Sends until the queue is empty, the quantum is used, or the peer or a fill must act."""
        self._pumping = True
        self._next_quantum = None
        quantum_bytes = 0
        try:
            while self._parts:
                part = self._parts[0]
                sent = self._send_piece(part) if isinstance(part, Piece) else self._send(part)
                if sent < 0:
                    return
                quantum_bytes += sent
                if quantum_bytes >= SEND_QUANTUM_BYTES and self._parts:
                    self._yield_loop()
                    return
            if self._writer.unsent_bytes():
                raise BlockingIOError
        except BlockingIOError:
            self._watch()
            return
        except OSError:
            self._fail(None)
            return
        except Exception:
            self._fail(None)  # a bug: close the connection rather than wait for ever
            raise
        finally:
            self._pumping = False
        self._stop_watching()
        self._drained()

    def _send(self, data: bytes | memoryview) -> int:
        """Sends bytes, together with the bytes behind them that are ready."""
        following = self._parts[1] if len(self._parts) > 1 else None
        more = following is not None
        if isinstance(following, Piece):
            ready = following.source.ready(following.position, following.end)
            more = ready is not None
            if ready is not None:
                sent = self._writer.send_together(data, ready)
                if sent > len(data):
                    following.is_begun = True
                    following.position += sent - len(data)
                    if following.position == following.end:
                        del self._parts[1]
                if sent:
                    self._sent(data, min(sent, len(data)))
                    self._accepted_bytes += max(0, sent - len(data))
                    return sent
        sent = self._writer.send(data, more=more)
        self._sent(data, sent)
        return sent

    def _sent(self, data: bytes | memoryview, count: int) -> None:
        """Removes the first ``count`` bytes of ``data``, the first part."""
        self._accepted_bytes += count
        if count == len(data):
            del self._parts[0]
        else:
            self._parts[0] = memoryview(data)[count:]

    def _send_piece(self, piece: Piece) -> int:
        """Sends the ready bytes of a piece; -1 when none is ready."""
        ready = piece.source.ready(piece.position, piece.end)
        if ready is None:
            self._stop_watching()
            self._cancel_wait = piece.source.when_ready(
                Span(piece.position, piece.end), self._on_ready, eager=not piece.is_begun
            )
            return -1
        piece.is_begun = True
        count = min(ready.size_bytes, self._writer.piece_bytes)
        sent = self._writer.send_file(ready.fd, ready.offset, count)
        if sent == 0:  # the file is too short: fetch these bytes again, once
            piece.report_missing()
            return 0
        self._accepted_bytes += sent
        piece.position += sent
        if piece.position == piece.end:
            del self._parts[0]
        elif sent < count:
            raise BlockingIOError  # the socket is full; another call would block
        return sent

    def _on_ready(self, failure: Failure | None) -> None:
        self._cancel_wait = None
        if failure is None:
            self._pump()
        else:
            self._fail(failure)

    def _watch(self) -> None:
        self.blocked_since_s = self._loop.time()
        self._writer.watch(self._pump)

    def _yield_loop(self) -> None:
        """Yields to other connections; resumes by the writer's callback if one is registered."""
        if self.blocked_since_s is not None:
            self._watch()
        else:
            self._next_quantum = self._loop.call_soon(self._pump)

    def _stop_watching(self) -> None:
        if self.blocked_since_s is not None:
            self.blocked_since_s = None
            self._writer.unwatch()

    def _fail(self, cause: Failure | None) -> None:
        self._parts.clear()
        self._stop_watching()
        self._failed(cause)
