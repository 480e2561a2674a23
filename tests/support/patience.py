"""How long a test waits before it calls something hung.

A wait ends with its condition; this time passes only where a test fails. It is the same for all
waits and long, so that a slow machine fails no test.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

PATIENCE_S = 120.0


def polls() -> Iterator[None]:
    """One item for each poll of another process; ends after PATIENCE_S."""
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        yield
