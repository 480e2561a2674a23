"""The output of the log: a file or stream that several processes write, without ever blocking.

Three rules hold for files, pipes, terminals and sockets:

- A write never blocks. O_NONBLOCK is a property of the open file description, which other programs
  share through stdout. So a pipe or terminal is opened again through /proc, and only that copy is
  non-blocking. A socket is written with MSG_DONTWAIT. If neither is possible, ``poll`` tells
  whether up to PIPE_BUF bytes fit.
- Lines of different processes are never mixed. Only the process with the lock writes, and it keeps
  the lock while a line is incomplete. The kernel releases the lock of a killed process; a flag in
  shared memory then makes the next writer end the incomplete line first.
- The file can be rotated: after ``LogTarget.request_reopen`` each process opens it again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import stat
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from streamedge.ops.shared_words import SharedWords

FILE_MODE = 0o640  # viewers' addresses are in it
PIPE_BYTES = 1 << 20  # requested from the kernel, so that a reader may pause for a moment
_LINE_FEED = 0x0A
_REOPENS, _LINE_INCOMPLETE = range(2)  # shared_words in shared memory
_WORDS = 2

STANDARD_STREAMS = {"stdout": 1, "stderr": 2}
OFF = "off"
"""The target that no line goes to."""


class LogTarget:
    """The target that ``edge.log`` names. Created once, before processes are forked."""

    def __init__(self, target: str, memory: SharedWords | None = None) -> None:
        """``memory``: of processes that write to the target already (``process.handover``)."""
        self.target = target
        self._memory = memory or SharedWords("streamedge-log", _WORDS)
        self._shared_words = self._memory.words

    @property
    def descriptor(self) -> int:
        """The file descriptor of the memory that has the lock and requests to reopen."""
        return self._memory.descriptor

    def request_reopen(self) -> None:
        """Makes each process reopen the file before its next write; called by the supervisor."""
        self._shared_words[_REOPENS] += 1

    def open(self) -> LogOutput:
        """This process's own descriptor and lock. Raises OSError."""
        return LogOutput(self.target, self._shared_words, f"/proc/self/fd/{self.descriptor}")

    def close(self) -> None:
        self._memory.close()


class LogOutput:
    """The log target as opened by one process. Only the logging thread may use it."""

    def __init__(self, target: str, shared_words: memoryview, lock_path: str) -> None:
        self._target = target
        self._shared_words = shared_words
        self._reopens = shared_words[_REOPENS]
        self._open_target = _open(target)
        # flock locks an open file description, which a fork shares, so each process opens its own.
        self._lock = os.open(lock_path, os.O_RDWR | os.O_CLOEXEC)
        self._is_locked = False

    @property
    def is_off(self) -> bool:
        """Whether lines go nowhere, so that they need not be made."""
        return self._target == OFF

    @property
    def must_reopen(self) -> bool:
        """Whether the file must be reopened before the next write."""
        return self._reopens != self._shared_words[_REOPENS]

    def reopen(self) -> None:
        """Opens the file again. On an OSError, lines still go to the previous file."""
        self._reopens = self._shared_words[_REOPENS]
        if self._target not in STANDARD_STREAMS and not self.is_off:
            before, self._open_target = self._open_target, _open(self._target)
            before.close()

    def write(self, lines: memoryview) -> int:
        """Writes as much as fits now; returns the number of bytes.

        ``lines`` are whole lines, or their unwritten rest. Raises BlockingIOError while another
        process has an incomplete line or the reader is slow, and OSError if the target fails; the
        caller then drops the rest of an incomplete line.
        """
        self._begin()
        try:
            written = self._open_target.send(lines)
        except BlockingIOError:
            if not self._shared_words[_LINE_INCOMPLETE]:
                self._unlock()
            raise
        except OSError:
            self._unlock()
            raise
        if written:
            self._shared_words[_LINE_INCOMPLETE] = lines[written - 1] != _LINE_FEED
        if not self._shared_words[_LINE_INCOMPLETE]:
            self._unlock()
        return written

    def close(self) -> None:
        """Closes the descriptors. In a forked child, the parent's lock is not affected."""
        self._open_target.close()
        os.close(self._lock)

    def _begin(self) -> None:
        """Takes the lock unless held, and ends a line that a killed writer left incomplete."""
        if self._is_locked:
            return
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._is_locked = True
        if self._shared_words[_LINE_INCOMPLETE]:
            try:
                self._open_target.send(b"\n")
            except OSError:
                self._unlock()
                raise
            self._shared_words[_LINE_INCOMPLETE] = 0

    def _unlock(self) -> None:
        self._is_locked = False
        fcntl.flock(self._lock, fcntl.LOCK_UN)


class _OpenTarget(NamedTuple):
    """``send`` never blocks: it returns the number of bytes written, or raises OSError."""

    send: Callable[[bytes | memoryview], int]
    close: Callable[[], None]


def _open(target: str) -> _OpenTarget:
    try:
        if target == OFF:
            return _OpenTarget(len, lambda: None)
        if target in STANDARD_STREAMS:
            return _open_stream(STANDARD_STREAMS[target])
        return _open_file(target)
    except OSError as exc:
        raise OSError(exc.errno, f"cannot open the log {target}: {exc.strerror}") from exc


def _open_file(target: str) -> _OpenTarget:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    try:
        fd = os.open(target, flags | os.O_CREAT | os.O_EXCL, FILE_MODE)
        os.fchmod(fd, FILE_MODE)  # whatever the umask
    except FileExistsError:
        fd = os.open(target, flags | os.O_CREAT, FILE_MODE)
    return _target_of_fd(fd)


def _open_stream(number: int) -> _OpenTarget:
    mode = os.fstat(number).st_mode
    if stat.S_ISSOCK(mode):
        peer = socket.socket(fileno=os.dup(number))
        return _OpenTarget(lambda data: peer.send(data, socket.MSG_DONTWAIT), peer.close)
    if stat.S_ISREG(mode):  # never blocks; if reopened, it would be overwritten from its beginning
        return _target_of_fd(os.dup(number))
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        fd = os.open(f"/proc/self/fd/{number}", flags)
    except OSError:  # another user's pipe, no /proc, or no reader
        fd = os.dup(number)
        return _OpenTarget(partial(_write_without_blocking, fd), partial(os.close, fd))
    if stat.S_ISFIFO(mode):
        with contextlib.suppress(OSError):  # above the user's limit of memory for pipes
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return _target_of_fd(fd)


def _target_of_fd(fd: int) -> _OpenTarget:
    return _OpenTarget(partial(os.write, fd), partial(os.close, fd))


def _write_without_blocking(fd: int, data: bytes | memoryview) -> int:
    """Writes to a blocking descriptor no more than certainly fits."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    if not poll.poll(0):
        raise BlockingIOError
    return os.write(fd, data[: select.PIPE_BUF])
