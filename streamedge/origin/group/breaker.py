"""A circuit breaker: whether an origin that has failed is asked at all.

Pure: a state and an event in, a state out.

    state      ANSWERED   FAILED                        ASKED               ABANDONED
    CLOSED     CLOSED     OPEN at the third in a row    CLOSED              CLOSED
    OPEN       CLOSED     OPEN                          HALF_OPEN when due  OPEN
    HALF_OPEN  CLOSED     OPEN for twice as long        HALF_OPEN           OPEN, due at once

While it is OPEN nothing is asked until ``until_s``; the first request after that is a trial, and
as long as it runs (HALF_OPEN) no other is let through.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

FAILURES_MAX = 3  # in a row
WINDOW_S = 30.0  # failures in a row that are spread wider than this say nothing
BACK_OFF_MIN_S = 1.0
BACK_OFF_MAX_S = 60.0


class BreakerState(Enum):
    """Whether requests go through; see the module's table."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class BreakerEvent(Enum):
    """What has happened to a request."""

    ASKED = "asked"
    ANSWERED = "answered"
    FAILED = "failed"
    ABANDONED = "abandoned"  # nobody waits for its answer any more


@dataclass(frozen=True, slots=True)
class Breaker:
    """``failures`` in a row, the first of them at ``since_s``; ``until_s`` and ``back_off_s`` say
    when an open one is due for a trial. Times are of any clock that only goes on.
    """

    state: BreakerState = BreakerState.CLOSED
    failures: int = 0
    since_s: float = 0.0
    until_s: float = 0.0
    back_off_s: float = 0.0

    def admits(self, now_s: float) -> bool:
        """Whether a request may go through."""
        is_due = self.state is BreakerState.OPEN and now_s >= self.until_s
        return is_due or self.state is BreakerState.CLOSED

    def after(self, event: BreakerEvent, now_s: float) -> Breaker:
        """The breaker after ``event``."""
        match self.state, event:
            case _, BreakerEvent.ANSWERED:
                return Breaker()
            case BreakerState.CLOSED, BreakerEvent.FAILED:
                return self._weaker(now_s)
            case BreakerState.OPEN, BreakerEvent.ASKED if self.admits(now_s):
                return replace(self, state=BreakerState.HALF_OPEN)
            case BreakerState.HALF_OPEN, BreakerEvent.FAILED:
                return self._opened(now_s, min(2 * self.back_off_s, BACK_OFF_MAX_S))
            case BreakerState.HALF_OPEN, BreakerEvent.ABANDONED:
                return replace(self, state=BreakerState.OPEN)
        return self

    def _weaker(self, now_s: float) -> Breaker:
        if not self.failures or now_s - self.since_s > WINDOW_S:
            return replace(self, failures=1, since_s=now_s)
        weaker = replace(self, failures=self.failures + 1)
        return weaker if weaker.failures < FAILURES_MAX else weaker._opened(now_s, BACK_OFF_MIN_S)

    def _opened(self, now_s: float, back_off_s: float) -> Breaker:
        return replace(
            self, state=BreakerState.OPEN, until_s=now_s + back_off_s, back_off_s=back_off_s
        )
