"""Log lines: one JSON object each, gathered and written together.

A line has ``time``, ``event``, ``process`` and then the fields of the event; fields that are None
are omitted. Adding a line costs only its formatting: lines gather for 100 ms and are written
together, so a killed process loses at most 100 ms of lines, and an idle process does not wake.

Writing never waits for the reader of the log. Lines that cannot be written yet are buffered, up to
``buffer_bytes``; further lines are dropped and counted, and a line ``log_lines_dropped`` has their
number once the log can be written again. A line that cannot be made, because of a defect, loses no
other: it is dropped, too, and a line ``log_line_failed`` has the error.
"""

from __future__ import annotations

import asyncio
import json
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias, TypeVar

from streamedge.ops.log_output import LogOutput, LogTarget

FLUSH_INTERVAL_S = 0.1
GATHERED_LINES_MAX = 4096
FORMAT_LINES = 256
"""Lines that are formatted together: then what they are made of is still in the processor's cache,
which halves their cost."""
BUFFER_BYTES = 8 << 20
FIELD_CHARACTERS_MAX = 2048  # clients control some fields; longer ones are cut
FIELD_ITEMS_MAX = 100
FAILED_INTERVAL_S = 10.0  # between lines about lines that cannot be made
RETRY_S = (0.01, 0.5)  # while the log cannot be written: first and longest pause
_CUT = "…"

_Item = TypeVar("_Item")
_Unformatted: TypeAlias = "tuple[Sequence[Any], Callable[[Sequence[Any]], bytes]]"


def _text(value: object) -> str:
    return _bounded(str(value))


def _bounded(text: str) -> str:
    return text if len(text) <= FIELD_CHARACTERS_MAX else text[:FIELD_CHARACTERS_MAX] + _CUT


_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, default=_text).encode


