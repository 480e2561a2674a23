"""Words of 64 bits in memory that processes share, by a descriptor.

Processes that were forked after the creation have the memory already. A program that replaces this
one by exec keeps only descriptors, and maps the memory again (``process.handover``).
"""

from __future__ import annotations

import mmap
import os

WORD_BYTES = 8


class SharedWords:
    """``words``: the memory, all 0 at first. ``descriptor``: of the memory; it has no name."""

    __slots__ = ("descriptor", "words")

    def __init__(self, name: str, count: int) -> None:
        self.descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
        os.ftruncate(self.descriptor, max(1, count) * WORD_BYTES)
        self.words = _map(self.descriptor)

    @classmethod
    def adopt(cls, descriptor: int) -> SharedWords:
        """The same memory in a program that has got the descriptor. Raises OSError, ValueError."""
        shared = cls.__new__(cls)
        shared.descriptor = descriptor
        shared.words = _map(descriptor)
        return shared

    def close(self) -> None:
        """Closes the descriptor; the memory stays mapped."""
        os.close(self.descriptor)


def _map(descriptor: int) -> memoryview:
    return memoryview(mmap.mmap(descriptor, os.fstat(descriptor).st_size)).cast("Q")
