"""Locks between workers: open-file-description locks on byte numbers of a file.

The kernel releases them when the last descriptor of the open file is closed, so a killed worker
holds none. The locked bytes need not exist: they are only numbers. Locks of one open file never
conflict with each other, so a worker opens each file once and tracks its own locks.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from streamedge.spans import Span

_FLOCK = struct.Struct("hhqqi4x")  # struct flock of Linux on 64-bit machines


def try_lock(fd: int, numbers: Span) -> bool:
    """Locks all of ``numbers``, or none if another worker has locked any of them."""
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _flock(fcntl.F_WRLCK, numbers))
    except OSError as exc:
        if exc.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def share(fd: int, numbers: Span) -> None:
    """Takes a shared lock of ``numbers``; raises OSError if another worker has locked them."""
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _flock(fcntl.F_RDLCK, numbers))


def unlock(fd: int, numbers: Span) -> None:
    """Releases the locks of ``numbers``."""
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _flock(fcntl.F_UNLCK, numbers))


def holder(fd: int, numbers: Span) -> Span | None:
    """The first lock of another open file that touches ``numbers``, shared or not, or None."""
    result = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _flock(fcntl.F_WRLCK, numbers))
    kind, _whence, start, length, _pid = _FLOCK.unpack(result)
    return None if kind == fcntl.F_UNLCK else Span(start, start + length)


def _flock(kind: int, numbers: Span) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, numbers.start, numbers.size, 0)
