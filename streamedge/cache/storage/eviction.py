"""Eviction: keeps the cache within its size by removing the least recently used files.

Workers set the access time of the files that they use. An extent is unlinked and then
marked in its header: each worker that has it open closes it, at once or when its reader has passed.
Until then it takes disk space without a name, so the evictor keeps it open too and asks the kernel
whether another process has it open. One process evicts; it scans the folder only when ``Usage``
shows that the limit is near.

If a file cannot be removed, the next one is removed instead.
"""

from __future__ import annotations

import os
import stat
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Set
from pathlib import Path
from typing import NamedTuple

from streamedge.cache.storage.extent import is_open_elsewhere, unlink_extent
from streamedge.cache.storage.folder import EXTENTS, RECORDS, Usage

HIGH_WATER = 0.96  # of the limit: eviction begins above this
LOW_WATER = 0.90  # … and ends below this
CLOSING_S = 5.0  # within this time, workers close evicted files that have no reader
REMOVED_MAX = 512  # removed files that are kept open, one descriptor each
FREE_BYTES_MIN = 64 * 1024 * 1024  # kept free on the cache's disk, for other programs
FRUITLESS_PAUSES_S = (0.25, 1.0, 5.0, 30.0)  # after passes that could not remove enough
BLOCK_BYTES = 512  # what st_blocks counts


class CachedFile(NamedTuple):
    """A file of the cache folder: when it was last used, and the disk space it takes."""

    used_ns: int
    size_bytes: int
    path: str
    kind: str


class _Removed(NamedTuple):
    """An unlinked extent, kept open to see its size and whether another process has it open."""

    fd: int
    since_s: float


def evict_oldest(
    files: Iterable[CachedFile], excess_bytes: int, remove: Callable[[CachedFile], bool]
) -> tuple[list[CachedFile], dict[str, str]]:
    """Removes the least recently used files until ``excess_bytes`` are free.

    ``remove`` returns whether the file existed, and raises OSError if it cannot be removed.
    Returns the removed files, longest unused first, and the errors of the others by path.
    """
    removed: list[CachedFile] = []
    failures: dict[str, str] = {}
    for file in sorted(files):
        if excess_bytes <= 0:
            break
        try:
            if remove(file):
                removed.append(file)
                excess_bytes -= file.size_bytes
        except OSError as exc:
            failures[file.path] = exc.strerror or str(exc)
    return removed, failures


def scan(root: Path, failures: dict[str, str] | None = None) -> Iterator[CachedFile]:
    """All files that may be evicted. Files and folders that vanish meanwhile are skipped.

    Paths that cannot be read, or are no regular files, are added to ``failures`` with the reason.
    """
    failures = {} if failures is None else failures
    for kind in (EXTENTS, RECORDS):
        for folder in _entries(f"{root}/{kind}", failures):
            for file in _entries(folder.path, failures):
                try:
                    status = file.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                except OSError as exc:
                    failures[file.path] = exc.strerror or str(exc)
                    continue
                if not stat.S_ISREG(status.st_mode):
                    failures[file.path] = "is not a file of the cache"
                    continue
                size = status.st_blocks * BLOCK_BYTES
                yield CachedFile(status.st_atime_ns, size, file.path, kind)


def _entries(folder: str, failures: dict[str, str]) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except FileNotFoundError:
        return
    except OSError as exc:
        failures[folder] = exc.strerror or str(exc)


