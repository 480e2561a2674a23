"""The process of a media helper: its connection to the worker, its limits and its requests.

``helper`` and ``poster_helper`` are such processes. Each gets the file's bytes and all requests
over one socket (``framing``). Before the first request it gives up what it does not need
(``restrict``).
"""

from __future__ import annotations

import io
import json
import os
import resource
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import av

from streamedge.errors import MediaError, MediaFault
from streamedge.media.containers.exits import EXIT_MEMORY
from streamedge.media.containers.framing import (
    FRAME_HEADER,
    PART_BYTES,
    READ_BODY,
    READ_BYTES_MAX,
    FrameKind,
    frame,
    parse_header,
)
from streamedge.media.containers.seccomp import filter_calls


class Connection:
    """Frames over the socket to the worker."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    def send(self, kind: FrameKind, body: bytes = b"") -> None:
        self.send_bytes(frame(kind, body))

    def send_bytes(self, data: bytes) -> None:
        self._socket.sendall(data)

    def receive(self) -> tuple[FrameKind, bytes]:
        """The next frame. Raises EOFError at the end of the connection."""
        header = parse_header(self._bytes(FRAME_HEADER.size))
        return header.kind, self._bytes(header.size_bytes)

    def _bytes(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            part = self._socket.recv(size - len(data))
            if not part:
                raise EOFError
            data += part
        return bytes(data)


class RemoteFile:
    """The source, as a file for PyAV: its bytes come from the worker."""

    def __init__(self, connection: Connection, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._connection = connection
        self._position = 0

    def read(self, size: int) -> bytes:
        size = min(size, READ_BYTES_MAX, self.size_bytes - self._position)
        if size <= 0:
            return b""
        self._connection.send(FrameKind.READ, READ_BODY.pack(self._position, size))
        kind, data = self._connection.receive()
        if kind is not FrameKind.DATA:
            raise EOFError
        self._position += len(data)
        return data

    def seek(self, offset: int, origin: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size_bytes}
        self._position = max(0, base[origin] + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def seekable(self) -> bool:
        return True


def restrict(memory_bytes: int) -> None:
    """Gives up what the helper does not need, for good."""
    limits = {
        resource.RLIMIT_NOFILE: 0,  # no file, no socket
        resource.RLIMIT_NPROC: 0,  # no process (root is exempt), no thread
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_AS: memory_bytes,
    }
    for limit, value in limits.items():
        _soft, hard = resource.getrlimit(limit)
        most = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (most, most))
    filter_calls()


def limit_time(time_s: int) -> None:
    """SIGXCPU ends the process when it takes so much more processor time."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    used_s = int(usage.ru_utime + usage.ru_stime)
    resource.setrlimit(resource.RLIMIT_CPU, (used_s + time_s + 1, resource.RLIM_INFINITY))


Answer: TypeAlias = "Callable[[Mapping[str, Any]], bytes]"
"""Makes the result of a request, which is a ``HelperRequest`` as a value of JSON."""


def answer_requests(
    connection: Connection, time_s: int, open_source: Callable[[RemoteFile, str], Answer]
) -> None:
    """Answers requests until the worker closes the connection.

    ``open_source`` opens a file of a format at the first request. It and the answers may raise
    MediaError and PyAV's errors, which become a FAILED.
    """
    _kind, body = connection.receive()
    settings = json.loads(body)
    file = RemoteFile(connection, settings["size_bytes"])
    answer: Answer | None = None
    while True:
        _kind, body = connection.receive()
        limit_time(time_s)
        try:
            if answer is None:
                answer = open_source(file, settings["format"])
            result = answer(json.loads(body))
        except MediaError as exc:
            _fail(connection, exc.fault, str(exc))
            continue
        except av.FFmpegError as exc:
            if isinstance(exc, MemoryError):
                raise
            _fail(connection, MediaFault.STRUCTURE_INVALID, f"the file cannot be read: {exc}")
            continue
        for start in range(0, len(result), PART_BYTES):
            connection.send(FrameKind.PART, result[start : start + PART_BYTES])
        connection.send(FrameKind.END)


def _fail(connection: Connection, fault: MediaFault, message: str) -> None:
    body = json.dumps({"fault": fault.value, "message": message[:1000]})
    connection.send(FrameKind.FAILED, body.encode())


def run_helper(arguments: Sequence[str], serve: Callable[[Connection, int], None]) -> None:
    """Runs a helper: ``arguments`` are those of the module, ``serve`` answers requests."""
    descriptor, memory_bytes, time_s = (int(value) for value in arguments)
    connection = Connection(socket.socket(fileno=descriptor))
    restrict(memory_bytes)
    try:
        serve(connection, time_s)
    except EOFError:
        return
    except MemoryError:
        os._exit(EXIT_MEMORY)