class Log:
    """The log of one process. ``dropped`` counts lines that were not written."""

    __slots__ = (
        "_buffer_bytes",
        "_defect",
        "_dropped_in_log",
        "_dropped_in_metric",
        "_formatted",
        "_gathered",
        "_gathering",
        "_is_off",
        "_lines",
        "_loop",
        "_output",
        "_pause_s",
        "_reported_s",
        "_retry",
        "_thread_id",
        "_unformatted",
        "_unwritten",
        "dropped",
        "process",
        "unwritten_bytes",
    )

    def __init__(self, output: LogOutput, process: str, buffer_bytes: int = BUFFER_BYTES) -> None:
        self._output = output
        self._is_off = output.is_off
        self.process = process
        self._buffer_bytes = buffer_bytes
        self._lines: list[str | _Unformatted] = []
        self._unformatted = 0  # lines in ``_lines``
        self._formatted: list[bytes] = []
        self._gathered = 0  # lines in both
        self._gathering: partial[asyncio.TimerHandle] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread_id = 0  # of the loop's thread
        self._unwritten: deque[memoryview] = deque()
        self.unwritten_bytes = 0
        self._retry: asyncio.TimerHandle | None = None
        self._pause_s = RETRY_S[0]
        self.dropped = 0
        self._dropped_in_log = 0
        self._dropped_in_metric = 0
        self._defect = ""  # the error of a line that could not be made
        self._reported_s = -math.inf  # when one was reported last

    def write_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """Makes ``loop`` flush lines FLUSH_INTERVAL_S after the first one.

        Called in the loop's thread. From then on only ``event`` may be called in other threads.
        """
        self._loop = loop
        self._thread_id = threading.get_ident()
        self._gathering = partial(loop.call_later, FLUSH_INTERVAL_S, self.flush)
        self.flush()

    def event(self, event: str, **fields: Any) -> None:
        """Adds a line. Values are JSON values; others are written as str().

        Long strings and lists are cut. May be called in any thread.
        """
        if self._is_off:
            return
        line = self._with_fields(event, fields)
        if self._loop is None or threading.get_ident() == self._thread_id:
            self.line(line)
            return
        try:
            self._loop.call_soon_threadsafe(self.line, line)
        except RuntimeError:  # the loop is closed: ``finish`` writes the line
            self._lines.append(line)

    def _with_fields(self, event: str, fields: Mapping[str, Any]) -> str:
        line = {"time": round(time.time(), 3), "event": event, "process": self.process}
        for name, value in fields.items():
            if isinstance(value, str):
                line[name] = _bounded(value)
            elif isinstance(value, list | tuple):
                line[name] = [
                    _bounded(item) if isinstance(item, str) else item
                    for item in value[:FIELD_ITEMS_MAX]
                ]
            elif value is not None:
                line[name] = value
        return _encode(line)

    def line(self, line: str) -> None:
        """Adds a line that is JSON already."""
        self._gather(line, 1)

    def lines(self, items: Sequence[_Item], make_lines: Callable[[Sequence[_Item]], bytes]) -> None:
        """Adds a line for each item: ``make_lines`` returns them as JSON, each with its end.

        It is called later, because formatting many lines at once costs less; once more for each
        item if it raises an exception.
        """
        self._gather((items, make_lines), len(items))

    def _gather(self, lines: str | _Unformatted, count: int) -> None:
        if self._is_off:
            return
        is_first = not self._gathered
        self._lines.append(lines)
        self._gathered += count
        self._unformatted += count
        if self._unformatted >= FORMAT_LINES:
            self._format()
        if self._gathered >= GATHERED_LINES_MAX:
            self.flush()
        elif is_first and self._gathering is not None:
            self._gathering()

    def flush(self) -> None:
        """Writes the gathered lines as far as possible without waiting.

        Lines that fail for good (disk full, a closed pipe) are dropped and counted.
        """
        if self._output.must_reopen:
            self._reopen()
        if self._unwritten:
            self._write()
        if self._gathered or self._lines:  # those of other threads are not counted
            self._format()
            if self._defect:
                self._report_defect()
            lines, self._formatted, self._gathered = b"".join(self._formatted), [], 0
            self._write_or_keep(lines)

    def take_dropped(self) -> int:
        """The number of lines dropped since the last call, for a metric."""
        dropped, self._dropped_in_metric = self.dropped - self._dropped_in_metric, self.dropped
        return dropped

    def finish(self, timeout_s: float = 1.0) -> None:
        """Writes the rest before the process ends; waits at most ``timeout_s`` for it."""
        deadline_s = time.monotonic() + timeout_s
        self._loop = self._gathering = None  # the loop may have ended; this waits by itself
        self.flush()
        while self._unwritten and time.monotonic() < deadline_s:
            time.sleep(RETRY_S[0])
            self.flush()

    def close(self) -> None:
        """Closes the output; unwritten lines are lost."""
        self._output.close()

    def _format(self) -> None:
        lines, formatted = self._lines, self._formatted
        self._lines, self._unformatted = [], 0
        for each in lines:
            if isinstance(each, str):
                formatted.append(_encoded(each))
                continue
            items, make_lines = each
            try:
                formatted.append(make_lines(items))
            except Exception:  # noqa: BLE001 - a defect in one line loses no other line
                formatted += self._each_alone(items, make_lines)

    def _each_alone(
        self, items: Sequence[Any], make_lines: Callable[[Sequence[Any]], bytes]
    ) -> list[bytes]:
        """The lines of the items for which one can be made."""
        lines: list[bytes] = []
        for item in items:
            try:
                lines.append(make_lines([item]))
            except Exception as exc:  # noqa: BLE001 - the same
                self.dropped += 1
                self._defect = repr(exc)
        return lines

    def _report_defect(self) -> None:
        defect, self._defect = self._defect, ""
        now_s = time.monotonic()
        if now_s - self._reported_s >= FAILED_INTERVAL_S:
            self._reported_s = now_s
            self.event("log_line_failed", error=defect)
            self._format()

    def _write_or_keep(self, data: bytes) -> None:
        """Writes lines; buffers those that must wait, and drops them when the buffer is full."""
        while data:
            free = self._buffer_bytes - self.unwritten_bytes
            part = data if len(data) <= free else data[: data.rfind(b"\n", 0, max(0, free)) + 1]
            if not part and not self._unwritten:
                part = data[: data.index(b"\n") + 1]  # one line that is longer than the buffer
            if not part:
                self.dropped += data.count(b"\n")
                return
            data = data[len(part) :]
            self._unwritten.append(memoryview(part))
            self.unwritten_bytes += len(part)
            self._write()

    def _write(self) -> None:
        wrote_any = False
        try:
            while self._unwritten:
                first = self._unwritten[0]
                written = self._output.write(first)
                wrote_any = True
                self.unwritten_bytes -= written
                if written < len(first):
                    self._unwritten[0] = first[written:]
                else:
                    self._unwritten.popleft()
        except BlockingIOError:
            self._try_again(after_progress=wrote_any)
            return
        except OSError:
            self._drop_unwritten()
            return
        self._pause_s = RETRY_S[0]
        if self.dropped > self._dropped_in_log:
            dropped, self._dropped_in_log = self.dropped - self._dropped_in_log, self.dropped
            self.event("log_lines_dropped", lines=dropped)

    def _drop_unwritten(self) -> None:
        self.dropped += sum(bytes(lines).count(b"\n") for lines in self._unwritten)
        self._unwritten.clear()
        self.unwritten_bytes = 0

    def _try_again(self, *, after_progress: bool) -> None:
        """Schedules the next write on the loop; without a loop, the next ``flush`` writes."""
        least_s, most_s = RETRY_S
        self._pause_s = least_s if after_progress else min(2 * self._pause_s, most_s)
        if self._loop is not None and self._retry is None:
            self._retry = self._loop.call_later(self._pause_s, self._write_again)

    def _write_again(self) -> None:
        self._retry = None
        if self._unwritten:
            self._write()

    def _reopen(self) -> None:
        try:
            self._output.reopen()
        except OSError as exc:
            self.event("log_not_reopened", error=str(exc))


def _encoded(line: str) -> bytes:
    return f"{line}\n".encode("utf-8", "backslashreplace")


def open_log(target: str | LogTarget, process: str, buffer_bytes: int = BUFFER_BYTES) -> Log:
    """Opens a log to ``stdout``, ``stderr``, nowhere (``off``) or a file, to which it appends.

    Raises OSError.

    Processes that write to the same target share a ``LogTarget``.
    """
    if isinstance(target, LogTarget):
        return Log(target.open(), process, buffer_bytes)
    own = LogTarget(target)
    try:
        return Log(own.open(), process, buffer_bytes)
    finally:
        own.close()
