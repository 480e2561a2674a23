"""Fleets of up to 1,000 edges in simulated time: invalidations and failovers. Nothing is measured.

Large fleets are a model of messages: the engine's only thread with the costs of its calls, the
network between ten cities, and in each edge the times to apply, to wake workers and to report. The
rules of completion are the real ones. Failovers run the real control processes of each edge, see
``tests.support.fleet.simulation``. The seeds are fixed, so the figures are the same each time.
"""

from __future__ import annotations

import random
import statistics
import tempfile
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import simpy

from bench.options import Options
from bench.progress import note
from bench.report import Figure
from bench.servers.edge import STREAMEDGE
from bench.servers.server import BenchError
from streamedge.fleet.attendance import Attendance
from streamedge.fleet.members import Presence
from streamedge.fleet.states import EdgeState
from streamedge.shared_log.presence import REPORTS_APART_S
from tests.support.fleet.simulation.edge import Timing
from tests.support.fleet.simulation.engine import Costs, SimulatedServer
from tests.support.fleet.simulation.fleet import Plan, SimulatedFleet, simulated
from tests.support.fleet.simulation.network import CITIES, ENGINE, Network, city_delay_s

SIZES = (2, 10, 100, 1_000)
INVALIDATIONS = {2: 400, 10: 200, 100: 60, 1_000: 12}
LOSSES = (0.0, 0.01)
HUB = "fra"
APPLY_S = 0.001  # a row; nothing waits until it is synced to the disk
WORKER_S = 0.001
FAILOVER_SIZES = (2, 10)
FAILOVERS = 3
LOST_ENTRIES = 5
DOWN_S = 2.0
REST_S = 120.0  # of simulated time
SEED = 13


def simulation(_options: Options) -> list[Figure]:
    """Invalidations by size of the fleet and loss, and failovers."""
    figures = []
    for loss in LOSSES:
        lossy = f", {loss:.0%} loss" if loss else ""
        for size in SIZES:
            note(f"{size:,} edges, {loss:.0%} loss")
            result = invalidations(size, loss)
            label = f"{size:,} edges{lossy}"
            figures += [
                *_percentiles(f"{label}: in effect on all", result.in_effect_s),
                *_percentiles(f"{label}: Completed", result.completed_s),
            ]
    for size in FAILOVER_SIZES:
        label = f"{size:,} edges: engine back without its last {LOST_ENTRIES} entries to at rest"
        figures += _percentiles(label, failovers(size))
    return figures


@dataclass(frozen=True)
class Times:
    """For each invalidation: seconds until the last edge had it in effect, and until Completed."""

    in_effect_s: list[float]
    completed_s: list[float]


def invalidations(size: int, loss: float) -> Times:
    """Invalidations one after the other, each by another edge of the fleet."""
    env = simpy.Environment()
    chance = random.Random(f"{SEED} {size} {loss}")
    names = [f"{city}-{n}" for n, city in zip(range(size), _cities(), strict=False)]
    network = Network(env, chance, _delay_s, loss=loss)
    server = SimulatedServer(env, network, Costs())
    times = Times([], [])

    def run() -> Generator[simpy.Event, object, None]:
        for position in range(1, INVALIDATIONS[size] + 1):
            round_ = _Invalidation(env, network, server, names, position, chance.choice(names))
            yield round_.completed
            times.in_effect_s.append(round_.in_effect_s)
            times.completed_s.append(env.now - round_.began_s)
            yield env.timeout(5.0)

    env.run(env.process(run()))
    return times


