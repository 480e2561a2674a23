"""Bytes on their way from a viewer to a file: gathered, and written by threads.

Owns the manners of threads that use descriptors: they cannot be stopped, so whoever waits for one
waits for its end, and closes nothing under it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

GATHERED_BYTES = 256 << 10  # enough to be worth a thread's while
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
