"""Bodies of queued writes: one file each, on disk before the write is answered.

    bodies/<token>    the plain bytes of one object

A file without a row in the queue belongs to a write that was never answered. ``sweep`` removes it
once the process that wrote it has ended, which the file's lock shows. ``sweep`` blocks.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiofiles import open as open_file
from aiofiles.os import unlink, wrap

from streamedge.files import sync_folder
from streamedge.origin.spooling import to_its_end

ORPHAN_AGE_S = 600.0  # far longer than it takes to lock a new file


class NewBody:
    """The body of a write while it is received; see ``create_body``. Its methods raise OSError."""

    def __init__(self, folder: Path, token: str, file: Any) -> None:
        self.token = token
        self.size_bytes = 0
        self._folder = folder
        self._file = file  # of aiofiles, unbuffered
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._has_row = False

    @property
    def etag(self) -> str:
        """The MD5 of the bytes in hex, quoted: the ETag that most buckets will give the object."""
        return f'"{self._md5.hexdigest()}"'

    async def append(self, piece: bytes) -> None:
        """Writes ``piece``; ``digest`` must be called with it too."""
        rest = memoryview(piece)
        while rest:
            rest = rest[await to_its_end(self._file.write(rest)) :]
        self.size_bytes += len(piece)

    def digest(self, piece: bytes) -> None:
        """Adds ``piece`` to the MD5. Blocks."""
        self._md5.update(piece)

    async def sync(self) -> None:
        """Returns when the bytes and the name of the file are on disk."""
        await to_its_end(_sync_in_thread(self._file.fileno(), self._folder))

    def keep(self) -> None:
        """Keeps the file when it is closed: the queue has a row for it."""
        self._has_row = True

    async def close(self) -> None:
        """Closes the file, and removes it unless ``keep`` was called."""
        try:
            if not self._has_row:
                await remove_body(self._folder, self.token)
        finally:
            await to_its_end(self._file.close())


async def create_body(folder: Path) -> NewBody:
    """A new, empty body in ``folder``. Raises OSError."""
    token = secrets.token_hex(16)
    file = await to_its_end(open_file(folder / token, "xb", buffering=0, opener=open_locked))
    return NewBody(folder, token, file)


def open_locked(path: str, flags: int) -> int:
    descriptor = os.open(path, flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _sync(descriptor: int, folder: Path) -> None:
    os.fsync(descriptor)
    sync_folder(folder)


_sync_in_thread = wrap(_sync)


async def remove_body(folder: Path, token: str) -> None:
    """Removes the body of a deleted row. Processes that have it open can read on."""
    with contextlib.suppress(FileNotFoundError):
        await to_its_end(unlink(folder / token))


def sweep(folder: Path, has_row: Callable[[str], bool]) -> int:
    """Removes files that no row names and no process is writing. Returns how many.

    ``has_row`` returns whether a row names a token. It is called while the file's lock is held,
    because the writer of a body holds that lock until its row is committed.
    """
    removed = 0
    oldest_s = time.time() - ORPHAN_AGE_S
    for file in folder.iterdir():
        with contextlib.suppress(FileNotFoundError, BlockingIOError):
            descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if os.fstat(descriptor).st_mtime > oldest_s:
                    continue
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not has_row(file.name):
                    os.unlink(file)
                    removed += 1
            finally:
                os.close(descriptor)
    return removed
