"""One line for each event, as JSON, written in batches.

Owns the shape of a line: ``time``, ``event``, ``worker``, then the event's own fields; None is
left out. A line costs its formatting only: lines gather and are written together by ``flush``,
100 ms after the first of them (``write_on``), so a killed process loses at most that much, and one
that says nothing need not wake.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

FLUSH_INTERVAL_S = 0.1
GATHERED_LINES_MAX = 4096

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, default=str).encode


class Log:
    """Where a process's lines go: a descriptor, kept open."""

    __slots__ = ("_fd", "_gathered", "_gathering", "_lines", "dropped", "process")

    def __init__(self, fd: int, process: str) -> None:
        self._fd = fd
        self.process = process
        self._lines: list[str | Callable[[], Sequence[str]]] = []
        self._gathered = 0  # lines
        self._gathering: partial[asyncio.TimerHandle] | None = None
        self.dropped = 0

    def write_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on lines are flushed by ``loop``, soon after they have begun to gather."""
        self._gathering = partial(loop.call_later, FLUSH_INTERVAL_S, self.flush)
        self.flush()

    def event(self, event: str, **fields: Any) -> None:
        """Adds a line. Values are JSON values; anything else is written as its str()."""
        line = {"time": round(time.time(), 3), "event": event, "process": self.process}
        line |= {name: value for name, value in fields.items() if value is not None}
        self.line(_encode(line))

    def line(self, line: str) -> None:
        """Adds a line that is JSON already."""
        self._gather(line, 1)

    def lines(self, count: int, put_together: Callable[[], Sequence[str]]) -> None:
        """Adds ``count`` lines that will be JSON when all that gathered is written.

        Put together one after the other lines cost less than each between a socket and the next.
        """
        self._gather(put_together, count)

    def _gather(self, lines: str | Callable[[], Sequence[str]], count: int) -> None:
        is_first = not self._lines
        self._lines.append(lines)
        self._gathered += count
        if self._gathered >= GATHERED_LINES_MAX:
            self.flush()
        elif is_first and self._gathering is not None:
            self._gathering()

    def flush(self) -> None:
        """Writes what has gathered; lines that the descriptor refuses are counted in ``dropped``.

        A log that cannot be written (disk full, a closed pipe) must not stop the edge.
        """
        if not self._lines:
            return
        gathered, self._lines, self._gathered = self._lines, [], 0
        lines: list[str] = []
        for each in gathered:
            if isinstance(each, str):
                lines.append(each)
            else:
                lines += each()
        lines.append("")
        data = "\n".join(lines).encode("utf-8", "backslashreplace")
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except OSError:
                self.dropped += len(lines) - 1
                return


def open_log(target: str, process: str) -> Log:
    """A log to ``stdout``, ``stderr`` or, appending, the file named. Raises OSError."""
    if target == "stdout":
        return Log(1, process)
    if target == "stderr":
        return Log(2, process)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    return Log(os.open(target, flags, 0o644), process)
