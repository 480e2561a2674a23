"""Limits on log lines that any client can cause: for one event, and for one connection.

Suppressed lines are counted, and the next line has their number.
"""

from __future__ import annotations

from streamedge.ops.log import Log

LINE_INTERVAL_S = 1.0


class RateLimitedEvent:
    """An event that is logged at most once per interval."""

    __slots__ = ("_event", "_interval_s", "_log", "_logged_s", "_suppressed")

    def __init__(self, log: Log, event: str, interval_s: float = LINE_INTERVAL_S) -> None:
        self._interval_s = interval_s
        self._log = log
        self._event = event
        self._logged_s = float("-inf")
        self._suppressed = 0

    def emit(self, now_s: float, **fields: object) -> None:
        """Logs the event, unless the interval has not passed yet; ``now_s`` is monotonic."""
        if now_s - self._logged_s < self._interval_s:
            self._suppressed += 1
            return
        self._log.event(self._event, **fields, suppressed=self._suppressed or None)
        self._logged_s, self._suppressed = now_s, 0


class LineBudget:
    """A token bucket for log lines: ``burst`` lines at once, and ``per_s`` more each second."""

    __slots__ = ("_burst", "_left", "_per_s", "_updated_s", "suppressed")

    def __init__(self, burst: int, per_s: float, now_s: float) -> None:
        self._burst = burst
        self._per_s = per_s
        self._left = float(burst)
        self._updated_s = now_s
        self.suppressed = 0  # lines

    def allows(self, now_s: float) -> bool:
        """Whether one more line may be logged; ``now_s`` is monotonic."""
        self._left = min(self._burst, self._left + (now_s - self._updated_s) * self._per_s)
        self._updated_s = now_s
        if self._left < 1:
            self.suppressed += 1
            return False
        self._left -= 1
        return True
