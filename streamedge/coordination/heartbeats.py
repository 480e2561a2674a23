"""Whether the edge's processes still run: a word of shared memory for each, which it keeps moving.

Once a second a process's event loop writes the time into its own word. A loop that is stuck, in
Python code or in a system call, or that is stopped, writes no more. The supervisor looks once a
second and judges by the time that *it* has seen pass, so neither a machine that slept nor a
supervisor that was stopped makes a process look silent; time in which a process waited for a
processor does not count either.

Beside the beats lie the supervisor's counts of processes that ended, and whether each process can
use the cache folder, for ``/healthz`` and ``/metrics``.
"""

from __future__ import annotations

import asyncio
import mmap
import time
from collections.abc import Iterator, Sequence
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client import Metric

BEAT_INTERVAL_S = 1.0
LATE_S = 5.0  # without a beat /healthz says so
HUNG_S = 10.0  # without a beat a process is replaced
HUNG_DRAINING_S = 5.0  # … and sooner when the edge is to end
STARTING_S = 60.0  # for the first beat
LOOK_COUNTS_S = 2.0  # most that one look adds: whoever looks may have been stopped itself

_WORD_BYTES = 8
_BEAT, _FOLDER, _EXITED, _KILLED, _HUNG = range(5)
_WORDS = 8  # one cache line for each process


class End(IntEnum):
    """How a process ended: by itself, by a signal, or by the supervisor because it hung."""

    EXITED = _EXITED
    KILLED = _KILLED
    HUNG = _HUNG


class Heartbeats:
    """Made before the processes are forked; each is known by its place in ``names``."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        size = max(1, len(self.names)) * _WORDS * _WORD_BYTES
        self._words = memoryview(mmap.mmap(-1, size)).cast("Q")

    # A process's own part

    def beat(self, process: int) -> None:
        """Notes that the process runs."""
        self._words[process * _WORDS + _BEAT] = int(time.monotonic() * 1000)

    def start_beating(self, process: int, loop: asyncio.AbstractEventLoop) -> None:
        """Beats as long as ``loop`` runs."""

        def beat() -> None:
            self.beat(process)
            loop.call_later(BEAT_INTERVAL_S, beat)

        beat()

    def note_folder(self, process: int, *, is_usable: bool) -> None:
        """Notes whether the process can use the cache folder."""
        self._words[process * _WORDS + _FOLDER] = 1 if is_usable else 2

    # The supervisor's part

    def begin(self, process: int) -> None:
        """Forgets what the last process in this place noted: another is about to be forked."""
        self._words[process * _WORDS + _BEAT] = 0
        self._words[process * _WORDS + _FOLDER] = 0

    def count_end(self, process: int, end: End) -> None:
        """Counts a process that has ended, and is to be replaced."""
        self._words[process * _WORDS + end] += 1

    # Everybody's

    def last_beat(self, process: int) -> int:
        """Moves with each beat; 0 before the first."""
        return self._words[process * _WORDS + _BEAT]

    def silent_s(self, process: int) -> float:
        """How long ago the process beat; 0 before its first beat."""
        beat = self.last_beat(process)
        return max(0.0, time.monotonic() - beat / 1000) if beat else 0.0

    def lacks_folder(self, process: int) -> bool:
        """Whether the process has found the cache folder unusable."""
        return self._words[process * _WORDS + _FOLDER] == 2

    def ends(self, process: int, end: End) -> int:
        """How many processes in this place have ended so."""
        return self._words[process * _WORDS + end]

    def metrics(self) -> Iterator[Metric]:
        """What is noted here, for Prometheus."""
        from prometheus_client.core import (  # noqa: PLC0415  # for the control process alone
            CounterMetricFamily,
            GaugeMetricFamily,
        )

        ends = CounterMetricFamily(
            "streamedge_process_ends",
            "Processes that ended and were replaced, by how they ended",
            labels=["process", "reason"],
        )
        silent = GaugeMetricFamily(
            "streamedge_process_silent_seconds",
            "Time since a process's event loop ran last",
            labels=["process"],
        )
        folder = GaugeMetricFamily(
            "streamedge_cache_folder_usable",
            "Whether a process can use the cache folder",
            labels=["process"],
        )
        for process, name in enumerate(self.names):
            for end in End:
                ends.add_metric([name, end.name.lower()], self.ends(process, end))
            silent.add_metric([name], round(self.silent_s(process), 3))
            folder.add_metric([name], 0 if self.lacks_folder(process) else 1)
        yield from (ends, silent, folder)


class Watch:
    """How long one process has been silent, as its supervisor has seen it."""

    __slots__ = ("_beat", "silent_s")

    def __init__(self) -> None:
        self._beat = 0
        self.silent_s = 0.0

    def look(self, beat: int, elapsed_s: float, waited_s: float = 0.0) -> None:
        """Takes note of the last beat, ``elapsed_s`` after the last look.

        ``waited_s``: of that time, how long the process was ready to run and got no processor.
        """
        if beat != self._beat:
            self._beat = beat
            self.silent_s = 0.0
        else:
            self.silent_s += max(0.0, min(elapsed_s, LOOK_COUNTS_S) - waited_s)

    def is_hung(self, *, is_draining: bool) -> bool:
        """Whether the process is to be replaced."""
        if not self._beat:
            return self.silent_s >= STARTING_S
        return self.silent_s >= (HUNG_DRAINING_S if is_draining else HUNG_S)


def waited_for_processor_s(pid: int) -> float:
    """How long a process's main thread has waited for a processor since it began; 0 if unknown."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


def is_traced(pid: int) -> bool:
    """Whether a debugger holds the process."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    tracer = status.partition("TracerPid:")[2].split(maxsplit=1)
    return bool(tracer) and tracer[0] != "0"
