"""Bounds on log lines that anybody can cause: of one event, and of one connection.

What is left out is counted, and told as a number.
"""

from __future__ import annotations

from streamedge.ops.log import Log

LINE_INTERVAL_S = 1.0


class RateLimitedEvent:
    """The lines of one event."""

    __slots__ = ("_event", "_interval_s", "_log", "_said_s", "_unsaid")

    def __init__(self, log: Log, event: str, interval_s: float = LINE_INTERVAL_S) -> None:
        self._interval_s = interval_s
        self._log = log
        self._event = event
        self._said_s = float("-inf")
        self._unsaid = 0

    def emit(self, now_s: float, **fields: object) -> None:
        """Adds a line, unless one was added a moment ago; ``now_s`` is monotonic."""
        if now_s - self._said_s < self._interval_s:
            self._unsaid += 1
            return
        self._log.event(self._event, **fields, unsaid=self._unsaid or None)
        self._said_s, self._unsaid = now_s, 0


class LineBudget:
    """How many lines one stranger may cause: ``burst`` of them, and ``per_s`` more each second."""

    __slots__ = ("_burst", "_left", "_per_s", "_seen_s", "suppressed")

    def __init__(self, burst: int, per_s: float, now_s: float) -> None:
        self._burst = burst
        self._per_s = per_s
        self._left = float(burst)
        self._seen_s = now_s
        self.suppressed = 0  # lines that were not allowed

    def allows(self, now_s: float) -> bool:
        """Whether one more line may be written; ``now_s`` is monotonic."""
        self._left = min(self._burst, self._left + (now_s - self._seen_s) * self._per_s)
        self._seen_s = now_s
        if self._left < 1:
            self.suppressed += 1
            return False
        self._left -= 1
        return True
