"""Measures how fast a client receives: its call ``checkBandwidth``. Pure.

The server calls the client's ``onBWCheck`` with nothing, which gives the round-trip time, and then
with more and more text; the client's results say when each call has arrived. At the end the server
calls ``onBWDone`` with the rate in kbit/s (Adobe Media Server, "Detecting bandwidth"; bits divided
by the elapsed time without the round trips).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

TEXT_BYTES = 16_384
ROUND_BYTES_MAX = 131_072
"""Of one round: several calls at once, which together have one round trip."""

MEASURED_S = 2.0
LIMIT_S = 5.0
RTT_MAX_S = 0.800
CALL_BYTES = 35
"""Of a call besides its text: the chunk header, the name, and the other arguments."""


class Phase(Enum):
    LATENCY = "latency"  # the call without text
    ROUNDS = "rounds"
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
    """One check. ``now_s`` is from any monotonic clock."""

    phase: Phase = Phase.LATENCY
    _began_s: float = 0.0
    _round_began_s: float = 0.0
    _round_calls: int = 1
    _left: int = 1  # results of this round that have not come
    _rtt_s: float = RTT_MAX_S
    _sent_bytes: int = 0
    _elapsed_s: float = 0.0  # of the rounds
    _rounds: int = 0

    def begin(self, now_s: float) -> list[int]:
        """The sizes of the texts to call onBWCheck with now."""
        self._began_s = self._round_began_s = now_s
        return [0]

    def result(self, now_s: float) -> list[int]:
        """The client's result of one call has come; returns the sizes of the next calls."""
        if self.phase is Phase.DONE:
            return []
        self._left -= 1
        if self._left:
            return []
        elapsed_s = now_s - self._round_began_s
        if self.phase is Phase.LATENCY:
            self._rtt_s = min(elapsed_s, RTT_MAX_S)
            self.phase = Phase.ROUNDS
        else:
            self._elapsed_s += elapsed_s
            self._rounds += 1
            self._sent_bytes += self._round_calls * (TEXT_BYTES + CALL_BYTES)
            self._round_calls = min(2 * self._round_calls, ROUND_BYTES_MAX // TEXT_BYTES)
            if now_s - self._began_s >= MEASURED_S:
                self.phase = Phase.DONE
                return []
        self._round_began_s = now_s
        self._left = self._round_calls
        return [TEXT_BYTES] * self._round_calls

    def is_over(self, now_s: float) -> bool:
        """Whether the rate is to be reported: enough was measured, or LIMIT_S are over."""
        return self.phase is Phase.DONE or now_s - self._began_s > LIMIT_S

    def rate(self, now_s: float) -> Rate:
        """The rate of the rounds so far; of a client that gives no results 0."""
        self.phase = Phase.DONE
        bits = 8 * self._sent_bytes
        # Jitter must not make the time negative.
        net_s = max(self._elapsed_s - self._rounds * self._rtt_s, self._elapsed_s / 1000, 1e-6)
        kbit_per_s = bits / net_s / 1000
        return Rate(kbit_per_s, self._sent_bytes / 1024, now_s - self._began_s, 1000 * self._rtt_s)
