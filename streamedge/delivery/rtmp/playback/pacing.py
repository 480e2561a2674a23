"""Pacing: when the next run of media is due, from the client's buffer and the clock.

Pure: times in, times out. The media sent are ahead of real time by the buffer that the client
announced: at least BUFFER_MIN_MS, at most the operator's limit.
"""

from __future__ import annotations

from dataclasses import dataclass

BUFFER_MIN_MS = 1000  # a shorter buffer would run empty at the first delay
BUFFER_DEFAULT_MS = 3000  # until the client announces one


@dataclass(slots=True)
class Pace:
    """A play's clock. Media times are those of the medium, in ms; ``now_s`` is from any monotonic
    clock.

    ``rate_bytes``: most bytes per second, 0 for no limit. ``at_once``: the client's buffer is no
    limit.
    """

    ahead_max_ms: int
    rate_bytes: int
    buffer_ms: int = BUFFER_DEFAULT_MS
    at_once: bool = False
    _started_s: float = 0.0
    _started_ms: int = 0
    _sent_bytes: int = 0

    def start(self, now_s: float, media_ms: int) -> None:
        """Media from ``media_ms`` on are shown from ``now_s`` on (a play, a seek, a resume)."""
        self._started_s = now_s
        self._started_ms = media_ms
        self._sent_bytes = 0

    def shift(self, media_ms: int) -> None:
        """The media that follow have times later by ``media_ms``; the clock goes on."""
        self._started_ms += media_ms

    def shown_ms(self, now_s: float) -> int:
        """The media time that is shown now, if all media before it have arrived."""
        return self._started_ms + int((now_s - self._started_s) * 1000)

    def shown_at_s(self, media_ms: int) -> float:
        """When media at ``media_ms`` are shown, if all media before them have arrived."""
        return self._started_s + (media_ms - self._started_ms) / 1000

    def sent(self, size_bytes: int) -> None:
        """Counts bytes sent since the start."""
        self._sent_bytes += size_bytes

    def wait_s(self, now_s: float, media_ms: int) -> float:
        """Seconds until media at ``media_ms`` may be sent; 0: now."""
        ahead_ms = self.ahead_max_ms
        if not self.at_once:
            ahead_ms = min(max(self.buffer_ms, BUFFER_MIN_MS), ahead_ms)
        due_s = self._started_s + (media_ms - self._started_ms - ahead_ms) / 1000
        if self.rate_bytes:
            due_s = max(due_s, self._started_s + self._sent_bytes / self.rate_bytes)
        return max(0.0, due_s - now_s)

    def late_s(self, now_s: float, media_ms: int) -> float:
        """Seconds since the buffer of a viewer with all media before ``media_ms`` ran empty; 0: it
        did not.
        """
        return max(0.0, now_s - self.shown_at_s(media_ms))
