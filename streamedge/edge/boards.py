"""A board in memory: one process writes on it, and those it has started read it whole.

Owns the bytes alone. Two sheets lie behind it, written in turn: whoever reads while the next text
is being written still reads the last one, and reads again if two have come meanwhile. Nothing of it
is ever in a folder, and it is gone with the last process that has it.
"""

from __future__ import annotations

import mmap
import os


class Board:
    """Made before the processes are that read it. Empty at first."""

    def __init__(self, name: str) -> None:
        self._sheets = [os.memfd_create(name, os.MFD_CLOEXEC) for _ in range(2)]
        self._version = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")

    def write(self, text: bytes) -> None:
        """Replaces what stands there. Raises OSError, and then it still stands there."""
        version = self._version[0] + 1
        sheet = self._sheets[version % 2]
        os.ftruncate(sheet, 0)
        written = 0
        while written < len(text):
            written += os.pwrite(sheet, text[written:], written)
        self._version[0] = version

    def read(self) -> bytes:
        """What was written last. Raises OSError."""
        while True:
            version = self._version[0]
            sheet = self._sheets[version % 2]
            text = os.pread(sheet, os.fstat(sheet).st_size, 0)
            if self._version[0] == version:
                return text

    def close(self) -> None:
        for sheet in self._sheets:
            os.close(sheet)