class _Invalidation:
    """One invalidation, from its row on one edge until that edge knows it as Completed."""

    def __init__(
        self,
        env: simpy.Environment,
        network: Network,
        server: SimulatedServer,
        names: Sequence[str],
        position: int,
        origin: str,
    ) -> None:
        self.env = env
        self.network = network
        self.server = server
        self.names = names
        self.position = position
        self.origin = origin
        self.began_s = env.now
        self.in_effect_s = 0.0
        self.completed = env.event()
        self._reported = dict.fromkeys(names, position - 1)
        self._is_reporting = False
        pushes = server.cost_s(pushes=len(names))
        self._after(
            APPLY_S,
            lambda: network.send(
                origin, ENGINE, lambda: server.execute(self._push, _ignore, pushes)
            ),
        )

    def _push(self) -> None:
        for name in self.names:
            self.network.send(
                ENGINE,
                name,
                lambda name=name: self._after(APPLY_S + WORKER_S, lambda: self._apply(name)),  # type: ignore[misc]
                (name, "log"),
            )

    def _apply(self, name: str) -> None:
        self.in_effect_s = max(self.in_effect_s, self.env.now - self.began_s)
        self._report(name)

    def _report(self, name: str) -> None:
        size = len(self.names)
        cost_s = self.server.cost_s(presences=size, pushes=size)

        def take() -> None:
            self._reported[name] = self.position
            self.network.send(ENGINE, self.origin, self._notice, (self.origin, "presences"))
            if name == self.origin:
                seen = dict(self._reported)
                self.network.send(ENGINE, name, lambda: self._complete(seen))

        self.network.send(name, ENGINE, lambda: self.server.execute(take, _ignore, cost_s))

    def _notice(self) -> None:
        """A presence was pushed: as soon as all have the position, another report tells so."""
        if not self._is_reporting and min(self._reported.values()) >= self.position:
            self._is_reporting = True
            self._after(REPORTS_APART_S, lambda: self._report(self.origin))

    def _complete(self, seen: dict[str, int]) -> None:
        presences = {
            name: Presence(name, EdgeState.UP, position) for name, position in seen.items()
        }
        attendance = Attendance(presences, is_complete=True)
        if attendance.completed(self.position) >= self.position and not self.completed.triggered:
            self.completed.succeed()

    def _after(self, seconds: float, call: object) -> None:
        assert callable(call)
        self.env.timeout(seconds).callbacks.append(lambda _event: call())


def failovers(size: int) -> list[float]:
    """Seconds from an engine that is back without its last entries to a fleet at rest."""
    times_s = []
    for seed in range(FAILOVERS):
        note(f"{size:,} edges, failover {seed + 1} of {FAILOVERS}")
        times_s.append(_failover(size, seed))
    return times_s


def _failover(size: int, seed: int) -> float:
    timings = tuple(Timing() for _edge in range(size))
    plan = Plan(timings, seed=seed, delay_s=0.02, view_s=10.0, invalidate_s=0.1, change_s=0.5)
    with tempfile.TemporaryDirectory() as folder, simulated(plan, Path(folder)) as fleet:
        fleet.begin()
        fleet.env.run(15.0)
        fleet.end()
        fleet.server.crash()
        fleet.env.run(fleet.env.now + DOWN_S)
        fleet.server.fail_over(LOST_ENTRIES)
        fleet.server.start()
        return _rest_s(fleet)


def _rest_s(fleet: SimulatedFleet) -> float:
    began_s = fleet.env.now
    while not fleet.has_settled():
        if fleet.env.now > began_s + REST_S:
            raise BenchError(f"a fleet is not at rest {REST_S:.0f} s after a failover")
        fleet.env.run(fleet.env.now + 0.02)
    return fleet.env.now - began_s


def _cities() -> Iterator[str]:
    while True:
        yield from CITIES


def _delay_s(sender: str, receiver: str) -> float:
    first, second = (
        CITIES[HUB if name == ENGINE else name.partition("-")[0]] for name in (sender, receiver)
    )
    return city_delay_s(first, second)


def _ignore(_result: object) -> None:
    return None


def _percentiles(label: str, seconds: Sequence[float]) -> list[Figure]:
    ordered = sorted(seconds)
    p99 = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
    return [
        Figure(f"{label}, P50", "ms", {STREAMEDGE: 1000 * statistics.median(ordered)}),
        Figure(f"{label}, P99", "ms", {STREAMEDGE: 1000 * p99}),
    ]
