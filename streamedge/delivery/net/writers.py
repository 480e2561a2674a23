"""Writes a sender's bytes to a viewer: directly to the socket, or through TLS.

Both writers accept as many bytes as they can at once, and raise BlockingIOError when the peer is
not ready. They do not queue or wait. Files go to a socket by ``os.sendfile``. For TLS they are read
into one buffer that all connections of a process share, because each piece is encrypted before the
call returns. Both copy short pieces behind a head and write them with it: that takes less time.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from functools import cache
from typing import Protocol

from streamedge.cache.storage.extent import Ready
from streamedge.delivery.net.tls import TlsConnection
from streamedge.delivery.net.writable import WritableWatch, watch_of

# Sent to one peer before others are served: about a millisecond at the speed of memory.
SEND_QUANTUM_BYTES = 8 * 1024 * 1024
TLS_WRITE_BYTES = 256 << 10  # size of one TLS write; fits in the processor's cache
COPIED_BYTES_MAX = 16 << 10  # a file's bytes behind a head; copying more takes longer than sendfile


class Writer(Protocol):
    """Writes to one connection's peer."""

    piece_bytes: int
    """The most bytes that one call accepts."""

    def send(self, data: bytes | memoryview, *, more: bool) -> int:
        """Sends bytes and returns how many; ``more``: others follow at once. Raises OSError."""
        ...

    def send_file(self, file: int, offset: int, count: int) -> int:
        """Sends up to ``count`` bytes of a file; 0 at its end. Raises OSError."""
        ...

    def send_together(self, head: bytes | memoryview, ready: Ready) -> int:
        """Sends ``head``, then bytes of a file, and returns how many. Never raises OSError."""
        ...

    def unsent_bytes(self) -> int:
        """How many of the accepted bytes may not have reached the kernel."""
        ...

    def watch(self, writable: Callable[[], None]) -> None:
        """Calls ``writable`` later, when the peer can accept bytes again."""
        ...

    def unwatch(self) -> None: ...

    def close(self) -> None:
        """Ends all use of the descriptor. May be called twice."""
        ...


class VirtualTransport(asyncio.Transport):
    """A transport that is no socket: it has a writer of its own."""

    def writer(self) -> Writer:
        """A writer to this transport."""
        raise NotImplementedError


class SocketWriter:
    """Writes to a transport's own descriptor, which the transport closes after ``connection_lost``.

    The owner calls ``close`` there. From then on the number may belong to another connection, and
    every call fails with EBADF.
    """

    __slots__ = ("_descriptor", "_loop", "_socket", "_watch", "piece_bytes")

    def __init__(self, transport: asyncio.BaseTransport, loop: asyncio.AbstractEventLoop) -> None:
        self._descriptor: int = transport.get_extra_info("socket").fileno()
        self._loop = loop
        self._socket: BorrowedSocket | None = None  # made for the first MSG_MORE
        self._watch: WritableWatch | None = None  # while the peer is watched
        self.piece_bytes = SEND_QUANTUM_BYTES

    def send(self, data: bytes | memoryview, *, more: bool) -> int:
        if more:
            return self._send_more(data)
        return os.write(self._descriptor, data)

    def send_file(self, file: int, offset: int, count: int) -> int:
        return os.sendfile(self._descriptor, file, offset, count)

    def send_together(self, head: bytes | memoryview, ready: Ready) -> int:
        file, offset, size = ready
        sent = 0
        try:
            if size <= COPIED_BYTES_MAX:
                return os.writev(self._descriptor, (head, os.pread(file, size, offset)))
            sent = self._send_more(head)
            if sent == len(head):
                count = size if size < SEND_QUANTUM_BYTES else SEND_QUANTUM_BYTES
                sent += os.sendfile(self._descriptor, file, offset, count)
        except OSError:
            return sent  # the socket is full or closed; the next call reports which
        return sent

    def unsent_bytes(self) -> int:
        return 0

    def watch(self, writable: Callable[[], None]) -> None:
        if self._watch is None:
            self._watch = watch_of(self._loop)
            self._watch.add(self._descriptor, writable)

    def unwatch(self) -> None:
        if self._watch is not None:
            self._watch.remove(self._descriptor)
            self._watch = None

    def close(self) -> None:
        self.unwatch()
        self._descriptor = -1
        if self._socket is not None:
            self._socket.detach()

    def _send_more(self, data: bytes | memoryview) -> int:
        """Sends bytes that others follow at once: MSG_MORE delays a short packet."""
        if self._socket is None:
            if self._descriptor < 0:
                raise OSError(errno.EBADF, "the connection is closed")
            # ``send`` does not depend on the address family.
            self._socket = BorrowedSocket(socket.AF_INET, socket.SOCK_STREAM, 0, self._descriptor)
        return self._socket.send(data, socket.MSG_MORE)


