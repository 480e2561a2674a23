"""The states of a viewer's HTTP/1.1 connection and of one exchange on it, and their transitions.

The input state says what the next received byte belongs to. A transition that is not in
TRANSITIONS or EXCHANGE_TRANSITIONS does not exist.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final


class _State(Enum):
    """A key of the transition tables, hashed by identity: Enum's hash is a function in Python."""

    __hash__ = object.__hash__


class Input(_State):
    """What the next received byte belongs to."""

    BETWEEN = auto()  # the next request
    HEAD = auto()  # a request line or header section that has begun
    BODY = auto()  # the body or the trailer section of a request
    WAITING = auto()  # perhaps to WebSocket: the origin decides
    TUNNEL = auto()  # a protocol that the edge passes on
    REFUSED = auto()  # to nothing: bytes before it were not HTTP, or too many
    LOST = auto()  # there is none: the connection has ended


class Cause(_State):
    """The cause of a transition of the input state."""

    REQUEST_BEGUN = auto()
    HEAD_COMPLETE = auto()
    REQUEST_COMPLETE = auto()
    UPGRADE_REQUESTED = auto()
    UPGRADE_DECLINED = auto()
    UPGRADE_ACCEPTED = auto()
    PROTOCOL_BROKEN = auto()
    CONNECTION_LOST = auto()


_OPEN: Final = (Input.BETWEEN, Input.HEAD, Input.BODY, Input.WAITING)

TRANSITIONS: Final = {
    (Input.BETWEEN, Cause.REQUEST_BEGUN): Input.HEAD,
    (Input.HEAD, Cause.HEAD_COMPLETE): Input.BODY,
    (Input.BODY, Cause.REQUEST_COMPLETE): Input.BETWEEN,
    (Input.BETWEEN, Cause.UPGRADE_REQUESTED): Input.WAITING,
    (Input.WAITING, Cause.UPGRADE_DECLINED): Input.BETWEEN,
    (Input.WAITING, Cause.UPGRADE_ACCEPTED): Input.TUNNEL,
    **{(state, Cause.PROTOCOL_BROKEN): Input.REFUSED for state in _OPEN},
    **{
        (state, Cause.CONNECTION_LOST): Input.LOST
        for state in (*_OPEN, Input.TUNNEL, Input.REFUSED)
    },
}


class ExchangeState(_State):
    """How far a request and its response have come."""

    QUEUED = auto()  # waits for the responses of earlier requests
    HANDLING = auto()  # the handler prepares the response
    SENDING = auto()  # the head is in the sender
    COMPLETE = auto()
    CUT = auto()  # the viewer left, or the connection was closed before the end


EXCHANGE_TRANSITIONS: Final = frozenset(
    {
        (ExchangeState.QUEUED, ExchangeState.HANDLING),
        (ExchangeState.HANDLING, ExchangeState.SENDING),
        (ExchangeState.SENDING, ExchangeState.COMPLETE),
        (ExchangeState.QUEUED, ExchangeState.CUT),
        (ExchangeState.HANDLING, ExchangeState.CUT),
        (ExchangeState.SENDING, ExchangeState.CUT),
    }
)
