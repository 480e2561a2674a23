"""What a worker does with viewers while its edge joins, has lost its fleet, drains or stops.

In a fleet, a timer compares the state in shared memory with the one in use, and applies a change:
whether cached objects may be used without validation, whether viewers are served, what health
checks get, and whether RTMP clients get a request to reconnect. A process that was stopped handles
the requests that have come meanwhile before its timers: so requests, and once each batch of hits,
compare the clock with the end of the lease, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from streamedge.cache.invalidated import InvalidationChecker
from streamedge.config.schema.fleet import WhenLost
from streamedge.coordination.fleet_status import FleetStatus, lease_clock_s
from streamedge.delivery.traffic import STOPPING, WELCOME, Traffic
from streamedge.fleet.states import EdgeState

CHECK_INTERVAL_S = 0.1  # ``fleet.lease.WORKERS_LATE_S`` allows for more

_REASONS = {
    EdgeState.JOINING: "the edge is joining its fleet",
    EdgeState.LOST: "the edge has lost its fleet",
    EdgeState.DRAINING: "the edge is draining",
}


class WorkerTraffic:
    """The traffic state of a worker; its servers subscribe to it."""

    def __init__(self) -> None:
        self._subscribers: list[Callable[[Traffic], None]] = []
        self._is_stopping = False
        self.current = WELCOME

    def subscribe(self, set_traffic: Callable[[Traffic], None]) -> None:
        """Calls ``set_traffic`` with the state, now and after each change."""
        self._subscribers.append(set_traffic)
        set_traffic(self.current)

    def change(self, traffic: Traffic) -> None:
        """Changes the state; does nothing while the worker stops."""
        if traffic != self.current and not self._is_stopping:
            self.current = traffic
            for set_traffic in self._subscribers:
                set_traffic(traffic)

    def stop(self) -> None:
        """Sends viewers elsewhere because the worker stops."""
        self.change(replace(STOPPING, refusal=self.current.refusal))
        self._is_stopping = True


def traffic_in(state: EdgeState, when_lost: WhenLost, *, hears_fleet: bool) -> Traffic:
    """What an edge in this state does with viewers."""
    refusal = ""
    if when_lost == "refuse" and not hears_fleet:
        refusal = "this edge cannot reach its fleet: try another one"
    return Traffic(_REASONS.get(state, ""), refusal, asks_to_reconnect=state is EdgeState.DRAINING)


class FleetWatch:
    """Applies the state of the edge in a worker."""

    def __init__(
        self,
        status: FleetStatus,
        checker: InvalidationChecker,
        when_lost: Callable[[], WhenLost],
        traffic: WorkerTraffic,
        clock: Callable[[], float] = lease_clock_s,
    ) -> None:
        self._clock = clock
        self._status = status
        self._checker = checker
        self._when_lost = when_lost
        self._traffic = traffic
        self._until_s: float | None = None

    async def check(self) -> None:
        """Applies what has changed; called every CHECK_INTERVAL_S."""
        self.apply()

    def apply(self) -> None:
        """As ``check``; also called once before the worker serves."""
        when_lost, hears_until_s = self._when_lost(), self._status.hears_until_s
        hears_fleet = self._clock() < hears_until_s
        until_s = None if when_lost == "serve" else hears_until_s
        self._until_s = until_s if hears_fleet else None
        self._checker.limit_hearing(until_s, self._clock)
        self._checker.set_hears_fleet(hears_fleet or when_lost == "serve")
        self._traffic.change(traffic_in(self._status.state, when_lost, hears_fleet=hears_fleet))

    def check_lease(self) -> None:
        """Applies the end of the lease; called before each batch of hits."""
        if self._until_s is not None and self._clock() >= self._until_s:
            self.apply()
