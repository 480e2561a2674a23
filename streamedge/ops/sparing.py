"""A line that anybody can cause, written at most once a second.

Owns nothing but the counting: what happens meanwhile is told, as a number, by the next line.
"""

from __future__ import annotations

from streamedge.ops.log import Log

LINE_INTERVAL_S = 1.0


class SparingLine:
    """The lines of one event."""

    __slots__ = ("_event", "_log", "_said_s", "_unsaid")

    def __init__(self, log: Log, event: str) -> None:
        self._log = log
        self._event = event
        self._said_s = float("-inf")
        self._unsaid = 0

    def say(self, now_s: float, **fields: object) -> None:
        """Adds a line, unless one was added less than a second ago; ``now_s`` is monotonic."""
        if now_s - self._said_s < LINE_INTERVAL_S:
            self._unsaid += 1
            return
        self._log.event(self._event, **fields, unsaid=self._unsaid or None)
        self._said_s, self._unsaid = now_s, 0
