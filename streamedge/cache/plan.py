"""Which bytes to ask the origin for next, and how often to ask again: decisions alone.

Pure: positions and answers of a caller's function in, spans and seconds out.
"""

from __future__ import annotations

from collections.abc import Callable

from streamedge.cache.extent import CHUNK_BYTES, EXTENT_BYTES
from streamedge.spans import Span

LEAD_BYTES = 8 * 1024 * 1024
BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 2.0


def next_fill(want: Span, covered: Callable[[int], int], lead_bytes: int) -> Span | None:
    """The first gap in ``want`` that is worth a read from the origin now, or None.

    ``covered(position)`` says up to where bytes from ``position`` on are there or on their way
    (``position`` itself when the first is neither). A gap further than ``lead_bytes`` ahead waits,
    so that a slow reader of a long object asks for it piece by piece. The gap is whole chunks
    within one extent, because that is what a fill can lock.
    """
    gap = want.start
    while gap < want.end:
        reach = covered(gap)
        if reach == gap:
            break
        gap = reach
    if gap >= want.end or gap - want.start > lead_bytes:
        return None
    start = gap // CHUNK_BYTES * CHUNK_BYTES
    limit = min(
        Span(0, want.end).align(CHUNK_BYTES).end, (start // EXTENT_BYTES + 1) * EXTENT_BYTES
    )
    end = start + CHUNK_BYTES
    while end < limit and covered(end) == end:
        end += CHUNK_BYTES
    return Span(start, end)


def backoff_s(attempt: int, jitter: float) -> float:
    """Pause before asking again: doubles with each ``attempt`` from 0; ``jitter`` is 0 to 1."""
    return min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0**attempt) * (0.5 + jitter / 2)
