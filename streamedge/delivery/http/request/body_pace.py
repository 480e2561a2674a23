"""Watches how fast the body of a viewer's request comes."""

from __future__ import annotations


class BodyPace:
    """Watches how fast a request's body comes: a very slow one holds an origin's connection."""

    __slots__ = ("_last_s", "_rate_bytes", "_since_s")

    def __init__(self, now_s: float) -> None:
        self._last_s = now_s  # when its last bytes came
        self._since_s = now_s  # since when its rate is measured,
        self._rate_bytes = 0  # and the bytes received since then

    def received(self, size_bytes: int, now_s: float) -> None:
        self._last_s = now_s
        self._rate_bytes += size_bytes

    def is_too_slow(self, now_s: float, stall_s: float, body_rate: int) -> bool:
        """Whether nothing came for ``stall_s``, or less than ``body_rate`` bytes a second."""
        if now_s - self._last_s > stall_s:
            return True
        if now_s - self._since_s <= stall_s:
            return False
        is_slow = self._rate_bytes < body_rate * (now_s - self._since_s)
        self._since_s, self._rate_bytes = now_s, 0
        return is_slow

    def excuse(self, now_s: float) -> None:
        """The socket is not read now, so nothing can come."""
        self._last_s = self._since_s = now_s
        self._rate_bytes = 0
