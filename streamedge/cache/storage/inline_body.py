"""The body of a small object, in the file of its record.

A small object is one file: its record, a line of JSON, and behind it the body. The file is written
once and never changes; a newer one replaces it by a rename. ``decode_record`` compares the CRC when
it is opened, so a file that a killed worker has not written to its end counts as missing.
"""

from __future__ import annotations

import os
from typing import ClassVar

from streamedge.cache.storage.extent import CHUNK_BYTES, Ready

INLINE_BYTES_MAX = CHUNK_BYTES  # larger bodies are stored in extents


class InlineBody:
    """An open record's file, read like an ``Extent`` that is complete."""

    __slots__ = ("body_bytes", "fd", "path", "start")

    complete: ClassVar[bool] = True
    checks: ClassVar[int] = 0

    def __init__(self, fd: int, path: str, start: int, body_bytes: int) -> None:
        self.fd = fd
        self.path = path
        self.start = start  # of the body in the file
        self.body_bytes = body_bytes

    @property
    def evicted(self) -> bool:
        """Whether the file was removed or replaced. A system call."""
        return os.fstat(self.fd).st_nlink == 0

    def ready(self, position: int, end: int) -> Ready | None:
        """The bytes from ``position`` on that can be sent, or None."""
        size = min(end, self.body_bytes) - position
        return Ready(self.fd, self.start + position, size) if size > 0 else None

    def read(self, position: int, size: int) -> bytes:
        """Copies bytes that ``ready`` has reported; fewer if the file was truncated."""
        return os.pread(self.fd, size, self.start + position)

    def close(self) -> None:
        os.close(self.fd)
