"""The C library's allocator, shared by all threads of a process.

glibc gives each new thread a heap ("arena") of its own, up to eight for each core. A thread that
parses a film's index leaves tens of megabytes free in its arena, and no other thread can use them:
a worker with eight threads then holds hundreds of megabytes that nothing limits.
"""

from __future__ import annotations

import ctypes
from typing import Final

ARENAS_MAX: Final = 2
"""One for the event loop's thread, and one for all threads beside it."""

_M_ARENA_MAX: Final = -8  # <malloc.h>


def limit_arenas() -> None:
    """Limits the arenas of this process and of those that it forks (mallopt(3)).

    Must be called before the first thread starts. A C library without arenas is left as it is.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, ARENAS_MAX)
