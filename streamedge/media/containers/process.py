"""Starts media helpers, limits them, and exchanges requests with them.

A helper is a process of its own for one version of one file (``helper``). It is started when a
segment of the file has to be made, is kept for a while after its last one, and reads the file's
bytes through the cache of this process. A helper that takes too long, grows too large or
dies fails the request. The file is refused for FAILED_S, then a request starts another helper.
Where the system starts no process, requests fail, and the next one tries again.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Protocol

from streamedge.errors import MediaError, MediaFault
from streamedge.media.containers.exits import EXIT_MEMORY
from streamedge.media.containers.framing import (
    FRAME_BYTES_MAX,
    FRAME_HEADER,
    FrameKind,
    frame,
    parse_header,
    parse_read,
)
from streamedge.media.containers.segment import SEGMENT_BYTES_MAX
from streamedge.spans import Span

IDLE_S = 30.0  # a helper without requests ends after this long
AHEAD_BYTES = 2 << 20  # requested from the origin while the helper reads in order
RESULT_BYTES_MAX = SEGMENT_BYTES_MAX + (1 << 20)  # with the table
READ_AGAIN_BYTES = 64 << 20  # read for one request beyond twice the file's size
FAILED_S = 60.0
FAILURES_MAX = 1024  # remembered files
START_S = 30.0  # for the interpreter and PyAV, on a machine under load

HELPER_MODULE = "streamedge.media.containers.helper"
# What the interpreter needs. The rest of a worker's environment may hold credentials.
_ENVIRONMENT = ("PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "LANG", "LC_ALL")


@dataclass(frozen=True, slots=True)
class HelperLimits:
    """``processes``: helpers of this worker. ``memory_bytes``: of address space of one.
    ``time_s``: of one request, apart from the time that its source's bytes take.
    """

    processes: int = 4
    memory_bytes: int = 1 << 30
    time_s: float = 10.0


class ByteSource(Protocol):
    """Where a helper's file comes from: a ``Reader``, or what reads only what is cached."""

    def prefetch(self, want: Span, lead_bytes: int) -> None:
        """Requests bytes that will be read soon."""

    async def read(self, span: Span) -> bytes:
        """The bytes of a span; fewer look to the helper like the file's end. Raises OriginError,
        CacheFullError."""

    def close(self) -> None:
        """Ends all use."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One version of a file. ``key`` identifies it; ``open`` opens its bytes."""

    key: tuple[object, ...]
    name: str
    format: str
    size_bytes: int
    open: Callable[[], ByteSource] = field(compare=False)


@dataclass(frozen=True, slots=True)
class HelperRequest:
    """``segment``: its number; None for the file's head. ``tracks``: indexes of streams."""

    segment: int | None = None
    tracks: tuple[int, ...] = ()

    def encode(self) -> bytes:
        return json.dumps({"segment": self.segment, "tracks": self.tracks}).encode()


