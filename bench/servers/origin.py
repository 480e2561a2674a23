"""A throttled origin that behaves like S3, in a separate process.

``python -m bench.servers.origin PORT FOLDER FIRST_BYTE_S BYTES_PER_S`` (0: no limit) delays the
first byte of each response, limits the rate of each connection, and counts the bytes that it sends.
The last path component names a file of the folder, or ``synthetic-SIZE`` for bytes of a pattern.
The path before it only makes a different key, so that every object has cold copies.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from email.utils import formatdate
from pathlib import Path
from typing import BinaryIO

from bench.machine import LOAD_CORE
from bench.servers.server import LOOPBACK, BenchError, accepts, free_port, process, scratch_folder

PIECE_S = 0.01
"""Seconds of each piece of a throttled body; short, so that it resembles a slow link."""
UNTHROTTLED_PIECE_BYTES = 256 << 10
HEADER_LIMIT_BYTES = 64 << 10
SYNTHETIC_LIMIT_BYTES = 64 << 30
STATS_PATH = "/__stats"
RESET_PATH = "/__reset"
_PATTERN = bytes(range(256)) * 4096


@dataclass(slots=True)
class Stats:
    """Since the last reset: requests for objects (HEAD included), and body bytes sent."""

    requests: int = 0
    body_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Origin:
    """A client of a running origin."""

    port: int

    def stats(self) -> Stats:
        return Stats(**json.loads(self._request("GET", STATS_PATH)))

    def reset(self) -> None:
        self._request("POST", RESET_PATH)

    def _request(self, method: str, path: str) -> bytes:
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=10)
        try:
            connection.request(method, path)
            return connection.getresponse().read()
        except OSError as error:
            raise BenchError(f"the origin does not respond: {error}") from error
        finally:
            connection.close()


@contextmanager
def origin(folder: Path, *, first_byte_s: float = 0.0, bytes_per_s: int = 0) -> Iterator[Origin]:
    """Runs an origin over ``folder`` on the load generator's core until the block ends."""
    port = free_port()
    command = [sys.executable, "-m", "bench.servers.origin", str(port), str(folder)]
    with (
        scratch_folder() as scratch,
        process(
            [*command, str(first_byte_s), str(bytes_per_s)],
            log=scratch / "origin.log",
            ready=lambda: accepts(port),
            core=LOAD_CORE,
        ),
    ):
        yield Origin(port)


@dataclass(frozen=True, slots=True)
class _Object:
    size_bytes: int
    etag: str
    last_modified: str
    file: BinaryIO | None

    def read(self, start: int, size_bytes: int) -> bytes:
        """Bytes from ``start``, at most ``size_bytes``."""
        if self.file is not None:
            return os.pread(self.file.fileno(), size_bytes, start)
        phase = start % 256
        return _PATTERN[phase : phase + min(size_bytes, self.size_bytes - start)]