class Evictor:
    """Keeps the cache folder ``root`` within ``limit_bytes``. Its methods block on the disk.

    ``failures``: the paths that the last pass could not remove or read, with the reasons.
    ``exempt_paths``: the files that are never removed.
    """

    def __init__(
        self,
        root: Path,
        limit_bytes: int,
        clock: Callable[[], float] = time.monotonic,
        exempt_paths: Callable[[], Set[str]] = frozenset,
    ) -> None:
        self._root = root
        self._limit_bytes = limit_bytes
        self._clock = clock
        self._exempt_paths = exempt_paths
        self._usage = Usage(root)
        self._scanned_bytes: int | None = None
        self._stored_at_scan = 0
        self._fruitless = 0  # passes in a row that have not freed enough
        self._paused_until_s = 0.0
        self.failures: dict[str, str] = {}
        self._removed: deque[_Removed] = deque()

    @property
    def used_bytes(self) -> int:
        """Disk space in use: the last scan's, plus bytes stored since, plus removed files that are
        still open in a process.
        """
        if self._scanned_bytes is None:
            return 0
        stored = (self._usage.total() - self._stored_at_scan) % (1 << 64)
        return self._scanned_bytes + stored + sum(self._open_bytes())

    def excess_bytes(self) -> int:
        """How many bytes to remove now; 0 if there is space, or will be as soon as workers have
        closed the files that were removed lately.
        """
        closing_bytes, _read_bytes = self._open_bytes()
        used = self.used_bytes - closing_bytes
        excess = used - int(self._limit_bytes * LOW_WATER)
        if used <= self._limit_bytes * HIGH_WATER:
            excess = 0
        disk = os.statvfs(self._root)
        free = disk.f_bavail * disk.f_frsize + closing_bytes
        if free < FREE_BYTES_MIN:
            excess = max(excess, FREE_BYTES_MIN - free)
        return excess

    def is_due(self) -> bool:
        """Whether ``evict`` has work to do; cheap while there is space."""
        if self._scanned_bytes is None:
            return True
        return time.monotonic() >= self._paused_until_s and self.excess_bytes() > 0

    def close(self) -> None:
        """Closes the removed files."""
        while self._removed:
            os.close(self._removed.popleft().fd)

    def _open_bytes(self) -> tuple[int, int]:
        """The disk space of removed files: of those that are about to be closed, and of those that
        have a reader. Closes files that no other process has open.
        """
        now_s = self._clock()
        closing_bytes = read_bytes = 0
        for _each in range(len(self._removed)):
            removed = self._removed.popleft()
            if not is_open_elsewhere(removed.fd):
                os.close(removed.fd)
                continue
            self._removed.append(removed)
            size_bytes = os.fstat(removed.fd).st_blocks * BLOCK_BYTES
            if now_s - removed.since_s < CLOSING_S:
                closing_bytes += size_bytes
            else:
                read_bytes += size_bytes
        return closing_bytes, read_bytes

    def scan(self) -> list[CachedFile]:
        """Scans the folder and sets the disk space in use from it."""
        self._stored_at_scan = self._usage.total()
        self.failures = {}
        files = list(scan(self._root, self.failures))
        self._scanned_bytes = sum(file.size_bytes for file in files)
        return files

    def evict(self) -> list[CachedFile]:
        """Removes the excess; returns the removed files."""
        if not self.is_due():
            return []
        files = self.scan()
        excess = self.excess_bytes()
        exempt = self._exempt_paths()
        evictable = (file for file in files if file.path not in exempt)
        removed, failures = evict_oldest(evictable, excess, self._remove)
        self.failures |= failures
        freed = sum(file.size_bytes for file in removed)
        self._scanned_bytes = sum(file.size_bytes for file in files) - freed
        self._fruitless = self._fruitless + 1 if freed < excess else 0
        if self._fruitless:
            pauses = min(self._fruitless, len(FRUITLESS_PAUSES_S)) - 1
            self._paused_until_s = time.monotonic() + FRUITLESS_PAUSES_S[pauses]
        return removed

    def _remove(self, file: CachedFile) -> bool:
        """Removes a file; whether it existed. Raises OSError if it cannot be removed."""
        if file.kind != EXTENTS:
            try:
                os.unlink(file.path)
            except FileNotFoundError:
                return False
            return True
        fd = unlink_extent(file.path)
        if fd is None:
            return False
        self._removed.append(_Removed(fd, self._clock()))
        if len(self._removed) > REMOVED_MAX:
            os.close(self._removed.popleft().fd)
        return True
