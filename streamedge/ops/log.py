"""One line for each event, as JSON, written in batches.

Owns the shape of a line: ``time``, ``event``, ``worker``, then the event's own fields; None is
left out. A line costs its formatting only: lines gather and are written together by ``flush``
(each 100 ms by the process's loop), so a killed process loses at most that much.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

FLUSH_INTERVAL_S = 0.1
GATHERED_LINES_MAX = 4096

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, default=str).encode


class Log:
    """Where a process's lines go: a descriptor, kept open."""

    __slots__ = ("_fd", "_lines", "dropped", "process")

    def __init__(self, fd: int, process: str) -> None:
        self._fd = fd
        self.process = process
        self._lines: list[str] = []
        self.dropped = 0

    def event(self, event: str, **fields: Any) -> None:
        """Adds a line. Values are JSON values; anything else is written as its str()."""
        line = {"time": round(time.time(), 3), "event": event, "process": self.process}
        line |= {name: value for name, value in fields.items() if value is not None}
        self.line(_encode(line))

    def line(self, line: str) -> None:
        """Adds a line that is JSON already."""
        self._lines.append(line)
        if len(self._lines) >= GATHERED_LINES_MAX:
            self.flush()

    def flush(self) -> None:
        """Writes what has gathered; lines that the descriptor refuses are counted in ``dropped``.

        A log that cannot be written (disk full, a closed pipe) must not stop the edge.
        """
        if not self._lines:
            return
        lines, self._lines = self._lines, []
        data = ("\n".join(lines) + "\n").encode("utf-8", "backslashreplace")
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except OSError:
                self.dropped += len(lines)
                return


def open_log(target: str, process: str) -> Log:
    """A log to ``stdout``, ``stderr`` or, appending, the file named. Raises OSError."""
    if target == "stdout":
        return Log(1, process)
    if target == "stderr":
        return Log(2, process)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    return Log(os.open(target, flags, 0o644), process)
