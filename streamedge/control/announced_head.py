"""The newest position of the control log that was announced to all processes of an edge.

The position is in a file of the cache folder that every process maps. So a process sees at no cost
whether there are rows that it has not read. The file stays in the folder: at the next start it
shows which rows this cache has applied, even if the database is lost.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from pathlib import Path

from streamedge.control.position import UNKNOWN_POSITION, log_of

FILE_NAME = "control-head"
_BYTES = 16
_POSITION, _HAS_RESOURCES = range(2)  # words


class AnnouncedHead:
    """The announced head in one process. The file is opened at the first use."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE_NAME
        self._fd = -1
        self._words: memoryview | None = None

    @property
    def position(self) -> int:
        """The position; UNKNOWN_POSITION before the first one, and without a usable folder."""
        words = self._words or self._mapped()
        return UNKNOWN_POSITION if words is None else words[_POSITION]

    @property
    def has_resources(self) -> bool:
        """Whether there were resources of the API when this was last recorded."""
        words = self._words or self._mapped()
        return words is not None and words[_HAS_RESOURCES] != 0

    def publish(self, position: int) -> bool:
        """Announces a position unless a later one of the same log is there; False on failure."""
        words = self._words or self._mapped()
        if words is None:
            return False
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            if log_of(words[_POSITION]) != log_of(position) or words[_POSITION] < position:
                words[_POSITION] = position
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        return True

    def record_resources(self, *, has_resources: bool) -> None:
        """Records for the next start whether there are resources of the API."""
        words = self._words or self._mapped()
        if words is not None:
            words[_HAS_RESOURCES] = has_resources

    def refresh(self) -> None:
        """Opens the file again at the next use if it was replaced or deleted."""
        if self._words is None:
            return
        try:
            current, mapped = os.stat(self._path), os.fstat(self._fd)
            if (current.st_dev, current.st_ino) == (mapped.st_dev, mapped.st_ino):
                return
        except OSError:
            pass
        self.close()

    def close(self) -> None:
        if self._words is not None:
            self._words = None
            os.close(self._fd)

    def _mapped(self) -> memoryview | None:
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return None
        try:
            # Writing a mapped page without disk space would kill the process.
            os.posix_fallocate(fd, 0, _BYTES)
            words = memoryview(mmap.mmap(fd, _BYTES)).cast("Q")
        except (OSError, ValueError):
            os.close(fd)
            return None
        self._fd, self._words = fd, words
        return words
