"""The cache folder's lock and its small files: the era, and the counters of stored bytes.

One edge at a time uses a folder: ``lock_folder`` holds a flock on the folder itself, which the
kernel releases when the process ends. Files that are damaged or hold impossible numbers are
created again, and the repair is reported: their content is never worth a failed request.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import secrets
from pathlib import Path
from typing import NamedTuple

from streamedge.errors import StreamEdgeError

WORKERS_MAX = 256
ERA_END = 1 << 31  # eras are words of 32 bits in extents
RECORDS, EXTENTS = "assets", "extents"
"""The kinds of files in the cache, each in a folder of its own."""
_LATE_ERAS = 1 << 30  # the replacement for a lost era is a random number from here on
_USAGE_SLOT_BYTES = 64  # one cache line each, so that workers do not share one
_USAGE_BYTES = WORKERS_MAX * _USAGE_SLOT_BYTES
_USAGE_END = 1 << 60  # no disk has stored as many bytes
_WORD_END = 1 << 64


class FolderInUseError(StreamEdgeError):
    """Another edge uses the cache folder; the message says which process, and what to do."""


def cached_path(root: Path | str, kind: str, digest: str) -> str:
    """The file of a kind; ``digest`` names it, in hexadecimal digits."""
    return f"{root}/{kind}/{digest[:2]}/{digest}"


def lock_folder(root: Path) -> int:
    """Creates the folder if needed and locks it for this edge; returns the locked descriptor.

    Raises FolderInUseError, and OSError if the folder cannot be created, opened or locked.
    """
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = _lock_holder(folder)
        os.close(folder)
        who = "another edge" if holder is None else f"another edge (process {holder})"
        raise FolderInUseError(
            f"{who} uses the cache folder {root}: stop it, or give each edge an edge.cache of its"
            " own"
        ) from None
    except OSError:
        os.close(folder)
        raise
    return folder


def _lock_holder(folder: int) -> int | None:
    """The process that holds the flock on an open folder; None if the kernel does not show it."""
    status = os.fstat(folder)
    inode = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()  # 1: FLOCK ADVISORY WRITE 4242 08:01:1234 0 EOF
            if words[1] == "FLOCK" and words[5] == inode and int(words[4]) > 0:
                return int(words[4])
    return None


def open_private(path: str, flags: int) -> int:
    """An opener for ``open``: only the edge's user can read new files, whatever the umask."""
    return os.open(path, flags, 0o600)


class Era(NamedTuple):
    """The period between two unclean boots; ``number`` marks the chunks written in it."""

    number: int
    is_clean: bool
    boot_id: str


def parse_era(text: bytes) -> Era | None:
    """The content of the file ``era``; None if it is damaged or its number is out of range."""
    try:
        era = json.loads(text)
        number, is_clean, boot_id = era["era"], era["clean"], era["boot_id"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if type(number) is not int or not 0 <= number < ERA_END - 1:
        return None
    if type(is_clean) is not bool or type(boot_id) is not str:
        return None
    return Era(number, is_clean, boot_id)


def read_era(root: Path) -> Era | None:
    """The folder's era; None if the file is damaged. Raises OSError, FileNotFoundError."""
    return parse_era((root / "era").read_bytes())


def write_era(root: Path, era: Era) -> None:
    """Replaces the file atomically. Raises OSError."""
    new = root / "new" / "era"
    text = json.dumps({"era": era.number, "clean": era.is_clean, "boot_id": era.boot_id})
    with open(new, "w", opener=open_private) as file:
        file.write(text)
    new.replace(root / "era")


def unused_era() -> int:
    """A number that no chunk has, if the last one is lost: each chunk is then checked."""
    return _LATE_ERAS + secrets.randbelow(_LATE_ERAS // 2)


class Usage:
    """The bytes that each worker has stored so far. They only grow, so sums need no lock."""

    __slots__ = ("_slots",)

    def __init__(self, root: Path) -> None:
        with open(root / "usage", "r+b") as file:
            words = memoryview(mmap.mmap(file.fileno(), _USAGE_BYTES)).cast("Q")
        self._slots = words[:: _USAGE_SLOT_BYTES // words.itemsize]

    def add(self, slot: int, size: int) -> None:
        """Counts stored bytes, modulo 2^64: a damaged count must not fail a request."""
        self._slots[slot] = (self._slots[slot] + size) % _WORD_END

    def total(self) -> int:
        """The bytes that all workers have stored, modulo 2^64: only differences are meaningful."""
        return sum(self._slots) % _WORD_END

    def has_impossible_counts(self) -> bool:
        """Whether a count is higher than the size of any disk."""
        return any(count >= _USAGE_END for count in self._slots)

    def clear(self) -> None:
        """Sets all counts to 0."""
        for slot in range(WORKERS_MAX):
            self._slots[slot] = 0


def prepare_usage(root: Path) -> str | None:
    """Creates the file with its disk blocks; returns the repair, if any. Raises OSError."""
    fd = os.open(root / "usage", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, _USAGE_BYTES)  # or a full disk later kills a worker
    finally:
        os.close(fd)
    usage = Usage(root)
    if usage.has_impossible_counts():
        usage.clear()
        return "usage held impossible counts"
    return None
