"""The calls of a bandwidth check on one client's connection."""

from __future__ import annotations

from streamedge.delivery.rtmp.bandwidth.check import BandwidthCheck
from streamedge.delivery.rtmp.protocol.connection import ServerConnection
from streamedge.delivery.rtmp.protocol.events import CallResult, CheckBandwidth

_TRANSACTION = 3.0  # of all calls of one check


class BandwidthCalls:
    """One check at a time. The calls are queued in the engine; the caller sends them.

    ``now_s`` is from any monotonic clock.
    """

    def __init__(self, engine: ServerConnection) -> None:
        self._engine = engine
        self._check: BandwidthCheck | None = None

    def handle(self, event: CheckBandwidth | CallResult, now_s: float) -> None:
        """Begins a check, unless one is running, or continues it after the result of a call."""
        if isinstance(event, CheckBandwidth):
            if self._check is None:
                self._check = BandwidthCheck()
                self._call(self._check.begin(now_s))
        elif self._check is not None and event.transaction == _TRANSACTION:
            self._call(self._check.result(now_s))
            self.end_if_over(now_s)

    def end_if_over(self, now_s: float) -> bool:
        """Calls onBWDone with the rate once the check is over; returns whether it did."""
        check = self._check
        if check is None or not check.is_over(now_s):
            return False
        self._check = None
        rate = check.rate(now_s)
        values = (rate.kbit_per_s, rate.kilobytes, rate.elapsed_s, rate.latency_ms)
        self._engine.call("onBWDone", 0.0, *map(float, map(round, values)))
        return True

    def _call(self, sizes: list[int]) -> None:
        for size in sizes:
            arguments = ("0" * size,) if size else ()
            self._engine.call("onBWCheck", _TRANSACTION, *arguments)
