"""Decisions about reads from an origin: which bytes to request next, whether to wait for a running
fill or to start another one, when a fill ends early, and how often to retry.

Pure: takes positions, rates and a function of the caller; returns spans and booleans.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from streamedge.cache.storage.extent import CHUNK_BYTES, EXTENT_BYTES
from streamedge.origin import UNKNOWN_BYTES
from streamedge.spans import Span

LEAD_BYTES = 8 * 1024 * 1024
BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 2.0
QUICK_ABORT_BYTES = 1 << 20

# For an origin that was not measured yet. The rate is high on purpose: a reader that waits without
# need is checked again within 50 ms, but a fill that is cut without need costs a connection.
ROUND_TRIP_DEFAULT_S = 0.05
RATE_DEFAULT_BYTES_S = 16 << 20
ROUND_TRIP_MIN_S = 0.01  # shorter waits are not noticed, and each cut costs a connection
ROUND_TRIP_MAX_S = 2.0  # a slower response is a temporary fault, and no reason to wait as long

SKIP_MAX_BYTES = 256 << 10  # beyond this, a new request is cheaper than the origin's bytes
WINDOW_MIN_BYTES = 256 << 10
WINDOW_MAX_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Pace:
    """How quick an origin is: time from a request to its first byte, and one connection's rate."""

    round_trip_s: float = ROUND_TRIP_DEFAULT_S
    rate_bytes_s: float = RATE_DEFAULT_BYTES_S

    @property
    def round_trip_bytes(self) -> int:
        """The bytes that a running read delivers in the time that another one needs to begin."""
        round_trip_s = max(ROUND_TRIP_MIN_S, min(self.round_trip_s, ROUND_TRIP_MAX_S))
        return int(self.rate_bytes_s * round_trip_s)


def next_fill(want: Span, covered: Callable[[int], int], lead_bytes: int) -> Span | None:
    """The first gap in ``want`` that is worth a read from the origin now, or None.

    ``covered(position)`` returns the end of the bytes from ``position`` on that are cached or on
    their way (``position`` itself if its byte is neither). A gap further than ``lead_bytes`` ahead
    waits, so that a slow reader of a long object fetches it piece by piece. The gap is whole chunks
    within one extent, because a fill locks these.
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


def own_read_start(position: int, fill: Span, pace: Pace) -> int | None:
    """Where a reader at ``position`` should begin a read of its own; None: it waits for the fill.

    ``fill`` is the rest of the running fill; ``position`` lies in it. A reader waits if the fill
    arrives within the round trip that a read of its own would take. A read begins at a chunk's
    start, so all readers within the fill's present chunk wait.
    """
    start = position // CHUNK_BYTES * CHUNK_BYTES
    if start <= fill.start or position - fill.start <= pace.round_trip_bytes:
        return None
    return start


def window_bytes(pace: Pace) -> int:
    """How far ahead of its position a fill locks chunks: at least as far as a reader would wait for
    it, so that another worker can read the bytes beyond.
    """
    needed = Span(0, pace.round_trip_bytes + CHUNK_BYTES).align(CHUNK_BYTES).end
    return max(WINDOW_MIN_BYTES, min(needed, WINDOW_MAX_BYTES))


def is_worth_skipping(run_bytes: int, pace: Pace) -> bool:
    """Whether a fill reads on across ``run_bytes`` cached bytes, because that is cheaper than a new
    request behind them.
    """
    return run_bytes <= min(SKIP_MAX_BYTES, pace.round_trip_bytes)


def unread_end(rest: Span, quick_abort_bytes: int) -> int:
    """The position at which a fill without readers ends.

    The end of ``rest`` if that is at most ``quick_abort_bytes`` away (squid's ``quick_abort_min``),
    else its start. If the end is unknown, ``quick_abort_bytes`` from the start.
    """
    if rest.end >= UNKNOWN_BYTES:
        return rest.start + quick_abort_bytes
    return rest.end if rest.size <= quick_abort_bytes else rest.start


def backoff_s(attempt: int, jitter: float) -> float:
    """Pause before a retry: doubles with each ``attempt`` from 0; ``jitter`` is 0 to 1."""
    return min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0**attempt) * (0.5 + jitter / 2)
