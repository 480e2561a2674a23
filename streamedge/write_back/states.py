"""What can become of a queued write, and when it is tried again.

Owns the states, the one table of their changes, and the meaning of an origin's answer. Pure.
"""

from __future__ import annotations

from enum import Enum

from streamedge.errors import OriginError, OriginFailure
from streamedge.origin.answers import find_error_code
from streamedge.origin.writing import WriteAnswer

BACK_OFF_FIRST_S = 1.0
BACK_OFF_MAX_S = 2 * 3600.0
_DOUBLINGS_MAX = 30


class State(Enum):
    """Where a write stands."""

    QUEUED = "queued"  # durable here, not at the origin
    SENDING = "sending"  # at the origin, or not: nobody knows until it answers
    DONE = "done"  # at the origin; forgotten here
    CONFLICT = "conflict"  # its condition did not hold at the origin; kept for the operator
    FAILED = "failed"  # the origin will never take it; kept for the operator


WAITING = frozenset({State.QUEUED, State.SENDING})
"""States in which readers of this edge see the write already."""

DEAD_LETTERS = frozenset({State.CONFLICT, State.FAILED})
"""States that only the operator ends."""

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
    """Whether a write in ``state`` can come into ``following`` (not: stay)."""
    return following in _NEXT[state]


def state_after(method: str, answer: WriteAnswer) -> State:
    """Where a write stands that was SENDING and has been answered."""
    if answer.succeeded or (method == "DELETE" and answer.status in (404, 410)):
        return State.DONE
    if answer.status in (409, 412):
        return State.CONFLICT
    if answer.status >= 500 or answer.status in _RETRYABLE_STATUSES:
        return State.QUEUED
    if find_error_code(answer.body) in _RETRYABLE_CODES:
        return State.QUEUED
    return State.FAILED


def state_without_answer(error: OriginError) -> State:
    """Where a write stands that was SENDING when the origin failed."""
    # Credentials come back; a name that no object can have stays one.
    waits = error.failure.retryable or error.failure is OriginFailure.FORBIDDEN
    return State.QUEUED if waits else State.FAILED


def back_off_s(attempts: int, chance: float) -> float:
    """How long to wait after ``attempts`` (from 1) failed ones; ``chance`` is from 0 to 1.

    Doubled each time up to BACK_OFF_MAX_S, and spread over the upper half of that, so that many
    writes do not come back together.
    """
    longest_s = BACK_OFF_FIRST_S * 2.0 ** min(attempts - 1, _DOUBLINGS_MAX)
    return min(longest_s, BACK_OFF_MAX_S) * (0.5 + chance / 2)
