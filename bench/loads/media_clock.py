"""Decides when a viewer is late: compares the media it received with the media it played.

This is the report's definition of "late". Pure: it takes times and returns a lag.

A message's media counts as received when its last byte has arrived; its duration follows from the
next message's timestamp. The viewer starts to play when its buffer is full, or when its buffer's
time has passed since its first media message, whichever is first. From then on it plays in real
time. It is late at the first moment at which it has played all received media. So a viewer whose
media falls behind the clock by more than its buffer is always late, and one whose buffer was
filled at once is late much earlier.
"""

from __future__ import annotations

START_LIMIT_S = 10.0
"""A viewer without any media this long after it connected is late."""


class MediaClock:
    """One viewer's clock. ``now`` is in seconds of any steady clock."""

    __slots__ = (
        "_behind_s",
        "_buffer_s",
        "_completed_s",
        "_first_ms",
        "_first_s",
        "_play_s",
        "_received_s",
    )

    def __init__(self, buffer_s: float, now: float) -> None:
        self._buffer_s = buffer_s
        self._first_s = -1.0
        self._first_ms = 0
        self._received_s = 0.0
        self._completed_s = now
        self._play_s = -1.0
        self._behind_s = -buffer_s

    def began(self, timestamp_ms: int, now: float) -> None:
        """A media message's header has arrived, which gives the previous message's duration.

        Of messages that arrived at the same time, the last is enough.
        """
        if self._first_s < 0:
            self._first_s, self._first_ms = now, timestamp_ms
            return
        received_s = (timestamp_ms - self._first_ms) / 1000
        if received_s <= self._received_s:
            return  # audio and video are interleaved, and not always in order
        self._play_to(self._completed_s)
        self._received_s = received_s
        if self._play_s < 0 and received_s >= self._buffer_s:
            self._play_s = self._completed_s

    def completed(self, now: float) -> None:
        """The last byte of the latest media message has arrived."""
        self._completed_s = now

    def lag_s(self, now: float) -> float:
        """The largest lag up to ``now``, in seconds of media.

        Above 0 the viewer was late; below 0 it is the smallest buffer fill, negated. The latest
        message does not count yet, so the lag at ``now`` is one message too large.
        """
        if self._first_s < 0:
            return now - self._completed_s - START_LIMIT_S
        self._play_to(now)
        return self._behind_s

    def _play_to(self, now: float) -> None:
        if self._play_s < 0:
            if now - self._first_s < self._buffer_s:
                return
            self._play_s = self._first_s + self._buffer_s
        self._behind_s = max(self._behind_s, now - self._play_s - self._received_s)
