"""Bodies of queued writes: one file each, on disk before anybody is told.

    bodies/<token>    an object's plain bytes

Owns these files from their first byte to their removal. A file without a row in the journal is a
write that was never answered; it is removed once the process that wrote it is gone, which its
lock tells. Everything here blocks.
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

ORPHAN_AGE_S = 600.0  # far longer than it takes to lock a file that has been made

_NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class NewBody:
    """A body that is still coming. Raises OSError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.token = secrets.token_hex(16)
        self.size_bytes = 0
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._is_kept = False
        self._descriptor = os.open(folder / self.token, _NEW_FILE, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    @property
    def etag(self) -> str:
        """MD5 in hex, quoted: what most buckets will call the object, too."""
        return f'"{self._md5.hexdigest()}"'

    def append(self, piece: bytes) -> None:
        write_all(self._descriptor, piece)
        self._md5.update(piece)
        self.size_bytes += len(piece)

    def sync(self) -> None:
        """Returns once the body and its name are on disk."""
        os.fsync(self._descriptor)
        sync_folder(self._folder)

    def keep(self) -> None:
        """Says that the journal has a row for it."""
        self._is_kept = True

    def close(self) -> None:
        """Removes the file unless it is kept."""
        if not self._is_kept:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._folder / self.token)
        os.close(self._descriptor)


def sync_folder(folder: Path) -> None:
    """Returns once the folder's names are on disk. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_body(folder: Path, token: str) -> None:
    """Removes a body whose row is gone; whoever has it open reads on."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(folder / token)


def sweep(folder: Path, is_known: Callable[[str], bool]) -> int:
    """Removes what no row names and no process writes any more; the number of files removed.

    ``is_known`` tells whether a row names a token; it is asked after the file's lock was free,
    because whoever writes a body holds that until the row is there.
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
                if not is_known(file.name):
                    os.unlink(file)
                    removed += 1
            finally:
                os.close(descriptor)
    return removed
