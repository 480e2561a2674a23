"""Gathering and spooling request bodies, and waiting for file work in threads.

A thread that uses a descriptor cannot be stopped, so its caller waits for its end before it closes
the descriptor.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

from aiofiles.tempfile import SpooledTemporaryFile

GATHERED_BYTES = 256 << 10  # large enough to be worth the cost of a thread call
SPOOL_MEMORY_BYTES = 1 << 20
"""A spooled body up to this size stays in memory; a longer one is a file without a name."""
_T = TypeVar("_T")


async def in_thread(work: Callable[[], _T]) -> _T:
    """Runs blocking ``work`` in a thread, to its end even if the caller is cancelled."""
    return await to_its_end(asyncio.to_thread(work))


async def to_its_end(work: Awaitable[_T]) -> _T:
    """Waits for a call of aiofiles to its end, even if the caller is cancelled."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


async def gather(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in pieces of at least GATHERED_BYTES, except for the last one."""
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
    """Stores a body until all of it was received: in memory, or in the system's folder for
    temporary files (TMPDIR).
    """

    def __init__(self) -> None:
        self.size_bytes = 0
        self._file: Any = None  # of aiofiles, from ``fill`` on

    async def fill(self, pieces: AsyncIterator[bytes], observe: Callable[[bytes], None]) -> None:
        """Stores a whole body; ``observe`` is called with each piece, in a thread. Raises OSError
        for a full disk, and what ``pieces`` raises.
        """
        self._file = await to_its_end(SpooledTemporaryFile(max_size=SPOOL_MEMORY_BYTES))
        async for piece in gather(pieces):
            await in_thread(partial(observe, piece))
            await to_its_end(self._file.write(piece))
            self.size_bytes += len(piece)
        await to_its_end(self._file.seek(0))

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body, once."""
        while piece := await to_its_end(self._file.read(GATHERED_BYTES)):
            yield piece

    async def close(self) -> None:
        """Frees the memory or the file."""
        if self._file is not None:
            await to_its_end(self._file.close())
