"""The states of an RTMP connection and its transitions.

A transition that is not in TRANSITIONS does not exist.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final


class State(Enum):
    """The state of a connection."""

    HANDSHAKE = auto()
    UNCONNECTED = auto()  # after the handshake, before connect
    CONNECTING = auto()  # connect arrived and awaits accept_connect or reject_connect
    CONNECTED = auto()
    REJECTED = auto()
    FAILED = auto()


class Cause(Enum):
    """The cause of a transition."""

    HANDSHAKE_DONE = auto()
    CONNECT_RECEIVED = auto()
    CONNECT_ACCEPTED = auto()
    CONNECT_REJECTED = auto()
    PROTOCOL_BROKEN = auto()


TRANSITIONS: Final = {
    (State.HANDSHAKE, Cause.HANDSHAKE_DONE): State.UNCONNECTED,
    (State.UNCONNECTED, Cause.CONNECT_RECEIVED): State.CONNECTING,
    (State.CONNECTING, Cause.CONNECT_ACCEPTED): State.CONNECTED,
    (State.CONNECTING, Cause.CONNECT_REJECTED): State.REJECTED,
    (State.HANDSHAKE, Cause.PROTOCOL_BROKEN): State.FAILED,
    (State.UNCONNECTED, Cause.PROTOCOL_BROKEN): State.FAILED,
    (State.CONNECTING, Cause.PROTOCOL_BROKEN): State.FAILED,
    (State.CONNECTED, Cause.PROTOCOL_BROKEN): State.FAILED,
    (State.REJECTED, Cause.PROTOCOL_BROKEN): State.FAILED,
}
