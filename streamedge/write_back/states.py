"""The states of a queued write, their transitions, and the retry delay. Pure.

The state after an attempt depends on the origin's response or failure.
"""

from __future__ import annotations

from enum import Enum

from streamedge.errors import OriginError, OriginFailure
from streamedge.origin.answers import find_error_code
from streamedge.origin.writing import WriteResponse

BACK_OFF_FIRST_S = 1.0
BACK_OFF_MAX_S = 2 * 3600.0
_DOUBLINGS_MAX = 30


class State(Enum):
    """The state of a queued write."""

    QUEUED = "queued"  # durable here, not at the origin
    SENDING = "sending"  # an attempt runs: the origin may or may not have it
    DONE = "done"  # at the origin; its row is deleted
    CONFLICT = "conflict"  # its condition did not hold at the origin; a dead letter
    FAILED = "failed"  # the origin rejects it for good; a dead letter


PENDING_STATES = frozenset({State.QUEUED, State.SENDING})
"""States of pending writes: readers of this edge see the write already."""

DEAD_LETTERS = frozenset({State.CONFLICT, State.FAILED})
"""States that only an operator ends, by requeue or discard."""

_NEXT = {
    State.QUEUED: frozenset({State.SENDING, State.CONFLICT}),
    State.SENDING: frozenset({State.QUEUED, State.DONE, State.CONFLICT, State.FAILED}),
    State.DONE: frozenset[State](),
    State.CONFLICT: frozenset({State.QUEUED}),
    State.FAILED: frozenset({State.QUEUED}),
}

_RETRYABLE_STATUSES = frozenset({408, 425, 429})
_RETRYABLE_CODES = frozenset({"ExpiredToken", "RequestTimeTooSkewed", "RequestTimeout", "SlowDown"})


def may_follow(state: State, following: State) -> bool:
    """Whether ``state`` may change to ``following``."""
    return following in _NEXT[state]


def state_after(method: str, response: WriteResponse) -> State:
    """The state of a SENDING write after the origin's response."""
    if response.succeeded or (method == "DELETE" and response.status in (404, 410)):
        return State.DONE
    if response.status in (409, 412):
        return State.CONFLICT
    if response.status >= 500 or response.status in _RETRYABLE_STATUSES:
        return State.QUEUED
    if find_error_code(response.body) in _RETRYABLE_CODES:
        return State.QUEUED
    return State.FAILED


def state_without_response(error: OriginError) -> State:
    """The state of a SENDING write after an attempt without a response."""
    # Credentials can be corrected; a name that no object can have cannot.
    is_retried = error.failure.retryable or error.failure is OriginFailure.FORBIDDEN
    return State.QUEUED if is_retried else State.FAILED


def back_off_s(attempts: int, chance: float) -> float:
    """The delay after ``attempts`` failed attempts (from 1); ``chance`` is random, from 0 to 1.

    Exponential with jitter: doubled each time up to BACK_OFF_MAX_S, and spread over the upper
    half of that, so that many writes are not retried at the same moment.
    """
    longest_s = BACK_OFF_FIRST_S * 2.0 ** min(attempts - 1, _DOUBLINGS_MAX)
    return min(longest_s, BACK_OFF_MAX_S) * (0.5 + chance / 2)
