"""The rules of a bandwidth check: what to send a client, and how fast it receives. Pure.

The server calls the client's ``onBWCheck`` with nothing, which gives the round-trip time, and then
with text, several calls at a time; the client's results say when each call has arrived. At the end
the server calls ``onBWDone`` with the rate in kbit/s (Adobe Media Server, "Detecting bandwidth").

So many calls are on their way that the link is never idle: more are added as long as a result comes
within twice the round-trip time, because then no queue has built up. The rate is that of the
results that follow, so neither the round-trip time nor its jitter is part of it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum

TEXT_BYTES = 16_384
CALL_BYTES = 35
"""Of a call besides its text: the chunk header, the name, and the other arguments."""

CALLS_MIN, CALLS_MAX = 3, 28  # on their way at one time: 48 to 448 KiB
GROWTH_S = 2.0  # from the first call; then the number of calls is fixed
MEASURED_S = 2.0
MEASURED_BYTES_MAX = 16 << 20
LIMIT_S = 5.0  # of the whole check
RTT_MIN_S, RTT_MAX_S = 0.025, 0.800


class Phase(Enum):
    LATENCY = "latency"  # the call without text
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
    _rtt_s: float = RTT_MAX_S
    _sent_s: deque[float] = field(default_factory=deque)  # of the calls without a result
    _arrived: int = 0  # results of calls with text
    _since_s: float = 0.0  # the rate is that of the results since then
    _until_s: float = 0.0
    _arrived_since: int = 0

    def begin(self, now_s: float) -> list[int]:
        """The sizes of the texts to call onBWCheck with now."""
        self._began_s = now_s
        return self._call(1, 0, now_s)

    def result(self, now_s: float) -> list[int]:
        """The client's result of one call has come; returns the sizes of the next calls."""
        if self.phase is Phase.DONE or not self._sent_s:
            return []
        response_s = now_s - self._sent_s.popleft()
        if self.phase is Phase.LATENCY:
            self._rtt_s = min(response_s, RTT_MAX_S)
            self.phase = Phase.MEASURING
            self._since_s = now_s
            return self._call(CALLS_MIN, TEXT_BYTES, now_s)
        self._arrived += 1
        self._arrived_since += 1
        self._until_s = now_s
        is_measured = (
            now_s - self._since_s >= MEASURED_S
            or self._arrived_since * TEXT_BYTES >= MEASURED_BYTES_MAX
        )
        if self._arrived > 1 and is_measured:
            self.phase = Phase.DONE
            return []
        calls = 1
        is_early = now_s - self._began_s < GROWTH_S and len(self._sent_s) + 1 < CALLS_MAX
        if is_early and response_s <= 2 * max(self._rtt_s, RTT_MIN_S):
            calls = 2
        if calls == 2 or self._arrived == 1:
            self._since_s, self._arrived_since = now_s, 0
        return self._call(calls, TEXT_BYTES, now_s)

    def _call(self, count: int, size: int, now_s: float) -> list[int]:
        self._sent_s.extend([now_s] * count)
        return [size] * count

    def is_over(self, now_s: float) -> bool:
        """Whether the rate is to be reported: enough was measured, or LIMIT_S are over."""
        return self.phase is Phase.DONE or now_s - self._began_s > LIMIT_S

    def rate(self, now_s: float) -> Rate:
        """The rate so far; of a client that gives no results 0."""
        self.phase = Phase.DONE
        arrived, measured_s = self._arrived_since, self._until_s - self._since_s
        if not arrived:  # of so few calls the round trip is a part
            arrived = self._arrived
            measured_s = self._until_s - self._began_s - 2 * self._rtt_s
        bits = 8 * arrived * (TEXT_BYTES + CALL_BYTES)
        return Rate(
            kbit_per_s=bits / max(measured_s, 1e-6) / 1000,
            kilobytes=self._arrived * (TEXT_BYTES + CALL_BYTES) / 1024,
            elapsed_s=now_s - self._began_s,
            latency_ms=1000 * self._rtt_s,
        )
