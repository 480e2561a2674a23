"""The limits of one viewer's HTTP/2 connection, and the allowances for what may come at a rate.

The engine ends a connection that exceeds one, where the limit does not say otherwise.
"""

from __future__ import annotations

from typing import Final, NamedTuple

STREAMS_MAX: Final = 128
"""Streams that are open at once. One more is refused, or a connection error once the peer has
acknowledged SETTINGS."""

REQUESTS_MAX: Final = 100_000
"""Requests on one connection; after them the viewer opens another."""

FIELDS_MAX: Final = 100
"""Fields of a request's head; one with more gets 431."""

HEAD_FIELDS_MAX: Final = 200
HEAD_LIST_BYTES_MAX: Final = 65_536
"""Bytes of a decoded header section, each field with 32 bytes more (RFC 9113 §6.5.2): few bytes on
the wire can become many (HPACK). The connection answers smaller ones that it does not accept with
431."""

CONTINUATIONS_MAX: Final = 8
"""CONTINUATION frames of one header section."""

STREAM_WINDOW_BYTES: Final = 256 << 10
"""Bytes of a request's body that may wait for the handler."""

CONNECTION_WINDOW_BYTES: Final = 1 << 20
"""Bytes of all requests' bodies of a connection that may wait for the handler."""


class Rate(NamedTuple):
    """How often something may happen: ``at_once``, and ``per_s`` more each second."""

    at_once: int
    per_s: int


RESETS: Final = Rate(100, 33)
"""Streams that the peer may reset, or cause to be reset by an error."""

CONTROLS: Final = Rate(200, 20)
"""Frames that cost work and carry nothing: SETTINGS, PING, PRIORITY_UPDATE, empty DATA."""

GLITCHES: Final = Rate(200, 20)
"""Frames that libnghttp2 counts as suspicious; PRIORITY_UPDATE and empty DATA are among them."""


class Allowance:
    """What is left of a rate. ``now_s`` is any clock's time, in seconds."""

    __slots__ = ("_left", "_rate", "_updated_s")

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._left = float(rate.at_once)
        self._updated_s = 0.0

    def take(self, count: int, now_s: float) -> bool:
        """Whether it may happen ``count`` times more."""
        at_once, per_s = self._rate
        gained = (now_s - self._updated_s) * per_s
        self._left = min(at_once, self._left + gained) - count
        self._updated_s = now_s
        return self._left >= 0
