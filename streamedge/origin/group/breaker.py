"""A circuit breaker: whether requests go to an origin that has failed.

Pure: a state and an event in, a state out.

    state      ANSWERED   FAILED                        SENT                ABANDONED
    CLOSED     CLOSED     OPEN at the third in a row    CLOSED              CLOSED
    OPEN       CLOSED     OPEN                          HALF_OPEN when due  OPEN
    HALF_OPEN  CLOSED     OPEN for twice as long        HALF_OPEN           OPEN, due at once

While it is OPEN, no request is sent until ``until_s``. The first request after that is a trial;
while it runs (HALF_OPEN), no other request is sent.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

FAILURES_MAX = 3  # in a row
WINDOW_S = 30.0  # failures in a row that are further apart do not count
BACK_OFF_MIN_S = 1.0
BACK_OFF_MAX_S = 60.0


def is_failure_status(status: int) -> bool:
    """Whether a response with this status is a failure of the origin, and not of the request."""
    return status >= 500 or status == 429


class BreakerState(Enum):
    """Whether requests are sent; see the module's table."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class BreakerEvent(Enum):
    """What happened to a request."""

    SENT = "sent"
    ANSWERED = "answered"
    FAILED = "failed"
    ABANDONED = "abandoned"  # cancelled before its answer


@dataclass(frozen=True, slots=True)
class Breaker:
    """``failures`` in a row, the first of them at ``since_s``. An open breaker is due for a trial
    at ``until_s``, ``back_off_s`` after it opened. Times are of a monotonic clock.
    """

    state: BreakerState = BreakerState.CLOSED
    failures: int = 0
    since_s: float = 0.0
    until_s: float = 0.0
    back_off_s: float = 0.0

    def admits(self, now_s: float) -> bool:
        """Whether a request may be sent."""
        is_due = self.state is BreakerState.OPEN and now_s >= self.until_s
        return is_due or self.state is BreakerState.CLOSED

    def after(self, event: BreakerEvent, now_s: float) -> Breaker:
        """The breaker after ``event``."""
        match self.state, event:
            case _, BreakerEvent.ANSWERED:
                return Breaker()
            case BreakerState.CLOSED, BreakerEvent.FAILED:
                return self._after_failure(now_s)
            case BreakerState.OPEN, BreakerEvent.SENT if self.admits(now_s):
                return replace(self, state=BreakerState.HALF_OPEN)
            case BreakerState.HALF_OPEN, BreakerEvent.FAILED:
                return self._opened(now_s, min(2 * self.back_off_s, BACK_OFF_MAX_S))
            case BreakerState.HALF_OPEN, BreakerEvent.ABANDONED:
                return replace(self, state=BreakerState.OPEN)
        return self

    def _after_failure(self, now_s: float) -> Breaker:
        if not self.failures or now_s - self.since_s > WINDOW_S:
            return replace(self, failures=1, since_s=now_s)
        breaker = replace(self, failures=self.failures + 1)
        return (
            breaker if breaker.failures < FAILURES_MAX else breaker._opened(now_s, BACK_OFF_MIN_S)
        )

    def _opened(self, now_s: float, back_off_s: float) -> Breaker:
        return replace(
            self, state=BreakerState.OPEN, until_s=now_s + back_off_s, back_off_s=back_off_s
        )
