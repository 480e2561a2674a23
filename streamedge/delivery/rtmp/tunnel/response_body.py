"""The body of a response: bytes in memory and parts of cache files, in order.

A part of a file is sent from the file, by sendfile or through TLS. It has a descriptor of its own,
because the body may be sent, and be sent again, after the reader of the file has left it.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from streamedge.cache.open_object import Failure
from streamedge.cache.storage.extent import Ready, quick_ready
from streamedge.delivery.net.writers import COPIED_BYTES_MAX
from streamedge.spans import Span


def is_copied(count: int) -> bool:
    """Whether so few bytes of a file are copied into memory: that takes less time."""
    return count <= COPIED_BYTES_MAX


class FilePart:
    """Bytes of a cache file, as a source for a ``Sender``. Positions are those of the file."""

    __slots__ = ("_descriptor", "span")

    def __init__(self, file: int, span: Span) -> None:
        self._descriptor = -1
        self.span = span
        self._descriptor = os.dup(file)

    def __del__(self) -> None:
        """Closes the descriptor once no response has the part any more."""
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def ready(self, position: int, end: int) -> Ready:
        """All bytes are there: the part was made of bytes that could be sent."""
        return quick_ready((self._descriptor, position, end - position))

    def when_ready(
        self, want: Span, woken: Callable[[Failure | None], None], *, eager: bool = False
    ) -> Callable[[], None]:
        """Never called, since ``ready`` never returns None."""
        raise NotImplementedError

    def report_missing(self, position: int) -> None:
        """The file was truncated after the part was made: the sender fails, and the connection."""


class ResponseBody:
    """Grows until it is sent. ``memory_bytes``: of the parts in memory."""

    __slots__ = ("_first", "memory_bytes", "parts", "size_bytes")

    def __init__(self, data: bytes | bytearray) -> None:
        self._first = bytearray(data)
        self.parts: list[bytearray | FilePart] = [self._first]
        self.size_bytes = self.memory_bytes = len(data)

    def begin_with(self, byte: int) -> None:
        """Sets the first byte."""
        self._first[0] = byte

    def sent_parts(self, head: bytes) -> list[bytes | tuple[FilePart, Span]]:
        """All parts behind ``head``, for a sender."""
        return [
            head + self._first,
            *(
                (part, part.span) if isinstance(part, FilePart) else bytes(part)
                for part in self.parts[1:]
            ),
        ]

    def append(self, data: bytes | memoryview) -> None:
        """Adds a copy of ``data``."""
        last = self.parts[-1]
        if isinstance(last, FilePart):
            self.parts.append(bytearray(data))
        else:
            last += data
        self.size_bytes += len(data)
        self.memory_bytes += len(data)

    def append_file(self, file: int, offset: int, count: int) -> int:
        """Adds up to ``count`` bytes of a file and returns how many: 0 at its end. Raises OSError.

        Few bytes are copied, and so are some where no descriptor is left.
        """
        if not is_copied(count):
            count = min(count, os.lseek(file, 0, os.SEEK_END) - offset)
            if count <= 0:
                return 0
            try:
                self.parts.append(FilePart(file, Span(offset, offset + count)))
            except OSError:
                count = min(count, COPIED_BYTES_MAX)
            else:
                self.size_bytes += count
                return count
        data = os.pread(file, count, offset)
        self.append(data)
        return len(data)
