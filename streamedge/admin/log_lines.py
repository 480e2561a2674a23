"""The edge's log on the admin address, while it is written.

    GET /log                            the file's path; 409 where the log is not a file
    GET /log/stream?event=E&match=TEXT  lines as server-sent events: the newest ones, then new ones

The file is read, so that processes that write the log do nothing for its readers. It is read again
every READ_INTERVAL_S while there are streams, also after a rotation. Lines hold what viewers have
sent: they are data for a program, never markup.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

STREAMS_MAX = 16
READ_INTERVAL_S = 0.25
READ_BYTES_MAX = 256 << 10  # at once; what a reader is further behind is left out
FIRST_BYTES = 64 << 10  # of the log before a stream begins
SILENCE_INTERVALS = 60  # without a line, after which a comment shows that the stream lives
FILTER_CHARACTERS_MAX = 200


@dataclass(frozen=True, slots=True)
class LineFilter:
    """Which lines are sent: those of an event, and with a text in any case; "" is any."""

    event: str = ""
    match: str = ""

    def selects(self, line: bytes) -> bool:
        """Whether a line is sent; one that is no JSON object never is."""
        if self.match and self.match.lower() not in line.decode(errors="replace").lower():
            return False
        try:
            document = json.loads(line)
        except (ValueError, RecursionError):
            return False
        return isinstance(document, dict) and self.event in {"", document.get("event")}


class LogFile:
    """The end of a file that other processes append to, rename and truncate. Its calls block."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._identity: tuple[int, int] | None = None
        self._offset = 0
        self._rest = b""

    def open_at_end(self, before_bytes: int) -> None:
        """Begins ``before_bytes`` before the file's end, at the next whole line. Raises OSError."""
        descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            self._identity = status.st_dev, status.st_ino
            self._offset = max(0, status.st_size - before_bytes)
            if self._offset and os.pread(descriptor, 1, self._offset - 1) != b"\n":
                self._rest = b"\0"  # makes the first, cut line no JSON
        finally:
            os.close(descriptor)

    def read(self) -> list[bytes]:
        """The whole lines that were added; none where there is no file now."""
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return []
        try:
            status = os.fstat(descriptor)
            identity = status.st_dev, status.st_ino
            if identity != self._identity or status.st_size < self._offset:
                self._identity, self._offset, self._rest = identity, 0, b""
            if status.st_size - self._offset > READ_BYTES_MAX:
                self._offset, self._rest = status.st_size - READ_BYTES_MAX, b"\0"
            content = os.pread(descriptor, READ_BYTES_MAX, self._offset)
        finally:
            os.close(descriptor)
        self._offset += len(content)
        *lines, self._rest = (self._rest + content).split(b"\n")
        return lines


def log_routes(target: str | Path, is_closed: Callable[[], bool]) -> list[Route]:
    """The routes. ``target``: ``edge.log``; ``is_closed``: whether the process ends."""
    streams = 0

    def path() -> Path:
        if not isinstance(target, Path):
            reason = (
                f"the log goes to {target}: read it where that leads (a service: journalctl -f),"
                " or set edge.log to a file"
            )
            raise HTTPException(409, reason)
        return target

    async def place(_request: Request) -> Response:
        return JSONResponse({"file": str(path())})

    async def stream(request: Request) -> Response:
        if streams >= STREAMS_MAX:
            raise HTTPException(503, f"{STREAMS_MAX} readers of the log are the most")
        query = request.query_params
        chosen = LineFilter(
            query.get("event", "")[:FILTER_CHARACTERS_MAX],
            query.get("match", "")[:FILTER_CHARACTERS_MAX],
        )
        file = LogFile(path())
        try:
            await asyncio.to_thread(file.open_at_end, FIRST_BYTES)
        except OSError as exc:
            raise HTTPException(404, f"the log cannot be read: {exc.strerror}") from exc
        return _LogStream(_events(file, chosen, is_closed), media_type="text/event-stream")

    class _LogStream(StreamingResponse):
        """Counts the stream until its end."""

        async def __call__(self, *arguments: Any) -> None:
            nonlocal streams
            streams += 1
            try:
                await super().__call__(*arguments)
            finally:
                streams -= 1

    return [Route("/log", place), Route("/log/stream", stream)]


async def _events(
    file: LogFile, chosen: LineFilter, is_closed: Callable[[], bool]
) -> AsyncIterator[bytes]:
    yield b"retry: 2000\n\n"
    silent = 0
    while not is_closed():
        events = await asyncio.to_thread(_next_events, file, chosen)
        silent = 0 if events else silent + 1
        if events:
            yield events
        elif silent % SILENCE_INTERVALS == 0:
            yield b": no line\n\n"
        await asyncio.sleep(READ_INTERVAL_S)


def _next_events(file: LogFile, chosen: LineFilter) -> bytes:
    return b"".join(_as_events(file.read(), chosen))


def _as_events(lines: list[bytes], chosen: LineFilter) -> Iterator[bytes]:
    for line in lines:
        if chosen.selects(line):
            # A carriage return would end the field; JSON has none outside of its escapes.
            yield b"data: " + line.replace(b"\r", b"") + b"\n\n"
