"""Bodies of queued writes: one file each, on disk before the write is answered.

    bodies/<token>    the plain bytes of one object

A file without a row in the queue belongs to a write that was never answered. ``sweep`` removes it
once the process that wrote it has ended, which the file's lock shows. All functions here block.
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

from streamedge.origin.spooling import write_all

ORPHAN_AGE_S = 600.0  # far longer than it takes to lock a new file

_NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class NewBody:
    """The body of a write while it is received. Its methods raise OSError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.token = secrets.token_hex(16)
        self.size_bytes = 0
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._has_row = False
        self._descriptor = os.open(folder / self.token, _NEW_FILE, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    @property
    def etag(self) -> str:
        """The MD5 of the bytes in hex, quoted: the ETag that most buckets will give the object."""
        return f'"{self._md5.hexdigest()}"'

    def append(self, piece: bytes) -> None:
        write_all(self._descriptor, piece)
        self._md5.update(piece)
        self.size_bytes += len(piece)

    def sync(self) -> None:
        """Returns when the bytes and the name of the file are on disk."""
        os.fsync(self._descriptor)
        sync_folder(self._folder)

    def keep(self) -> None:
        """Keeps the file when it is closed: the queue has a row for it."""
        self._has_row = True

    def close(self) -> None:
        """Closes the file, and removes it unless ``keep`` was called."""
        if not self._has_row:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._folder / self.token)
        os.close(self._descriptor)


def sync_folder(folder: Path) -> None:
    """Returns when the names in the folder are on disk. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_body(folder: Path, token: str) -> None:
    """Removes the body of a deleted row. Processes that have it open can read on."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(folder / token)


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