class _Server:
    """Serves keep-alive connections; responds to requests in order."""

    def __init__(self, folder: Path, first_byte_s: float, bytes_per_s: int) -> None:
        self._folder = folder
        self._first_byte_s = first_byte_s
        self._bytes_per_s = bytes_per_s
        self._files: dict[str, _Object] = {}
        self._stats = Stats()

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # With no buffer of ours, the bytes counted as sent are in the kernel.
        writer.transport.set_write_buffer_limits(high=0)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await self._respond(head.decode("latin-1"), writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            return  # the client has closed the connection
        finally:
            writer.close()

    async def _respond(self, head: str, writer: asyncio.StreamWriter) -> None:
        request_line, *lines = head.split("\r\n")
        method, url, _ = request_line.split(" ", 2)
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines)
        }
        path = url.partition("?")[0]
        if path == STATS_PATH:
            await _send(writer, "200 OK", {}, json.dumps(asdict(self._stats)).encode())
            return
        if path == RESET_PATH:
            self._stats = Stats()
            await _send(writer, "200 OK", {}, b"{}")
            return
        self._stats.requests += 1
        await asyncio.sleep(self._first_byte_s)
        target = self._find(path.rpartition("/")[2])
        if target is None:
            await _send(writer, "404 Not Found", {}, b"")
            return
        if headers.get("if-match", target.etag) not in (target.etag, "*"):
            await _send(writer, "412 Precondition Failed", {}, b"")
            return
        validators = {
            "ETag": target.etag,
            "Last-Modified": target.last_modified,
            "Accept-Ranges": "bytes",
        }
        if headers.get("if-none-match") == target.etag:
            await _send(writer, "304 Not Modified", validators, None)
            return
        await self._send_object(target, method, headers.get("range"), validators, writer)

    async def _send_object(
        self,
        target: _Object,
        method: str,
        range_value: str | None,
        validators: dict[str, str],
        writer: asyncio.StreamWriter,
    ) -> None:
        start, end, status = 0, target.size_bytes, "200 OK"
        if range_value is not None and (span := _span(range_value, target.size_bytes)) is not None:
            start, end = span
            status = "206 Partial Content"
            if start >= end:
                content_range = {"Content-Range": f"bytes */{target.size_bytes}"}
                await _send(writer, "416 Range Not Satisfiable", content_range, b"")
                return
            validators["Content-Range"] = f"bytes {start}-{end - 1}/{target.size_bytes}"
        validators["Content-Length"] = str(end - start)
        validators["Content-Type"] = "video/mp4"
        await _send(writer, status, validators, None)
        if method != "HEAD":
            await self._send_body(target, start, end, writer)

    async def _send_body(
        self, target: _Object, start: int, end: int, writer: asyncio.StreamWriter
    ) -> None:
        rate = self._bytes_per_s
        piece_bytes = max(1, int(rate * PIECE_S)) if rate else UNTHROTTLED_PIECE_BYTES
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        position = start
        while position < end:
            piece = target.read(position, min(piece_bytes, end - position))
            writer.write(piece)
            await writer.drain()
            position += len(piece)
            self._stats.body_bytes += len(piece)
            if rate:  # relative to the body's start, so that late timers do not add up
                await asyncio.sleep(began_s + (position - start) / rate - loop.time())

    def _find(self, name: str) -> _Object | None:
        if name in self._files:
            return self._files[name]
        synthetic = re.fullmatch(r"synthetic-(\d{1,11})(\.\w+)?", name)
        if synthetic and int(synthetic[1]) <= SYNTHETIC_LIMIT_BYTES:
            target = _Object(int(synthetic[1]), f'"{name}"', formatdate(0, usegmt=True), None)
        elif name and (path := self._folder / name).is_file():
            status = path.stat()
            target = _Object(
                status.st_size,
                f'"{status.st_size:x}-{status.st_mtime_ns:x}"',
                formatdate(status.st_mtime, usegmt=True),
                path.open("rb", buffering=0),
            )
        else:
            return None
        self._files[name] = target
        return target


def _span(range_value: str, size_bytes: int) -> tuple[int, int] | None:
    """The half-open span of a single-range ``Range`` field (RFC 9110 §14.2); None: ignore it."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", range_value)
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        return max(0, size_bytes - int(match[2])), size_bytes
    last = int(match[2]) if match[2] else size_bytes - 1
    return int(match[1]), min(last + 1, size_bytes)


async def _send(
    writer: asyncio.StreamWriter, status: str, headers: dict[str, str], body: bytes | None
) -> None:
    """Sends a head, and ``body`` with its length unless it is None."""
    if body is not None:
        headers = {**headers, "Content-Length": str(len(body))}
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers.items())]
    writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b""))
    await writer.drain()


async def _serve(port: int, folder: Path, first_byte_s: float, bytes_per_s: int) -> None:
    server = await asyncio.start_server(
        _Server(folder, first_byte_s, bytes_per_s).connection,
        LOOPBACK,
        port,
        backlog=4096,
        limit=HEADER_LIMIT_BYTES,
    )
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])))