class HelperDiedError(Exception):
    """A helper broke off. ``reason`` is "time", "memory" or "crash"."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@cache
def has_extra() -> bool:
    """Whether PyAV is installed."""
    return importlib.util.find_spec("av") is not None


class Helper:
    """One helper process. ``position``: the segment that it makes by reading on."""

    def __init__(
        self,
        source: SourceFile,
        process: subprocess.Popen[bytes],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        time_s: float,
    ) -> None:
        self.source = source
        self.position = 0
        self.idle_since_s = 0.0
        self._process = process
        self._reader = reader
        self._writer = writer
        self._time_s = time_s
        self._bytes = source.open()
        self._read_end = 0
        self._start_left_s = START_S

    @classmethod
    async def start(cls, source: SourceFile, limits: HelperLimits, module: str) -> Helper:
        """Starts a process that runs ``module`` for a source. Raises OSError."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        loop = asyncio.get_running_loop()
        spawning = loop.run_in_executor(None, _spawn, theirs, limits, module)
        try:
            process = await asyncio.shield(spawning)
            reader, writer = await asyncio.open_unix_connection(sock=ours, limit=FRAME_BYTES_MAX)
        except BaseException:
            ours.close()
            spawning.add_done_callback(_abandon)
            raise
        helper = cls(source, process, reader, writer, limits.time_s)
        settings = {"format": source.format, "size_bytes": source.size_bytes}
        writer.write(frame(FrameKind.SOURCE, json.dumps(settings).encode()))
        return helper

    async def answer(self, request: HelperRequest) -> bytes:
        """The result of a request.

        Raises MediaError from the helper; HelperDiedError, or OriginError and CacheFullError from
        reading the source, after which the helper has to be ended.
        """
        try:
            return await self._answer(request)
        except TimeoutError as exc:
            raise HelperDiedError("time", "it took longer than limits.media_helper_time") from exc
        except (EOFError, ConnectionError) as exc:
            raise await self._death() from exc
        except ValueError as exc:
            raise HelperDiedError("crash", f"it sent {exc}") from exc

    async def _answer(self, request: HelperRequest) -> bytes:
        own_left_s = self._time_s + self._start_left_s
        self._start_left_s = 0.0
        read_left_bytes = 2 * self.source.size_bytes + READ_AGAIN_BYTES
        parts: list[bytes] = []
        size_bytes = 0
        self._writer.write(frame(FrameKind.REQUEST, request.encode()))
        while True:
            began_s = time.monotonic()
            async with asyncio.timeout(max(0.0, own_left_s)):
                await self._writer.drain()
                kind, body = await self._receive()
            own_left_s -= time.monotonic() - began_s
            if kind is FrameKind.READ:
                data = await self._read(*parse_read(body))
                read_left_bytes -= len(data)
                if read_left_bytes < 0:
                    raise HelperDiedError("time", "it read the file over and over")
                self._writer.write(frame(FrameKind.DATA, data))
            elif kind is FrameKind.PART:
                size_bytes += len(body)
                if size_bytes > RESULT_BYTES_MAX:
                    raise ValueError("too large a result")
                parts.append(body)
            elif kind is FrameKind.END:
                return b"".join(parts)
            elif kind is FrameKind.FAILED:
                raise _media_error(body)
            else:
                raise ValueError(f"a {kind.name}")

    async def _receive(self) -> tuple[FrameKind, bytes]:
        header = parse_header(await self._reader.readexactly(FRAME_HEADER.size))
        return header.kind, await self._reader.readexactly(header.size_bytes)

    async def _read(self, offset: int, size: int) -> bytes:
        span = Span(offset, min(offset + size, self.source.size_bytes))
        if span.size <= 0:
            return b""
        if offset == self._read_end and offset > 0:
            ahead_end = min(span.end + AHEAD_BYTES, self.source.size_bytes)
            self._bytes.prefetch(Span(span.start, ahead_end), AHEAD_BYTES // 2)
        self._read_end = span.end
        return await self._bytes.read(span)

    async def _death(self) -> HelperDiedError:
        """Why the process ended."""
        code = await self._exit_code()
        if code == EXIT_MEMORY:
            return HelperDiedError("memory", "it needs more than limits.media_helper_memory")
        if code == -signal.SIGXCPU:
            return HelperDiedError("time", "it took longer than limits.media_helper_time")
        if code < 0:
            return HelperDiedError("crash", f"it was ended by {signal.Signals(-code).name}")
        return HelperDiedError("crash", f"it ended with code {code}")

    async def _exit_code(self) -> int:
        try:
            return await asyncio.to_thread(self._process.wait, 5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return await asyncio.to_thread(self._process.wait)

    async def end(self) -> None:
        """Ends the process; harmless when called twice."""
        self._bytes.close()
        self._writer.close()
        if self._process.returncode is None:
            self._process.kill()
        await asyncio.to_thread(self._process.wait)


def _spawn(connection: socket.socket, limits: HelperLimits, module: str) -> subprocess.Popen[bytes]:
    """Starts a process with one end of a pair of sockets, which is closed here."""
    with connection:
        command = [
            sys.executable, "-P", "-m", module, str(connection.fileno()),
            str(limits.memory_bytes), str(max(1, round(limits.time_s))),
        ]  # fmt: skip
        return subprocess.Popen(  # noqa: S603 - no part of it comes from outside
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            pass_fds=(connection.fileno(),),
            start_new_session=True,
        )


def _abandon(spawning: asyncio.Future[subprocess.Popen[bytes]]) -> None:
    """Reaps a process whose start was given up: without its connection it ends by itself."""
    if not spawning.cancelled() and spawning.exception() is None:
        asyncio.get_running_loop().run_in_executor(None, spawning.result().wait)


def _media_error(body: bytes) -> MediaError:
    value = json.loads(body)
    if not isinstance(value, dict):
        value = {}  # has no valid fault
    return MediaError(MediaFault(value.get("fault")), str(value.get("message"))[:1000])


class HelperPool:
    """The helpers of a worker.

    ``report`` is called with the file's name, the reason ("time", "memory", "crash") and a text
    when a helper broke off; and with the reason "start" when one cannot be started, once until one
    can. ``module``: what the processes run. ``idle_s``: how long a helper waits
    for another request. ``starts`` and ``answers`` count helpers and the requests that they
    answered.
    """

    def __init__(
        self,
        limits: HelperLimits,
        report: Callable[[str, str, str], None] | None = None,
        *,
        is_available: Callable[[], bool] = has_extra,
        module: str = HELPER_MODULE,
        idle_s: float = IDLE_S,
    ) -> None:
        self.starts = 0
        self.answers = 0
        self._idle_s = idle_s
        self._module = module
        self._failures: OrderedDict[tuple[object, ...], tuple[float, MediaError]] = OrderedDict()
        self._limits = limits
        self._report = report
        self._is_available = is_available
        self._slots = asyncio.Semaphore(limits.processes)
        self._busy: set[Helper] = set()
        self._is_closed = False
        self._can_start = True
        self._running = 0
        self._idle: list[Helper] = []
        self._ends: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def run(self, source: SourceFile, request: HelperRequest) -> bytes:
        """The result of a request for a source; waits for a free helper.

        Raises MediaError, also when the helper breaks off (HELPER_FAILED) or cannot be started
        (HELPER_NOT_STARTED), or PyAV is not installed (EXTRA_MISSING); OriginError and
        CacheFullError from reading the source.
        """
        if not self._is_available():
            raise MediaError(
                MediaFault.EXTRA_MISSING,
                f"{source.name} is a file that this edge plays with the extra streamedge[media],"
                " which is not installed.",
            )
        async with self._slots:
            self._refuse_failed(source)
            helper = self._take_idle(source, request)
            self._running += 1
            try:
                if helper is None:
                    helper = await self._start(source)
                self._busy.add(helper)
                result = await self._answer(helper, request)
            except BaseException:
                if helper is not None:
                    self._end(helper)
                raise
            finally:
                self._running -= 1
                if helper is not None:
                    self._busy.discard(helper)
            if self._is_closed or not self._idle_s:
                self._end(helper)
            else:
                self._put_idle(helper)
            return result

    async def _start(self, source: SourceFile) -> Helper:
        """Starts a helper. Raises MediaError if the system lets none start."""
        try:
            helper = await Helper.start(source, self._limits, self._module)
        except OSError as exc:
            if self._can_start and self._report is not None:
                self._report(source.name, "start", str(exc))
            self._can_start = False
            text = f"The edge cannot read {source.name} now: a process cannot be started."
            raise MediaError(MediaFault.HELPER_NOT_STARTED, text) from exc
        self._can_start = True
        self.starts += 1
        return helper

    async def _answer(self, helper: Helper, request: HelperRequest) -> bytes:
        try:
            result = await helper.answer(request)
        except HelperDiedError as exc:
            if self._report is not None and not self._is_closed:
                self._report(helper.source.name, exc.reason, str(exc))
            fault = MediaError(MediaFault.HELPER_FAILED, f"The file cannot be read: {exc}.")
            self._failures[helper.source.key] = time.monotonic() + FAILED_S, fault
            if len(self._failures) > FAILURES_MAX:
                self._failures.popitem(last=False)
            raise fault from exc
        self.answers += 1
        helper.position = 0 if request.segment is None else request.segment + 1
        return result

    def _refuse_failed(self, source: SourceFile) -> None:
        """Raises MediaError for a file that broke a helper a short time ago."""
        until_s, fault = self._failures.get(source.key, (0.0, None))
        if fault is None:
            return
        if time.monotonic() < until_s:
            raise MediaError(fault.fault, str(fault))
        del self._failures[source.key]

    def _take_idle(self, source: SourceFile, request: HelperRequest) -> Helper | None:
        """An idle helper of the source, the nearest before the requested segment if there are
        several. If there is none, room is made for a new one.
        """
        own = [helper for helper in self._idle if helper.source == source]
        if own:
            number = request.segment or 0
            helper = min(own, key=lambda one: (one.position > number, abs(number - one.position)))
            self._idle.remove(helper)
            return helper
        if self._idle and len(self._idle) + self._running >= self._limits.processes:
            self._end(self._idle.pop(0))
        return None

    def _put_idle(self, helper: Helper) -> None:
        loop = asyncio.get_running_loop()
        helper.idle_since_s = loop.time()
        self._idle.append(helper)
        if self._timer is None:
            self._timer = loop.call_later(self._idle_s, self._end_idle)

    def _end_idle(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        while self._idle and self._idle[0].idle_since_s <= loop.time() - self._idle_s:
            self._end(self._idle.pop(0))
        if self._idle:
            left_s = self._idle[0].idle_since_s + self._idle_s - loop.time()
            self._timer = loop.call_later(max(0.1, left_s), self._end_idle)

    def _end(self, helper: Helper) -> None:
        task = asyncio.get_running_loop().create_task(helper.end(), name="media helper")
        self._ends.add(task)
        task.add_done_callback(self._ends.discard)

    async def close(self) -> None:
        """Ends all helpers, so that running requests fail."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for helper in (*self._idle, *self._busy):
            self._end(helper)
        self._idle.clear()
        await asyncio.gather(*self._ends, return_exceptions=True)
