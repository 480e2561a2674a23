"""The rules of RTMPT: requests, their order, and the poll byte. Pure.

A client opens a session with ``POST /open/1`` and gets its id. Then it sends RTMP bytes with
``POST /send/ID/N`` and asks for more with ``POST /idle/ID/N``; ``POST /close/ID/N`` ends the
session. N counts the requests, from 0. Each response is one byte, the poll byte, and then RTMP
bytes (Bauch, SPEC-RTMPT). Requests of one session may come over several connections, so they may
arrive in another order, or twice.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

AHEAD_MAX = 8
"""Requests that may wait for an earlier one."""

NUMBER_DIGITS_MAX = 10
EMPTY_PER_STEP = 10
POLL_BYTES = (0x01, 0x03, 0x05, 0x09, 0x11, 0x21)
"""After each ten responses without data, the client shall ask more rarely."""

_TARGET = re.compile(
    rb"/(open|send|idle|close)/([0-9a-f]{1,64})?(?:/([0-9]{1,%d}))?" % NUMBER_DIGITS_MAX
)


class Kind(Enum):
    OPEN = b"open"
    SEND = b"send"
    IDLE = b"idle"
    CLOSE = b"close"


@dataclass(frozen=True, slots=True)
class TunnelRequest:
    """A request's target. ``number`` is None for OPEN; some clients send none with CLOSE."""

    kind: Kind
    session: str
    number: int | None


def parse_target(target: bytes) -> TunnelRequest | None:
    """Parses a path; None if it is none of RTMPT's."""
    match = _TARGET.fullmatch(target)
    if match is None:
        return None
    kind = Kind(match[1])
    if kind is Kind.OPEN:
        return TunnelRequest(kind, "", None)
    session = (match[2] or b"").decode()
    number = None if match[3] is None else int(match[3])
    if not session or (number is None and kind is not Kind.CLOSE):
        return None
    return TunnelRequest(kind, session, number)


class Order(Enum):
    """What happens with a request of a session."""

    SERVE = "serve"
    WAIT = "wait"  # for an earlier one
    REPEAT = "repeat"  # the latest request, once more
    REFUSE = "refuse"  # too old, or too far ahead


@dataclass(slots=True)
class RequestOrder:
    """The numbers of a session's requests. ``latest``: the one served last; -1 before the first."""

    latest: int = -1

    def decide(self, number: int | None) -> Order:
        """What happens with a request that arrives now. None: a close, as it arrives."""
        latest = self.latest
        if number is None or number == latest + 1:
            return Order.SERVE
        if number == latest:
            return Order.REPEAT
        return Order.WAIT if latest < number <= latest + AHEAD_MAX else Order.REFUSE

    def begin(self, number: int | None) -> None:
        """The request is served from now on."""
        if number is not None:
            self.latest = number


@dataclass(slots=True)
class Poll:
    """The poll byte of a session's responses."""

    empty: int = 0

    def next(self, *, has_data: bool) -> int:
        """The byte of the next response: 01 with data and soon after it, up to 21 hex later."""
        self.empty = 0 if has_data else self.empty + 1
        step = self.empty // EMPTY_PER_STEP
        return POLL_BYTES[min(step, len(POLL_BYTES) - 1)]
