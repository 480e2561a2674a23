"""Bytes on their way from a viewer to a file: gathered, spooled, and written by threads.

A thread that uses a descriptor cannot be stopped: its caller waits for its end, and closes nothing
under it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from functools import partial
from tempfile import SpooledTemporaryFile
from typing import TypeVar

GATHERED_BYTES = 256 << 10  # enough to be worth a thread's while
SPOOL_MEMORY_BYTES = 1 << 20
"""A spooled body up to this size stays in memory; a longer one is a file without a name."""
_T = TypeVar("_T")


async def in_thread(work: Callable[[], _T]) -> _T:
    """Does blocking ``work``, to its end even when the caller is cancelled meanwhile."""
    working = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        await asyncio.wait([working])
        raise


async def gather(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in pieces of at least GATHERED_BYTES, but for the last one."""
    gathered: list[bytes] = []
    gathered_bytes = 0
    async for piece in pieces:
        gathered.append(piece)
        gathered_bytes += len(piece)
        if gathered_bytes >= GATHERED_BYTES:
            yield b"".join(gathered)
            gathered.clear()
            gathered_bytes = 0
    if gathered:
        yield b"".join(gathered)


def write_all(descriptor: int, data: bytes) -> None:
    """Writes all of ``data``. Blocks. Raises OSError."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


class Spool:
    """A body that is kept until all of it has come: in memory, or in the system's folder for
    temporary files (TMPDIR).
    """

    def __init__(self) -> None:
        self.size_bytes = 0
        self._file = SpooledTemporaryFile[bytes](max_size=SPOOL_MEMORY_BYTES)

    async def fill(self, pieces: AsyncIterator[bytes], look: Callable[[bytes], None]) -> None:
        """Takes all of a body; ``look`` sees each piece, in a thread. Raises OSError for a full
        disk, and what ``pieces`` raises.
        """
        async for piece in gather(pieces):
            await in_thread(partial(self._append, piece, look))
        await in_thread(partial(self._file.seek, 0))

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body, once."""
        while piece := await in_thread(partial(self._file.read, GATHERED_BYTES)):
            yield piece

    async def close(self) -> None:
        """Gives its memory or file back."""
        await in_thread(self._file.close)

    def _append(self, piece: bytes, look: Callable[[bytes], None]) -> None:
        look(piece)
        self._file.write(piece)
        self.size_bytes += len(piece)