class BorrowedSocket(socket.SocketType):
    """A socket object for a descriptor that a transport owns and closes.

    The event loop's own one, of ``get_extra_info``, may make another for each call of a method.
    """

    __slots__ = ()

    def __del__(self) -> None:
        self.detach()  # the base class would close the descriptor


class TlsWriter:
    """A TLS connection; it accepts nothing while encrypted bytes wait for the kernel."""

    __slots__ = ("_connection", "_last_write_bytes", "piece_bytes")

    def __init__(self, connection: TlsConnection) -> None:
        self._connection = connection
        self._last_write_bytes = 0
        self.piece_bytes = TLS_WRITE_BYTES

    def send(self, data: bytes | memoryview, *, more: bool) -> int:
        self._raise_if_blocked()
        piece = data if len(data) <= TLS_WRITE_BYTES else memoryview(data)[:TLS_WRITE_BYTES]
        return self._write(piece, more=more)

    def send_file(self, file: int, offset: int, count: int) -> int:
        self._raise_if_blocked()
        piece = read_piece(file, offset, count)
        return self._write(piece) if piece else 0

    def send_together(self, head: bytes | memoryview, ready: Ready) -> int:
        file, offset, size = ready
        accepted = 0
        try:
            self._raise_if_blocked()
            if size <= COPIED_BYTES_MAX:  # a short response is one TLS record
                return self._write(b"".join((head, os.pread(file, size, offset))))
            if len(head) >= TLS_WRITE_BYTES:
                return 0
            left = min(size, SEND_QUANTUM_BYTES)
            together = read_piece(file, offset, left, head)
            self._write(together)
            accepted, sent = len(head), len(together) - len(head)
            while sent:
                accepted, offset, left = accepted + sent, offset + sent, left - sent
                sent = self.send_file(file, offset, left) if left else 0
        except OSError:
            return accepted  # the peer is slow or gone; the next call reports which
        return accepted

    def unsent_bytes(self) -> int:
        return self._last_write_bytes if self._connection.is_blocked else 0

    def watch(self, writable: Callable[[], None]) -> None:
        self._connection.when_writable(writable)

    def unwatch(self) -> None:
        self._connection.when_writable(None)

    def close(self) -> None:
        self.unwatch()

    def _write(self, part: bytes | memoryview, *, more: bool = False) -> int:
        if self._connection.is_closing():
            raise ConnectionResetError
        self._last_write_bytes = len(part)
        self._connection.write(part, more=more)
        return len(part)

    def _raise_if_blocked(self) -> None:
        if self._connection.is_blocked:
            raise BlockingIOError


def writer_to(transport: asyncio.BaseTransport, loop: asyncio.AbstractEventLoop) -> Writer:
    """The writer for a transport."""
    if isinstance(transport, TlsConnection):
        return TlsWriter(transport)
    if isinstance(transport, VirtualTransport):
        return transport.writer()
    return SocketWriter(transport, loop)


def is_reset(transport: asyncio.BaseTransport) -> bool:
    """Whether the peer has reset the connection.

    An event loop does not report that once it has reported the end of the peer's data.
    """
    connected = transport.get_extra_info("socket")
    return connected is not None and bool(connected.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))


@cache
def _buffer() -> memoryview:
    """The one buffer of a worker, made for the first TLS piece: plain HTTP needs none."""
    return memoryview(bytearray(TLS_WRITE_BYTES))


def read_piece(file: int, offset: int, count: int, head: bytes | memoryview = b"") -> memoryview:
    """``head``, then bytes of a file: up to ``TLS_WRITE_BYTES`` in all, valid until the next call.

    Raises OSError.
    """
    buffer = _buffer()
    buffer[: len(head)] = head
    read = os.preadv(file, [buffer[len(head) : len(head) + count]], offset)
    return buffer[: len(head) + read]
