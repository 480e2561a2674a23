"""The health of an origin, as a process sees it in the results of its requests.

The rules are those of a group's circuit breaker, which here sends no request less: an origin is
down after three failures in a row within half a minute, and up again with the next response.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from streamedge.errors import OriginFailure
from streamedge.ops.metrics import Counter, Counts, State, Tally, pair
from streamedge.origin.group.breaker import Breaker, BreakerEvent, BreakerState, is_failure_status

UP, TRIAL, DOWN = range(3)
"""Values of the metrics; TRIAL is that of a half-open breaker."""

STATE_VALUES = {
    BreakerState.CLOSED: UP,
    BreakerState.HALF_OPEN: TRIAL,
    BreakerState.OPEN: DOWN,
}


class RequestObserver(Protocol):
    """Is called at the end of each request to an origin, once its response has begun or failed."""

    def answered(self, status: int) -> None: ...

    def failed(self, failure: OriginFailure) -> None: ...


class Unobserved:
    """Observes nothing."""

    def answered(self, status: int) -> None:
        pass

    def failed(self, failure: OriginFailure) -> None:
        pass


UNOBSERVED = Unobserved()


class OriginHealth:
    """Counts the results of requests to one origin, and publishes whether it is up."""

    def __init__(self, name: str, counts: Counts, now_s: Callable[[], float]) -> None:
        self._name = name
        self._counts = counts
        self._now_s = now_s
        self._breaker = Breaker()
        self._state: BreakerState | None = None
        # The count of responses, while another response changes nothing else.
        self._answered: Tally | None = None

    def answered(self, status: int) -> None:
        """Notes a response."""
        if is_failure_status(status):
            self._note("error_status", is_failure=True)
        elif self._answered is not None:
            self._answered.amount += 1
        else:
            self._note("answered", is_failure=False)
            self._answered = self._counts.tally(Counter.ORIGIN_REQUESTS, self._label("answered"))

    def failed(self, failure: OriginFailure) -> None:
        """Notes a request without a response."""
        self._note(failure.value, is_failure=True)

    def _label(self, result: str) -> str:
        return pair(self._name, result)

    def _note(self, result: str, *, is_failure: bool) -> None:
        self._answered = None
        self._counts.add(Counter.ORIGIN_REQUESTS, self._label(result))
        event = BreakerEvent.FAILED if is_failure else BreakerEvent.ANSWERED
        self._breaker = self._breaker.after(event, self._now_s())
        if self._breaker.state is not self._state:
            self._state = self._breaker.state
            self._counts.set_state(State.ORIGIN, self._name, STATE_VALUES[self._state])
