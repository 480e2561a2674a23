"""The states of an edge in a fleet. Pure: a state and an event in, a state out.

    state      CAUGHT_UP  LEASE_OVER  DRAIN     UNDRAIN
    JOINING    UP         JOINING     DRAINING  JOINING
    UP         UP         LOST        DRAINING  UP
    LOST       UP         LOST        DRAINING  LOST
    DRAINING   DRAINING   DRAINING    DRAINING  JOINING

What each state means:

    state      viewers                                  peers               API
    JOINING    by ``when_lost``; traffic check 503      503                 503
    UP         served                                   served              yes
    LOST       by ``when_lost``: validate, serve or     409                 invalidations are kept
               refuse; traffic check 503                                    and sent later; 503
    DRAINING   running ones finish; traffic check 503   from the cache      503

``when_lost`` says what an edge does that may have missed invalidations: it is JOINING or LOST, or
it drains and its lease is over (``lease.Standing.hears_until_s``).
"""

from __future__ import annotations

from enum import StrEnum


class EdgeState(StrEnum):
    """The state of an edge; see the module's tables."""

    JOINING = "joining"
    UP = "up"
    LOST = "lost"
    DRAINING = "draining"


class StateEvent(StrEnum):
    """What happened to an edge."""

    CAUGHT_UP = "caught_up"  # it has applied the log up to its head
    LEASE_OVER = "lease_over"  # it has not heard from the engine for a lease
    DRAIN = "drain"  # an operator, or SIGTERM
    UNDRAIN = "undrain"


_TRANSITIONS: dict[tuple[EdgeState, StateEvent], EdgeState] = {
    (EdgeState.JOINING, StateEvent.CAUGHT_UP): EdgeState.UP,
    (EdgeState.UP, StateEvent.LEASE_OVER): EdgeState.LOST,
    (EdgeState.LOST, StateEvent.CAUGHT_UP): EdgeState.UP,
    (EdgeState.JOINING, StateEvent.DRAIN): EdgeState.DRAINING,
    (EdgeState.UP, StateEvent.DRAIN): EdgeState.DRAINING,
    (EdgeState.LOST, StateEvent.DRAIN): EdgeState.DRAINING,
    (EdgeState.DRAINING, StateEvent.UNDRAIN): EdgeState.JOINING,
}


def state_after(state: EdgeState, event: StateEvent) -> EdgeState:
    """The state after an event; unchanged where the table has no transition."""
    return _TRANSITIONS.get((state, event), state)


def takes_viewers(state: EdgeState) -> bool:
    """Whether new viewers should come here: what the traffic check answers."""
    return state is EdgeState.UP
