"""What a worker does with viewers in each state of its edge."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamedge.cache.invalidated import InvalidationChecker
from streamedge.cache.storage.store import Store
from streamedge.config.schema.fleet import WhenLost
from streamedge.coordination.fleet_status import FleetStatus, lease_clock_s
from streamedge.delivery.traffic import WELCOME, Traffic
from streamedge.fleet.states import EdgeState
from streamedge.ops.log import open_log
from streamedge.process.traffic import FleetWatch, WorkerTraffic


@pytest.mark.parametrize("when_lost", ["validate", "serve", "refuse"])
@pytest.mark.parametrize("state", EdgeState)
@pytest.mark.parametrize("hears_fleet", [True, False])
def test_worker_follows_the_state_of_its_edge(
    cache_root: Path, state: EdgeState, when_lost: WhenLost, hears_fleet: bool
) -> None:
    status = FleetStatus()
    log = open_log(str(cache_root.parent / "log"), "test")
    checker = InvalidationChecker(Store(cache_root, 0, log), None)
    traffic = WorkerTraffic()
    watch = FleetWatch(status, checker, lambda: when_lost, traffic)
    status.note(state, lease_clock_s() + (1000 if hears_fleet else -1))
    watch.apply()
    assert checker.hears_fleet is (hears_fleet or when_lost == "serve")
    current = traffic.current
    is_up = state is EdgeState.UP and hears_fleet
    assert (current.avoid_reason == "") is is_up
    assert bool(current.refusal) is (when_lost == "refuse" and not hears_fleet)
    assert current.asks_to_reconnect is (state is EdgeState.DRAINING)


@pytest.mark.parametrize("when_lost", ["validate", "serve", "refuse"])
def test_lease_limits_the_use_of_cached_objects_unless_they_are_always_served(
    cache_root: Path, when_lost: WhenLost, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = FleetStatus()
    log = open_log(str(cache_root.parent / "log"), "test")
    checker = InvalidationChecker(Store(cache_root, 0, log), None)
    limits: list[float | None] = []
    monkeypatch.setattr(checker, "limit_hearing", lambda until_s, _clock: limits.append(until_s))
    until_s = lease_clock_s() + 1000
    status.note(EdgeState.UP, until_s)
    FleetWatch(status, checker, lambda: when_lost, WorkerTraffic()).apply()
    assert limits == [None if when_lost == "serve" else pytest.approx(until_s, abs=0.001)]


def test_servers_get_the_state_at_once_and_each_change_once() -> None:
    traffic = WorkerTraffic()
    seen: list[Traffic] = []
    traffic.subscribe(seen.append)
    draining = Traffic("the edge is draining", asks_to_reconnect=True)
    for _time in range(2):
        traffic.change(draining)
    assert seen == [WELCOME, draining]


def test_worker_that_stops_keeps_sending_viewers_elsewhere() -> None:
    traffic = WorkerTraffic()
    traffic.stop()
    traffic.change(WELCOME)
    assert traffic.current.avoid_reason == "the edge is stopping"
    assert traffic.current.asks_to_reconnect
