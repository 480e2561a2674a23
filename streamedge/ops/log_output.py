"""Where log lines go: a descriptor that several processes share, written without ever waiting.

Three rules hold for a file, a pipe, a terminal and a socket alike:

- A write never blocks. O_NONBLOCK belongs to the open file and so to every program that shares
  stdout, so a pipe or terminal is opened anew through /proc and only that copy is non-blocking; a
  socket is written with MSG_DONTWAIT. Where neither can be had, ``poll`` says whether at most
  PIPE_BUF bytes fit.
- A line is never torn. Only the process that holds a lock writes, and it keeps the lock while a
  line is half written. The kernel drops the lock of a killed process; a flag in shared memory then
  tells the next writer to end the broken line first.
- The file can be replaced: after ``LogTarget.request_reopen`` each process opens it anew.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import select
import socket
import stat
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

FILE_MODE = 0o640  # viewers' addresses are in it
PIPE_BYTES = 1 << 20  # asked of the kernel, so that a reader may pause for a moment
_LINE_FEED = 0x0A
_REOPENS, _HALF_LINE = range(2)  # words in shared memory

STANDARD_STREAMS = {"stdout": 1, "stderr": 2}


class LogTarget:
    """What the config calls ``edge.log``. Made once, before processes are forked."""

    def __init__(self, target: str) -> None:
        self.target = target
        self._memory = os.memfd_create("streamedge-log", os.MFD_CLOEXEC)
        os.ftruncate(self._memory, mmap.PAGESIZE)
        self._words = memoryview(mmap.mmap(self._memory, mmap.PAGESIZE)).cast("Q")

    def request_reopen(self) -> None:
        """Has each process open the file anew before it writes again; called by the supervisor."""
        self._words[_REOPENS] += 1

    def open(self) -> LogOutput:
        """This process's own descriptor and lock. Raises OSError."""
        return LogOutput(self.target, self._words, f"/proc/self/fd/{self._memory}")

    def close(self) -> None:
        os.close(self._memory)


class LogOutput:
    """One process's way to the target. Only the thread that logs may use it."""

    def __init__(self, target: str, words: memoryview, lock_path: str) -> None:
        self._target = target
        self._words = words
        self._reopens = words[_REOPENS]
        self._sink = _open(target)
        # A lock belongs to an open file, and a forked copy shares that: each process opens its own.
        self._lock = os.open(lock_path, os.O_RDWR | os.O_CLOEXEC)
        self._is_locked = False

    @property
    def must_reopen(self) -> bool:
        """Whether the file is to be opened anew."""
        return self._reopens != self._words[_REOPENS]

    def reopen(self) -> None:
        """Opens a file again. Raises OSError: then lines go where they went before."""
        self._reopens = self._words[_REOPENS]
        if self._target not in STANDARD_STREAMS:
            before, self._sink = self._sink, _open(self._target)
            before.close()

    def write(self, lines: memoryview) -> int:
        """Writes as much as fits now; how many bytes that was.

        ``lines`` are whole lines, or what is left of them. Raises BlockingIOError while another
        process is in the middle of a line or the reader is slow, and OSError when the target
        refuses; what is left of a line is then given up.
        """
        self._begin()
        try:
            taken = self._sink.send(lines)
        except BlockingIOError:
            if not self._words[_HALF_LINE]:
                self._unlock()
            raise
        except OSError:
            self._unlock()
            raise
        if taken:
            self._words[_HALF_LINE] = lines[taken - 1] != _LINE_FEED
        if not self._words[_HALF_LINE]:
            self._unlock()
        return taken

    def close(self) -> None:
        """Closes the descriptors; in a forked copy this leaves the other process's lock alone."""
        self._sink.close()
        os.close(self._lock)

    def _begin(self) -> None:
        """Takes the lock unless it is held, and ends a line that another writer left broken."""
        if self._is_locked:
            return
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._is_locked = True
        if self._words[_HALF_LINE]:
            try:
                self._sink.send(b"\n")
            except OSError:
                self._unlock()
                raise
            self._words[_HALF_LINE] = 0

    def _unlock(self) -> None:
        self._is_locked = False
        fcntl.flock(self._lock, fcntl.LOCK_UN)


class _Sink(NamedTuple):
    """An open target. ``send`` never waits: it returns how many bytes went, or raises OSError."""

    send: Callable[[bytes | memoryview], int]
    close: Callable[[], None]


def _open(target: str) -> _Sink:
    try:
        if target in STANDARD_STREAMS:
            return _open_stream(STANDARD_STREAMS[target])
        return _open_file(target)
    except OSError as exc:
        raise OSError(exc.errno, f"cannot open the log {target}: {exc.strerror}") from exc


def _open_file(target: str) -> _Sink:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    try:
        fd = os.open(target, flags | os.O_CREAT | os.O_EXCL, FILE_MODE)
        os.fchmod(fd, FILE_MODE)  # whatever the umask
    except FileExistsError:
        fd = os.open(target, flags | os.O_CREAT, FILE_MODE)
    return _sink(fd)


def _open_stream(number: int) -> _Sink:
    mode = os.fstat(number).st_mode
    if stat.S_ISSOCK(mode):
        peer = socket.socket(fileno=os.dup(number))
        return _Sink(lambda data: peer.send(data, socket.MSG_DONTWAIT), peer.close)
    if stat.S_ISREG(mode):  # never blocks; opened anew it would be written from its beginning
        return _sink(os.dup(number))
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        fd = os.open(f"/proc/self/fd/{number}", flags)
    except OSError:  # another user's pipe, no /proc, or a reader that is gone
        fd = os.dup(number)
        return _Sink(partial(_write_what_fits, fd), partial(os.close, fd))
    if stat.S_ISFIFO(mode):
        with contextlib.suppress(OSError):  # over the user's share of memory for pipes
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return _sink(fd)


def _sink(fd: int) -> _Sink:
    return _Sink(partial(os.write, fd), partial(os.close, fd))


def _write_what_fits(fd: int, data: bytes | memoryview) -> int:
    """Writes to a descriptor that may block only as much as is sure to fit."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    if not poll.poll(0):
        raise BlockingIOError
    return os.write(fd, data[: select.PIPE_BUF])
