"""Heartbeats of the edge's processes in shared memory.

Once a second the event loop of each process writes the time into the process's own word. A loop
that is stuck, in Python code or in a system call, or that is stopped, no longer writes. The
supervisor checks once a second and counts only the time that it has measured itself, so a suspended
machine or a stopped supervisor does not make a process look silent. Time in which a process waited
for a processor does not count either.

The same memory has the supervisor's counts of ended processes, and whether each process can use the
cache folder, for ``/healthz`` and ``/metrics``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING

from streamedge.ops.shared_words import SharedWords

if TYPE_CHECKING:
    from prometheus_client import Metric

BEAT_INTERVAL_S = 1.0
LATE_S = 5.0  # without a heartbeat: /healthz reports it
HUNG_S = 10.0  # without a heartbeat: the process is replaced
HUNG_DRAINING_S = 5.0  # … while the edge drains
STARTING_S = 60.0  # for the first heartbeat
UPDATE_MAX_S = 2.0  # the most that one check adds: the supervisor may have been stopped

_BEAT, _FOLDER, _EXITED, _KILLED, _HUNG = range(5)
_WORDS = 8  # one cache line for each process


class End(IntEnum):
    """How a process ended: by itself, by a signal, or killed by the supervisor because it hung."""

    EXITED = _EXITED
    KILLED = _KILLED
    HUNG = _HUNG


class Heartbeats:
    """Created before the processes are forked; a process's number is its index in ``names``."""

    def __init__(self, names: Sequence[str], shared: SharedWords | None = None) -> None:
        """``shared``: the memory of processes that run already (``process.handover``)."""
        self.names = tuple(names)
        self._shared = shared or SharedWords("streamedge-heartbeats", len(self.names) * _WORDS)
        self._words = self._shared.words

    @property
    def descriptor(self) -> int:
        """The file descriptor of the memory."""
        return self._shared.descriptor

    # For each process.

    def beat(self, process: int) -> None:
        """Writes the time of a heartbeat."""
        self._words[process * _WORDS + _BEAT] = int(time.monotonic() * 1000)

    def start_beating(self, process: int, loop: asyncio.AbstractEventLoop) -> None:
        """Writes a heartbeat every BEAT_INTERVAL_S while ``loop`` runs."""

        def beat() -> None:
            self.beat(process)
            loop.call_later(BEAT_INTERVAL_S, beat)

        beat()

    def note_folder(self, process: int, *, lacks: bool) -> None:
        """Notes whether the process can use the cache folder."""
        self._words[process * _WORDS + _FOLDER] = 2 if lacks else 1

    # For the supervisor.

    def reset(self, process: int) -> None:
        """Clears the notes of a process's predecessor before a fork."""
        self._words[process * _WORDS + _BEAT] = 0
        self._words[process * _WORDS + _FOLDER] = 0

    def count_end(self, process: int, end: End) -> None:
        """Counts a process that has ended and will be replaced."""
        self._words[process * _WORDS + end] += 1

    def continue_counts(self, earlier: Heartbeats) -> None:
        """Continues the counts of ended processes of the same names."""
        for process, name in enumerate(self.names):
            if name in earlier.names:
                before = earlier.names.index(name)
                for end in End:
                    self._words[process * _WORDS + end] = earlier.ends(before, end)

    # For every process.

    def last_beat(self, process: int) -> int:
        """The time of the last heartbeat in ms; 0 before the first."""
        return self._words[process * _WORDS + _BEAT]

    def silent_s(self, process: int) -> float:
        """Seconds since the last heartbeat; 0 before the first."""
        beat = self.last_beat(process)
        return max(0.0, time.monotonic() - beat / 1000) if beat else 0.0

    def lacks_folder(self, process: int) -> bool:
        """Whether the process cannot use the cache folder, and should."""
        return self._words[process * _WORDS + _FOLDER] == 2

    def ends(self, process: int, end: End) -> int:
        """How many processes with this number have ended like this."""
        return self._words[process * _WORDS + end]

    def metrics(self) -> Iterator[Metric]:
        """The metrics of all processes, for Prometheus."""
        from prometheus_client.core import (  # noqa: PLC0415  # only the control process needs it
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
            "Whether a process can use the cache folder, or may run without it",
            labels=["process"],
        )
        for process, name in enumerate(self.names):
            for end in End:
                ends.add_metric([name, end.name.lower()], self.ends(process, end))
            silent.add_metric([name], round(self.silent_s(process), 3))
            folder.add_metric([name], 0 if self.lacks_folder(process) else 1)
        yield from (ends, silent, folder)


class Watch:
    """How long one process has been silent, measured by its supervisor."""

    __slots__ = ("_beat", "silent_s")

    def __init__(self) -> None:
        self._beat = 0
        self.silent_s = 0.0

    def update(self, beat: int, elapsed_s: float, waited_s: float = 0.0) -> None:
        """Processes the last heartbeat, ``elapsed_s`` after the previous update.

        ``waited_s`` is the part of that time in which the process was ready but had no processor.
        """
        if beat != self._beat:
            self._beat = beat
            self.silent_s = 0.0
        else:
            self.silent_s += min(max(0.0, elapsed_s - waited_s), UPDATE_MAX_S)

    def is_hung(self, *, is_draining: bool) -> bool:
        """Whether the process has been silent for so long that it must be replaced."""
        if not self._beat:
            return self.silent_s >= STARTING_S
        return self.silent_s >= (HUNG_DRAINING_S if is_draining else HUNG_S)


def waited_for_processor_s(pid: int) -> float:
    """Seconds that a process's main thread has waited for a processor so far; 0 if unknown."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


def is_traced(pid: int) -> bool:
    """Whether a debugger is attached to the process."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    tracer = status.partition("TracerPid:")[2].split(maxsplit=1)
    return bool(tracer) and tracer[0] != "0"
