"""What a folder or a file is on disk, for code that keeps or reloads it."""

from __future__ import annotations

import os
from pathlib import Path

FileStamp = tuple[int, int, int]
"""A file's number, time of change and size: another stamp, another content."""


def file_stamp(path: Path) -> FileStamp | None:
    """Identifies one state of a file; None if it cannot be read."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def sync_folder(folder: Path) -> None:
    """Returns when the names in the folder are on disk. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
