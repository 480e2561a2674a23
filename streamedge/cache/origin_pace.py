"""Measures how quick origins are: round trips by origin, rates by connection.

Pure: takes sizes and times of the caller's clock, returns a ``Pace``.
"""

from __future__ import annotations

from streamedge.cache.fill_plan import Pace

WINDOW_S = 0.1  # a rate is measured over this time
SILENCE_S = 0.3  # the rate of a connection that is silent for longer sinks
_NEW_SAMPLE = 0.5  # a new sample's share in a moving average
ORIGINS_MAX = 4096


class Throughput:
    """The rate of one connection; ``rate_bytes_s`` is assumed until it is measured."""

    __slots__ = ("_is_measured", "_rate_bytes_s", "_window_bytes", "_window_start_s")

    def __init__(self, rate_bytes_s: float) -> None:
        self._rate_bytes_s = rate_bytes_s
        self._is_measured = False
        self._window_start_s: float | None = None
        self._window_bytes = 0

    def begin(self, now_s: float) -> None:
        """Starts a window at the first bytes of a response, which tell nothing about the rate."""
        self._window_start_s = now_s
        self._window_bytes = 0

    def arrived(self, size_bytes: int, now_s: float) -> bool:
        """Counts bytes; returns whether a new rate was measured."""
        if self._window_start_s is None:
            self.begin(now_s)
            return False
        self._window_bytes += size_bytes
        elapsed_s = now_s - self._window_start_s
        if elapsed_s < WINDOW_S:
            return False
        sample = self._window_bytes / elapsed_s
        self._rate_bytes_s = _average(self._rate_bytes_s, sample) if self._is_measured else sample
        self._is_measured = True
        self.begin(now_s)
        return True

    def rate_bytes_s(self, now_s: float) -> float:
        """The present rate; for a silent connection it sinks towards 0."""
        start_s = self._window_start_s
        if start_s is not None and now_s - start_s > SILENCE_S:
            return min(self._rate_bytes_s, self._window_bytes / (now_s - start_s))
        return self._rate_bytes_s


class Paces:
    """The measured pace of each origin, by its name."""

    def __init__(self) -> None:
        self._paces: dict[str, Pace] = {}

    def of(self, origin_name: str) -> Pace:
        """An origin's pace, or the default if it was never measured."""
        return self._paces.get(origin_name, Pace())

    def note_round_trip(self, origin_name: str, round_trip_s: float) -> None:
        """Counts the time from a request to its first byte into the average."""
        pace = self._paces.get(origin_name)
        if pace is None:
            self._set(origin_name, Pace(round_trip_s))
        else:
            average_s = _average(pace.round_trip_s, round_trip_s)
            self._set(origin_name, Pace(average_s, pace.rate_bytes_s))

    def note_rate(self, origin_name: str, rate_bytes_s: float) -> None:
        """Sets the rate that a connection has measured."""
        pace = self.of(origin_name)
        self._set(origin_name, Pace(pace.round_trip_s, rate_bytes_s))

    def _set(self, origin_name: str, pace: Pace) -> None:
        if len(self._paces) >= ORIGINS_MAX and origin_name not in self._paces:
            self._paces.clear()
        self._paces[origin_name] = pace


def _average(pace: float, sample: float) -> float:
    return pace + (sample - pace) * _NEW_SAMPLE
