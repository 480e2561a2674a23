"""Measures the CPU time and memory of processes, pins cores, and describes the machine."""

from __future__ import annotations

import os
import platform
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

SERVER_CORE = 0
LOAD_CORE = 1
"""Servers of one worker run on one core, load generators and origins on another."""

_PROC = Path("/proc")
_CPUCLOCK_SCHED = 2  # include/linux/posix-timers.h: run time as the scheduler counts it, in ns
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def has_two_cores() -> bool:
    """Whether server and load generator can each have a core."""
    return {SERVER_CORE, LOAD_CORE} <= os.sched_getaffinity(0)


@contextmanager
def pinned(core: int | None) -> Iterator[None]:
    """Runs the block and its child processes on ``core``; on any core for None or a single core.

    A child inherits the affinity at fork, so its start runs on ``core``, too.
    """
    before = os.sched_getaffinity(0)
    if core is not None and has_two_cores():
        os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def raise_open_files() -> int:
    """Raises this process's limit of open files to the hard limit, and returns it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def descendants(pid: int) -> list[int]:
    """``pid`` and all its living descendants; empty after its end."""
    parents: dict[int, int] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            parents[int(entry.name)] = int(fields[1])
    members = [pid] if pid in parents else []
    for member in members:
        members.extend(child for child, parent in parents.items() if parent == member)
    return members


def cpu_s(pid: int) -> float:
    """CPU-seconds that ``pid`` and its descendants used so far, ended children included."""
    total = 0.0
    for member in descendants(pid):
        fields = _stat(member)
        try:
            total += time.clock_gettime(~member << 3 | _CPUCLOCK_SCHED)
        except OSError:  # it has ended since; its parent's fields include it
            continue
        if fields:
            total += (int(fields[13]) + int(fields[14])) / _TICKS_PER_S
    return total


class Steal:
    """The share of requested processor time that the host gives to other guests from now on."""

    def __init__(self) -> None:
        self._requested, self._stolen = _processor_ticks()

    @property
    def share(self) -> float:
        requested, stolen = _processor_ticks()
        return (stolen - self._stolen) / max(1, requested - self._requested)


def _processor_ticks() -> tuple[int, int]:
    """Ticks requested since the machine's start, and the stolen part (proc(5), stat)."""
    first = (_PROC / "stat").read_text().partition("\n")[0]
    user, nice, system, _idle, _iowait, irq, softirq, stolen = map(int, first.split()[1:9])
    return user + nice + system + irq + softirq + stolen, stolen


def pss_bytes(pid: int) -> int:
    """Proportional set size of ``pid`` and its descendants: shared pages count once in the sum.

    Kernel memory, such as socket buffers, is not part of it.
    """
    total = 0
    for member in descendants(pid):
        try:
            rollup = (_PROC / str(member) / "smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(
            int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:")
        )
    return total


def _stat(pid: int) -> list[str]:
    """Fields 3 and on of /proc/PID/stat (proc(5)): state, parent, …; empty after its end."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return text.rpartition(")")[2].split()


def description() -> str:
    """One line: processor, cores, memory, kernel."""
    model = platform.machine()
    for line in (_PROC / "cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return (
        f"{model}, {os.cpu_count()} cores, {memory_gib:.0f} GiB memory, "
        f"{platform.system()} {platform.release()}"
    )


def today() -> str:
    """The date, UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%d")
