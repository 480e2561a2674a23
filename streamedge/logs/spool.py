"""A worker's side of the spool: it appends the lines of access logs to files in the edge's folder.

Lines gather for FLUSH_INTERVAL_S and are written by a thread, one write for each file, so the event
loop never waits for the disk. A file has the lines of one distribution and hour; its writer holds a
lock on it until it is complete: at the end of the delivery interval, at SEGMENT_BYTES, or when the
process ends, however it ends. The control process takes complete files (``batches``).

Many lines at once are compressed: that costs less than to write them and to read them again later.
Few lines, which hardly become shorter, gather in a file of their own.

Whole lines are written or none: where the disk takes only a part, the file is cut back, and the
lines are dropped and counted. Lines for which there is no memory are dropped and counted, too.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from streamedge.logs.blocks import compress_block
from streamedge.logs.spool_names import HOUR_S, SegmentName, SpoolTarget, due_s
from streamedge.ops.log import FORMAT_LINES, Log
from streamedge.ops.metrics import Counter, Counts
from streamedge.ops.rate_limited import RateLimitedEvent
from streamedge.ops.threads import Threads

FLUSH_INTERVAL_S = 0.2
FLUSH_LINES = 2048  # that are written before the interval is over
GATHERED_LINES_MAX = 65_536  # while the disk is slow: at most 64 MiB
SEGMENT_BYTES = 8 << 20
COMPRESSED_FROM_BYTES = 64 << 10  # of lines that are written together
CLOSE_PAUSE_S = 0.05  # the shortest time to the next check for complete files
NEW_PREFIX = ".new-"

Lines: TypeAlias = "Iterable[tuple[SpoolTarget, bytes]]"
"""Lines with their ends, one or several together, and the logs that they belong to."""

_Batch = TypeVar("_Batch")


class SpoolWriter:
    """The access logs of one process. All methods are called in the event loop's thread."""

    def __init__(self, folder: Path, process: str, log: Log, counts: Counts) -> None:
        self._files = _SegmentFiles(folder, process)
        self._counts = counts
        self._failed = RateLimitedEvent(log, "access_log_write_failed")
        self._dropped = RateLimitedEvent(log, "access_log_lines_dropped")
        self._loop = asyncio.get_running_loop()
        self._gathered: list[_Gathered] = []
        self._unformatted_lines = 0  # in ``_gathered``
        self._formatted: dict[tuple[SpoolTarget, int], list[bytes]] = {}
        self._gathered_lines = 0  # in both
        self._flushing: asyncio.TimerHandle | None = None
        self._closing: asyncio.TimerHandle | None = None  # of the segments that are due
        self._writing: asyncio.Future[None] | None = None
        self._thread: Threads | None = None

    def add(self, lines: int, ended_s: float, make_lines: Callable[[], Lines]) -> None:
        """Adds lines of events at ``ended_s``, in seconds since 1970.

        ``make_lines`` formats them later; again, if other lines could not be formatted.
        """
        self.add_batch(lines, ended_s, make_lines, _lines_of_each)

    def add_batch(
        self,
        lines: int,
        ended_s: float,
        batch: _Batch,
        make_lines: Callable[[Sequence[_Batch]], Lines],
    ) -> None:
        """The same, where ``make_lines`` formats many batches in less time than one after another.

        It gets batches of one hour that were added with the same function one after the other.
        """
        if self._gathered_lines + lines > GATHERED_LINES_MAX:
            self._drop(lines, "the disk is slow")
            return
        hour = ended_s // HOUR_S
        gathered = self._gathered[-1] if self._gathered else None
        if gathered is None or gathered.make_lines is not make_lines or gathered.hour != hour:
            gathered = _Gathered(hour, make_lines, [], [])
            self._gathered.append(gathered)
        gathered.batches.append(batch)
        gathered.lines.append(lines)
        self._gathered_lines += lines
        self._unformatted_lines += lines
        if self._unformatted_lines >= FORMAT_LINES:
            self._format()
        if self._gathered_lines >= FLUSH_LINES:
            self.flush()
        elif self._flushing is None:
            self._flushing = self._loop.call_later(FLUSH_INTERVAL_S, self.flush)

    def flush(self) -> None:
        """Begins to write the lines that have gathered, unless a write is running."""
        if self._writing is not None:
            return  # ``_written`` calls it again
        self._cancel_timers()
        if not self._gathered_lines and not self._files.is_open:
            return
        try:
            executor = self._executor
        except RuntimeError as exc:  # too many processes, or no memory: the lines wait
            self._report_failure(0, None, str(exc))
            self._flushing = self._loop.call_later(FLUSH_INTERVAL_S, self.flush)
            return
        pieces = self._take_pieces()
        if pieces or self._files.is_open:
            self._writing = self._loop.run_in_executor(executor, self._write, pieces)
            self._writing.add_done_callback(self._written)

    async def close(self) -> None:
        """Writes the rest and completes all files."""
        while self._writing is not None:
            await asyncio.wait([self._writing])
        self._cancel_timers()
        pieces = self._take_pieces()
        if pieces or self._files.is_open:
            try:
                executor = self._executor
            except RuntimeError:  # no thread can be started, and the process ends
                self._write(pieces)
                self._files.close()
                return
            await self._loop.run_in_executor(executor, self._write, pieces)
            await self._loop.run_in_executor(executor, self._files.close)
        if self._thread is not None:
            self._thread.shutdown()

    @property
    def _executor(self) -> Threads:
        """Raises RuntimeError while no thread can be started."""
        if self._thread is None:
            self._thread = Threads(1, "access-log")
        return self._thread

    def _cancel_timers(self) -> None:
        for timer in (self._flushing, self._closing):
            if timer is not None:
                timer.cancel()
        self._flushing = self._closing = None

    def _format(self) -> None:
        all_gathered, self._gathered, self._unformatted_lines = self._gathered, [], 0
        for gathered in all_gathered:
            try:
                formatted = list(gathered.make_lines(gathered.batches))
            except Exception:  # noqa: BLE001 - a defect in one line loses no other line
                formatted = self._each_alone(gathered)
            for target, lines in formatted:
                self._formatted.setdefault((target, int(gathered.hour)), []).append(lines)

    def _each_alone(self, gathered: _Gathered) -> list[tuple[SpoolTarget, bytes]]:
        """The lines of the batches for which they can be made."""
        formatted: list[tuple[SpoolTarget, bytes]] = []
        for batch, number in zip(gathered.batches, gathered.lines, strict=True):
            try:
                formatted += list(gathered.make_lines([batch]))
            except Exception as exc:  # noqa: BLE001 - the same
                self._report_failure(number, None, repr(exc), "fault")
        return formatted

    def _take_pieces(self) -> _Pieces:
        self._format()
        formatted, self._formatted, self._gathered_lines = self._formatted, {}, 0
        return formatted

    def _write(self, pieces: _Pieces) -> None:
        """Runs in the thread."""
        for (target, hour), lines in pieces.items():
            try:
                self._files.append(target, hour, lines)
            except OSError as exc:
                lost = sum(piece.count(b"\n") for piece in lines)
                report = partial(self._report_failure, lost, target.distribution, str(exc))
                self._loop.call_soon_threadsafe(report)
        self._files.close_due()

    def _written(self, writing: asyncio.Future[None]) -> None:
        self._writing = None
        if writing.cancelled():
            return
        if (failure := writing.exception()) is not None:
            self._report_failure(0, None, repr(failure))
        self._cancel_timers()
        if self._gathered_lines:
            self._flushing = self._loop.call_later(FLUSH_INTERVAL_S, self.flush)
        elif (pause_s := self._files.seconds_to_close()) is not None:
            self._closing = self._loop.call_later(pause_s, self.flush)

    def _report_failure(
        self, lines: int, distribution: str | None, error: str, label: str = "disk"
    ) -> None:
        self._counts.add(Counter.ACCESS_LOG_LINES_DROPPED, label, lines)
        self._failed.emit(self._loop.time(), distribution=distribution, lines=lines, error=error)

    def _drop(self, lines: int, reason: str) -> None:
        self._counts.add(Counter.ACCESS_LOG_LINES_DROPPED, "memory", lines)
        self._dropped.emit(self._loop.time(), lines=lines, reason=reason)


