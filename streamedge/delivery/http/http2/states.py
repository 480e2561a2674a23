"""The phases of a viewer's HTTP/2 connection, and their transitions.

A transition that is not in TRANSITIONS does not exist. The states of streams are libnghttp2's.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final


class Phase(Enum):
    """Which requests are accepted, and what the connection still waits for."""

    OPEN = auto()
    ANNOUNCED = auto()  # a GOAWAY asks for no more requests; those on their way are accepted
    FINISHING = auto()  # another GOAWAY has named the last stream: its response and others are due
    LINGERING = auto()  # all is sent; the viewer closes
    LOST = auto()


class Cause(Enum):
    """The cause of a transition."""

    DRAIN = auto()  # the edge stops, or the connection has had its share of requests
    ANNOUNCEMENT_READ = auto()  # the viewer has answered the PING behind it, or not for too long
    ALL_ANSWERED = auto()
    CONNECTION_LOST = auto()


TRANSITIONS: Final[dict[tuple[Phase, Cause], Phase]] = {
    (Phase.OPEN, Cause.DRAIN): Phase.ANNOUNCED,
    (Phase.ANNOUNCED, Cause.ANNOUNCEMENT_READ): Phase.FINISHING,
    (Phase.FINISHING, Cause.ALL_ANSWERED): Phase.LINGERING,
    **{(phase, Cause.CONNECTION_LOST): Phase.LOST for phase in Phase if phase is not Phase.LOST},
}
