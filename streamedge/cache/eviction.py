"""Keeping the cache within its size: which files go, and how they go.

Files go by when they were last used (their access time, which workers set). An extent is marked
in its header before it is unlinked: whoever has it open finishes with it and stores no more in it
for others. One process evicts; it learns from ``Usage`` when to look, and looks at the folder
itself only then.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from streamedge.cache.extent import mark_evicted
from streamedge.cache.folder import Usage

HIGH_WATER = 0.96  # of the size allowed: begin to evict
LOW_WATER = 0.90  # … and stop
FREE_BYTES_MIN = 64 * 1024 * 1024  # on the cache's disk, before other programs suffer
_BLOCK_BYTES = 512  # what st_blocks counts


class CachedFile(NamedTuple):
    """A file of the cache folder: when it was last used, and the disk space it takes."""

    used_ns: int
    size_bytes: int
    path: str
    kind: str


def choose(files: Iterable[CachedFile], excess_bytes: int) -> list[CachedFile]:
    """The longest unused files that together free ``excess_bytes``, longest unused first."""
    chosen: list[CachedFile] = []
    for file in sorted(files):
        if excess_bytes <= 0:
            break
        chosen.append(file)
        excess_bytes -= file.size_bytes
    return chosen


def scan(root: Path) -> Iterator[CachedFile]:
    """All files that may be evicted. Files and folders that vanish meanwhile are passed over."""
    for kind in ("extents", "assets"):
        with contextlib.suppress(FileNotFoundError), os.scandir(root / kind) as folders:
            for folder in folders:
                with contextlib.suppress(FileNotFoundError), os.scandir(folder) as files:
                    for file in files:
                        with contextlib.suppress(FileNotFoundError):
                            status = file.stat(follow_symlinks=False)
                            size = status.st_blocks * _BLOCK_BYTES
                            yield CachedFile(status.st_atime_ns, size, file.path, kind)


class Evictor:
    """Holds ``root`` within ``limit_bytes``. Its methods block on the disk."""

    def __init__(self, root: Path, limit_bytes: int) -> None:
        self._root = root
        self._limit_bytes = limit_bytes
        self._usage = Usage(root)
        self._scanned_bytes: int | None = None
        self._stored_at_scan = 0

    @property
    def used_bytes(self) -> int:
        """Disk space taken: as last scanned, and what has been stored since."""
        if self._scanned_bytes is None:
            return 0
        return self._scanned_bytes + self._usage.total() - self._stored_at_scan

    def excess_bytes(self) -> int:
        """How much should go now; 0 while there is room."""
        used = self.used_bytes
        excess = used - int(self._limit_bytes * LOW_WATER)
        if used <= self._limit_bytes * HIGH_WATER:
            excess = 0
        disk = os.statvfs(self._root)
        free = disk.f_bavail * disk.f_frsize
        if free < FREE_BYTES_MIN:
            excess = max(excess, FREE_BYTES_MIN - free)
        return excess

    def is_due(self) -> bool:
        """Whether ``evict`` has something to do: quickly told, as long as there is room."""
        return self._scanned_bytes is None or self.excess_bytes() > 0

    def scan(self) -> list[CachedFile]:
        """Looks at the folder, and takes what it sees as the truth."""
        self._stored_at_scan = self._usage.total()
        files = list(scan(self._root))
        self._scanned_bytes = sum(file.size_bytes for file in files)
        return files

    def evict(self) -> list[CachedFile]:
        """Removes what is in excess; returns what it removed."""
        if not self.is_due():
            return []
        files = self.scan()
        removed = [file for file in choose(files, self.excess_bytes()) if _remove(file)]
        assert self._scanned_bytes is not None
        self._scanned_bytes -= sum(file.size_bytes for file in removed)
        return removed


def _remove(file: CachedFile) -> bool:
    try:
        if file.kind == "extents":
            fd = os.open(file.path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                mark_evicted(fd)
            finally:
                os.close(fd)
        os.unlink(file.path)
    except FileNotFoundError:
        return False
    return True