@dataclass(slots=True)
class _Gathered:
    """Batches of one hour, with the number of lines of each, and what formats them."""

    hour: float  # hours since 1970
    make_lines: Callable[[Sequence[Any]], Lines]
    batches: list[Any]
    lines: list[int]


def _lines_of_each(makers: Sequence[Callable[[], Lines]]) -> Lines:
    return [lines for make_lines in makers for lines in make_lines()]


_Pieces: TypeAlias = "dict[tuple[SpoolTarget, int], list[bytes]]"
"""Whole lines, one or several in a piece, by log and hour."""


@dataclass(slots=True)
class _Segment:
    fd: int
    due_s: int
    size_bytes: int = 0


class _SegmentFiles:
    """The segments that this process writes; one thread uses them at a time."""

    def __init__(self, folder: Path, process: str) -> None:
        self._folder = folder
        self._process = process
        self._numbers = count()
        # By log, hour, and whether the lines are compressed.
        self._open: dict[tuple[SpoolTarget, int, bool], _Segment] = {}

    @property
    def is_open(self) -> bool:
        """Whether any segment is open."""
        return bool(self._open)

    def seconds_to_close(self) -> float | None:
        """The time until the next segment is due; None when none is open."""
        if not self._open:
            return None
        due_s = min(segment.due_s for segment in self._open.values())
        return max(CLOSE_PAUSE_S, due_s - time.time())

    def append(self, target: SpoolTarget, hour: int, lines: Sequence[bytes]) -> None:
        """Appends whole lines. Raises OSError if they are not written; then none of them is."""
        is_compressed = sum(map(len, lines)) >= COMPRESSED_FROM_BYTES
        data = compress_block(lines) if is_compressed else b"".join(lines)
        key = target, hour, is_compressed
        segment = self._open.get(key)
        if segment is None:
            segment = self._open[key] = self._create(*key)
        try:
            written = os.write(segment.fd, data)
            if written < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            os.ftruncate(segment.fd, segment.size_bytes)
            raise
        segment.size_bytes += written
        if segment.size_bytes >= SEGMENT_BYTES:
            os.close(self._open.pop(key).fd)

    def close_due(self) -> None:
        """Completes the segments whose interval is over."""
        now_s = time.time()
        for key, segment in list(self._open.items()):
            if segment.due_s <= now_s:
                os.close(self._open.pop(key).fd)

    def close(self) -> None:
        """Completes all segments."""
        while self._open:
            os.close(self._open.popitem()[1].fd)

    def _create(self, target: SpoolTarget, hour: int, is_compressed: bool) -> _Segment:
        """A new file, locked before it has its name, so that it is never taken for complete."""
        due = due_s(target.interval_s, time.time())
        writer = f"{self._process}-{os.getpid():x}-{next(self._numbers):x}"
        name = SegmentName(target.distribution, target.format, hour, due, writer, is_compressed)
        new = self._folder / f"{NEW_PREFIX}{writer}"
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            new.rename(self._folder / str(name))
        except OSError:
            os.close(fd)
            raise
        return _Segment(fd, due)
