"""Counts the system calls of a process, by strace."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Of the event loop and the interpreter, which depend on how many requests come at once; and fstat,
# with which some open files are checked once a second.
LOOP_CALLS = {"epoll_pwait", "futex", "getpid", "newfstatat", "total"}


class Calls:
    """The number of system calls of a process, by name; complete when counting has ended."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def for_each(self, requests: int) -> dict[str, float]:
        """The calls for each of so many requests, by name, however long these have taken.

        Left out are ``LOOP_CALLS`` and what a worker does by the clock: writing its log, up to ten
        times a second, and publishing its metrics, once a second.
        """
        counts = {name: count for name, count in self.counts.items() if name not in LOOP_CALLS}
        log_writes = counts.pop("flock", 0) // 2  # each is between two of them
        published = counts.pop("ftruncate", 0)  # and then written
        for name, by_clock in (("write", log_writes), ("pwrite64", published)):
            counts[name] = max(0, counts.get(name, 0) - by_clock)
        return {name: count / requests for name, count in counts.items()}

    def read(self, summary: str) -> None:
        """Reads the table that ``strace -c`` prints."""
        for line in summary.splitlines():
            match = re.fullmatch(r"\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)", line)
            if match is not None:
                self.counts[match[2]] = int(match[1])


@contextmanager
def count_calls(pid: int, summary: Path) -> Iterator[Calls]:
    """Counts the calls of all threads of a process."""
    command = ["strace", "-c", "-f", "-p", str(pid), "-o", str(summary)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
        assert strace.stderr is not None
        line = strace.stderr.readline()
        assert "attached" in line, f"strace needs to be allowed to trace processes: {line}"
        calls = Calls()
        try:
            yield calls
        finally:
            strace.send_signal(signal.SIGINT)
            strace.communicate()
    calls.read(summary.read_text())
