"""Bytes in memory that one process writes and those forked from it read whole.

Two halves are written in turn: a reader that comes while the next text is written still gets the
last one, and reads again if two have been written meanwhile. A writer that is killed half way
leaves the last text as it was. Nothing of it is ever in a folder, and it is gone with the last
process that has it.
"""

from __future__ import annotations

import mmap
import os


class SharedBuffer:
    """Made before the processes that use it are forked. Empty at first; one writer at a time."""

    def __init__(self, name: str) -> None:
        self._halves = [os.memfd_create(name, os.MFD_CLOEXEC) for _ in range(2)]
        self._version = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")

    def write(self, text: bytes) -> None:
        """Replaces the text. Raises OSError, and then the last one is still there."""
        version = self._version[0] + 1
        half = self._halves[version % 2]
        os.ftruncate(half, 0)
        written = 0
        while written < len(text):
            written += os.pwrite(half, text[written:], written)
        self._version[0] = version

    def read(self) -> bytes:
        """The text that was written last. Raises OSError."""
        while True:
            version = self._version[0]
            half = self._halves[version % 2]
            text = os.pread(half, os.fstat(half).st_size, 0)
            if self._version[0] == version:
                return text

    def close(self) -> None:
        for half in self._halves:
            os.close(half)
