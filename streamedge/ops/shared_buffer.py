"""A double-buffered value in shared memory: one process writes it, its children read it whole.

The two halves are written alternately. A reader during a write gets the previous value, and reads
again if two writes happened meanwhile. A writer that is killed leaves the previous value intact.
The memory has no name in any folder and is freed with the last process that has it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from streamedge.ops.shared_words import SharedWords


class SharedBuffer:
    """Created before its users are forked. Empty at first; one writer at a time."""

    def __init__(self, name: str) -> None:
        self._halves = [os.memfd_create(name, os.MFD_CLOEXEC) for _ in range(2)]
        self._shared = SharedWords(f"{name}-version", 1)
        self._version = self._shared.words

    @classmethod
    def adopt(cls, descriptors: Sequence[int]) -> SharedBuffer:
        """The same buffer in a program that has got its descriptors. Raises OSError."""
        first, second, version = descriptors
        buffer = cls.__new__(cls)
        buffer._halves = [first, second]
        buffer._shared = SharedWords.adopt(version)
        buffer._version = buffer._shared.words
        return buffer

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What ``adopt`` needs."""
        return (*self._halves, self._shared.descriptor)

    def write(self, text: bytes) -> None:
        """Replaces the value. Raises OSError; then the previous value remains."""
        version = self._version[0] + 1
        half = self._halves[version % 2]
        os.ftruncate(half, 0)
        written = 0
        while written < len(text):
            written += os.pwrite(half, text[written:], written)
        self._version[0] = version

    @property
    def version(self) -> int:
        """Grows with each write; 0 before the first one."""
        return self._version[0]

    def read(self) -> bytes:
        """The newest value. Raises OSError."""
        while True:
            version = self._version[0]
            half = self._halves[version % 2]
            text = os.pread(half, os.fstat(half).st_size, 0)
            if self._version[0] == version:
                return text

    def close(self) -> None:
        for half in self._halves:
            os.close(half)
        self._shared.close()
