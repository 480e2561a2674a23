"""Progress of a benchmark, and a limit to its time."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bench.servers.server import BenchError

_began_s = time.monotonic()


def note(text: str) -> None:
    """Prints a line to standard error, with the seconds since the program began."""
    print(f"{time.monotonic() - _began_s:7.1f} s  {text}", file=sys.stderr, flush=True)


@contextmanager
def time_limit(limit_s: float) -> Iterator[None]:
    """Raises BenchError in the block when it has lasted ``limit_s``; for the main thread."""

    def end(_signal: int, _frame: object) -> None:
        raise BenchError(f"it took longer than {limit_s:.0f} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
