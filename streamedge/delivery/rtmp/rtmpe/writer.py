"""Encrypts a sender's bytes with a stream cipher, and writes them by another writer.

A stream cipher cannot encrypt the same bytes twice, so the encrypted bytes that the other writer
does not accept are kept, and nothing else is accepted meanwhile. Files are read into the buffer
of ``net.writers``, piece by piece.
"""

from __future__ import annotations

from collections.abc import Callable

from streamedge.cache.storage.extent import Ready
from streamedge.callbacks import do_nothing
from streamedge.delivery.net.writers import TLS_WRITE_BYTES, Writer, read_piece

EncryptInto = Callable[[bytes | memoryview, memoryview], None]
"""Encrypts bytes into the beginning of a buffer."""


class EncryptingWriter:
    """Implements ``Writer`` over another writer.

    ``buffer``: TLS_WRITE_BYTES for encrypted bytes, which all connections of a process may share.
    """

    __slots__ = ("_buffer", "_encrypt_into", "_unsent", "_writable", "_writer", "piece_bytes")

    def __init__(self, writer: Writer, encrypt_into: EncryptInto, buffer: memoryview) -> None:
        self._writer = writer
        self._encrypt_into = encrypt_into
        self._buffer = buffer
        self._unsent = memoryview(b"")  # encrypted; the sender counts it as accepted
        self._writable: Callable[[], None] = do_nothing
        self.piece_bytes = TLS_WRITE_BYTES

    def send(self, data: bytes | memoryview, *, more: bool) -> int:
        self._flush()
        return self._write(data[:TLS_WRITE_BYTES], more=more)

    def send_file(self, file: int, offset: int, count: int) -> int:
        self._flush()
        piece = read_piece(file, offset, count)
        return self._write(piece) if piece else 0

    def send_together(self, head: bytes | memoryview, ready: Ready) -> int:
        file, offset, size = ready
        try:
            self._flush()
            if len(head) >= TLS_WRITE_BYTES:
                return self._write(head[:TLS_WRITE_BYTES])
            return self._write(read_piece(file, offset, size, head))
        except OSError:
            return 0  # the peer is slow or gone; the next call reports which

    def unsent_bytes(self) -> int:
        return len(self._unsent) + self._writer.unsent_bytes()

    def watch(self, writable: Callable[[], None]) -> None:
        self._writable = writable
        self._writer.watch(self._on_writable)

    def unwatch(self) -> None:
        self._writable = do_nothing
        self._writer.unwatch()

    def close(self) -> None:
        self._writable = do_nothing
        self._writer.close()

    def _write(self, data: bytes | memoryview, *, more: bool = False) -> int:
        """Encrypts and sends; accepts all of ``data``."""
        encrypted = self._buffer[: len(data)]
        self._encrypt_into(data, encrypted)
        try:
            sent = self._writer.send(encrypted, more=more)
        except BlockingIOError:
            sent = 0
        if sent < len(encrypted):
            self._unsent = memoryview(bytes(encrypted[sent:]))
        return len(data)

    def _on_writable(self) -> None:
        try:
            self._flush()
        except BlockingIOError:
            self._writer.watch(self._on_writable)
            return
        except OSError:
            self._unsent = memoryview(b"")  # the transport reports the end of the connection
        self._writable()

    def _flush(self) -> None:
        """Sends the rest of the last piece. Raises OSError, BlockingIOError if some is left."""
        if self._unsent:
            sent = self._writer.send(self._unsent, more=False)
            self._unsent = self._unsent[sent:]
            if self._unsent:
                raise BlockingIOError
