"""The rules of a bandwidth check: what to send a client, and how fast it receives. Pure.

The server calls the client's ``onBWCheck`` with nothing, which gives the round-trip time, and then
with text, several calls at a time; the client's results say when each call has arrived. At the end
the server calls ``onBWDone`` with the rate in kbit/s (Adobe Media Server, "Detecting bandwidth").

The bytes on their way must fill the link, and must not overflow the queue in front of it: what it
drops is sent twice, and TCP sends less for a while. So the check begins with two short texts. It
doubles what is on its way in each round trip until results come ``QUEUE_BEGINS_S`` later than those
of the calls without text; from then on it adds less, and nothing when they come ``QUEUE_S`` later
(as TCP Vegas and HyStart do). Where round trips differ from each other, both times are longer. Then
the rate is that of the results that follow, so neither the round-trip time nor its jitter is part
of it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum

TEXT_BYTES_MIN, TEXT_BYTES_MAX = 1400, 16 * 1400  # a call with the first fits a TCP segment
CALL_BYTES = 35
"""Of a call besides its text: the chunk header, the name, and the other arguments."""

WINDOW_MIN_BYTES = 2 * (TEXT_BYTES_MIN + CALL_BYTES)
WINDOW_MAX_BYTES = 448 << 10  # less than the responses that a session may hold back
CALLS_PER_WINDOW = 8

LATENCY_GROUP, LATENCY_CALLS = 4, 16  # without text: at once, and in all
LATENCY_S = 0.5  # no further group after this time
QUEUE_BEGINS_S, QUEUE_S = 0.003, 0.012
GAIN_S = 0.020  # of further bytes in each round trip, at the rate of that time
GROWTH_S = 3.5  # from the first call; then, or after GROWTH_BYTES_MAX, the window is fixed
MEASURED_S = 2.0
GROWTH_BYTES_MAX = MEASURED_BYTES_MAX = 8 << 20
LIMIT_S = 6.0  # of the whole check
RTT_MAX_S = 0.800


class Phase(Enum):
    LATENCY = "latency"  # calls without text
    MEASURING = "measuring"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Rate:
    """``kilobytes`` were sent within ``elapsed_s``; ``latency_ms`` is the round trip."""

    kbit_per_s: float
    kilobytes: float
    elapsed_s: float
    latency_ms: float


@dataclass(slots=True)
class BandwidthCheck:
    """One check. ``now_s`` is from any monotonic clock. Results come in the order of the calls."""

    phase: Phase = Phase.LATENCY
    _began_s: float = 0.0
    _round_trips_s: list[float] = field(default_factory=list)
    _calls: deque[tuple[float, int]] = field(default_factory=deque)  # without a result: when, bytes
    _on_way_bytes: int = 0
    _window_bytes: float = WINDOW_MIN_BYTES
    _doubles: bool = True  # the window, in each round trip
    _arrived_bytes: int = 0  # of calls with text that have results
    _since_s: float = 0.0  # the rate is that of the results since then
    _until_s: float = 0.0
    _arrived_since_bytes: int = 0

    def begin(self, now_s: float) -> list[int]:
        """The sizes of the texts to call onBWCheck with now."""
        self._began_s = now_s
        return self._call(LATENCY_GROUP, 0, now_s)

    def result(self, now_s: float) -> list[int]:
        """The client's result of one call has come; returns the sizes of the next texts."""
        if self.phase is Phase.DONE or not self._calls:
            return []
        sent_s, size = self._calls.popleft()
        response_s = now_s - sent_s
        self._on_way_bytes -= size
        if self.phase is Phase.LATENCY:
            self._round_trips_s.append(response_s)
            if self._calls:
                return []
            if len(self._round_trips_s) < LATENCY_CALLS and now_s - self._began_s < LATENCY_S:
                return self._call(LATENCY_GROUP, 0, now_s)
            self.phase = Phase.MEASURING
            self._since_s = self._until_s = now_s
            return self._fill_window(now_s)
        is_first = not self._arrived_bytes
        self._arrived_bytes += size
        self._arrived_since_bytes += size
        self._until_s = now_s
        if not is_first and self._is_measured():
            self.phase = Phase.DONE
            return []
        grown_bytes = 0.0
        if now_s - self._began_s < GROWTH_S and self._arrived_bytes < GROWTH_BYTES_MAX:
            grown_bytes = self._growth(response_s, size)
            self._window_bytes = min(self._window_bytes + grown_bytes, WINDOW_MAX_BYTES)
        if grown_bytes or is_first:
            self._since_s, self._arrived_since_bytes = now_s, 0
        return self._fill_window(now_s)

    def _growth(self, response_s: float, size: int) -> float:
        """How many more bytes may be on their way after a call of ``size`` bytes took so long."""
        if self._window_bytes >= WINDOW_MAX_BYTES:
            return 0.0
        # While n calls are on their way, one of them takes 1/n of its response's time on the link.
        sending_s = response_s / (1 + len(self._calls))
        rtt_s, jitter_s = self._round_trip()
        queued_s = max(0.0, response_s - sending_s - rtt_s)
        self._doubles = self._doubles and queued_s <= max(QUEUE_BEGINS_S, jitter_s / 2)
        if self._doubles:
            return size
        gain = GAIN_S / max(GAIN_S, response_s)
        return size * gain * max(0.0, 1 - queued_s / (QUEUE_S + jitter_s))

    def _round_trip(self) -> tuple[float, float]:
        """The longest round trip without a queue, and how much longer it is than the shortest."""
        longest_s = max(self._round_trips_s)
        return longest_s, longest_s - min(self._round_trips_s)

    def _is_measured(self) -> bool:
        return (
            self._until_s - self._since_s >= MEASURED_S
            or self._arrived_since_bytes >= MEASURED_BYTES_MAX
        )

    def _fill_window(self, now_s: float) -> list[int]:
        text_bytes = TEXT_BYTES_MIN
        while 2 * text_bytes * CALLS_PER_WINDOW <= self._window_bytes:
            text_bytes *= 2
        text_bytes = min(text_bytes, TEXT_BYTES_MAX)
        free_bytes = self._window_bytes - self._on_way_bytes
        return self._call(max(0, int(free_bytes) // (text_bytes + CALL_BYTES)), text_bytes, now_s)

    def _call(self, count: int, text_bytes: int, now_s: float) -> list[int]:
        size = text_bytes + CALL_BYTES
        self._calls.extend([(now_s, size)] * count)
        self._on_way_bytes += count * size
        return [text_bytes] * count

    def is_over(self, now_s: float) -> bool:
        """Whether the rate is to be reported: enough was measured, or LIMIT_S are over."""
        return self.phase is Phase.DONE or now_s - self._began_s > LIMIT_S

    def rate(self, now_s: float) -> Rate:
        """The rate so far; of a client that gives no results 0."""
        self.phase = Phase.DONE
        rtt_s = min(self._round_trips_s, default=RTT_MAX_S)
        arrived_bytes, measured_s = self._arrived_since_bytes, self._until_s - self._since_s
        if not arrived_bytes:  # of so few calls the round trip is a part
            arrived_bytes = self._arrived_bytes
            measured_s = self._until_s - self._began_s - rtt_s - sum(self._round_trips_s)
        return Rate(
            kbit_per_s=8 * arrived_bytes / max(measured_s, 1e-6) / 1000,
            kilobytes=self._arrived_bytes / 1024,
            elapsed_s=now_s - self._began_s,
            latency_ms=1000 * min(rtt_s, RTT_MAX_S),
        )
