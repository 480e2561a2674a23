"""A simulated fleet under faults, with its viewers and operators, and the properties that hold.

A ``Plan`` says everything that happens but for chance, which its seed decides. ``run`` returns what
was violated; after the faults everything is mended, and the fleet has to come to rest.
"""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

import simpy

from streamedge.fleet.entries import EntryKind, decode_entry
from streamedge.fleet.position import START
from tests.support.fleet.simulation.edge import SimulatedEdge, Timing, member_named
from tests.support.fleet.simulation.engine import Costs, SimulatedServer
from tests.support.fleet.simulation.network import ENGINE, Network
from tests.support.fleet.simulation.tier import GoneError, Mutations, Steps, Tier

OBJECTS = ("/a", "/b", "/c")
RESOURCES = ("one", "two")
HEAL_S = 60.0
SETTLED_S = 2.0
RETURN_S = 5.0

CUT, SPLIT, CRASH, FAIL_OVER, EMPTY, TRIM, SLOW, KILL, REPLACE, STOP, WEIGH = FAULTS = (
    "cut",  # an edge and the engine
    "split",  # an edge and its peers
    "crash",  # the engine, which starts again with all entries
    "fail_over",  # the engine, without its last entries
    "empty",  # the engine
    "trim",  # the engine
    "slow",  # the engine
    "kill",  # an edge, which starts again
    "replace",  # an edge's processes, at an upgrade
    "stop",  # an edge: SIGSTOP and SIGCONT
    "weigh",  # an edge gets another weight in the tier
)


@dataclass(frozen=True)
class Fault:
    """``amount``: entries that are lost, or a weight."""

    kind: str
    at_s: float
    seconds: float = 0.0
    edge: int = 0
    amount: int = 1


@dataclass(frozen=True)
class Plan:
    """``timings``: one for each edge. ``duration_s`` of faults, viewers and operators."""

    timings: tuple[Timing, ...]
    faults: tuple[Fault, ...] = ()
    duration_s: float = 30.0
    seed: int = 0
    loss: float = 0.0
    delay_s: float = 0.01
    view_s: float = 0.2
    invalidate_s: float = 1.0
    change_s: float = 3.0
    mutations: Mutations = field(default_factory=Mutations)


@dataclass
class Invalidation:
    """``version``: of the object when it was invalidated. ``completed_s``: None: not yet."""

    entry_id: str
    name: str
    version: int
    completed_s: float | None = None


class SimulatedFleet:
    """The fleet of a plan."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan = plan
        self.env = simpy.Environment()
        self.chance = random.Random(plan.seed)
        self.network = Network(self.env, self.chance, self._delay_s, loss=plan.loss)
        self.server = SimulatedServer(self.env, self.network, Costs())
        self.server.checks_ids = not plan.mutations.ignores_history
        self.origin = dict.fromkeys(OBJECTS, 0)
        self.edges: dict[str, SimulatedEdge] = {}
        for number, timing in enumerate(plan.timings):
            name = f"e{number}"
            member = member_named(name)
            self.edges[name] = SimulatedEdge(self.env, self.server, folder / name, member, timing)
            self.edges[name].on_change = self._look_at_completed
            self.edges[name].reads_clock = not plan.mutations.ignores_clock
        parents = list(self.edges)[: max(2, len(self.edges) - 1)]
        self.tier = Tier(
            self.env,
            self.network,
            self.chance,
            self.edges,
            parents,
            self.origin,
            plan.mutations,
        )
        self.invalidations: list[Invalidation] = []
        self.changes: dict[str, list[str]] = {}  # acknowledged ETags in their order, by resource
        self.violations: list[str] = []
        self.answers = 0
        self._is_over = False
        self._number = 0
        self._positions: dict[str, int] = {}
        self._away_until_s: dict[str, float] = {}

    def begin(self) -> None:
        """Starts viewers, operators and faults."""
        for edge in self.edges.values():
            self.env.process(self._viewers(edge))
        self.env.process(self._operators())
        for fault in self.plan.faults:
            self.env.process(self._fault(fault))

    def end(self) -> None:
        """Operators change nothing more."""
        self._is_over = True

    def run(self) -> list[str]:
        """What was violated; empty if nothing was."""
        env = self.env
        self.begin()
        env.run(self.plan.duration_s)
        self.end()
        deadline_s = env.now + HEAL_S
        while not self.has_settled() and env.now < deadline_s:
            env.run(env.now + SETTLED_S)
        self._check_end()
        return self.violations

    def close(self) -> None:
        for edge in self.edges.values():
            if edge.is_up:
                edge.kill()

    def _delay_s(self, _sender: str, _receiver: str) -> float:
        return self.plan.delay_s

    # What happens

    def _viewers(self, edge: SimulatedEdge) -> Steps:
        while True:
            yield self.env.timeout(self.chance.expovariate(1 / self.plan.view_s))
            if edge.is_up:
                self.env.process(self._view(edge, self.chance.choice(OBJECTS)))

    def _view(self, edge: SimulatedEdge, name: str) -> Steps:
        began_s = self.env.now
        completed = [
            one for one in self.invalidations if one.name == name and one.completed_s is not None
        ]
        in_effect = edge.in_effect
        newest_here = max(
            (
                one.version
                for one in self.invalidations
                if one.name == name and one.entry_id in in_effect
            ),
            default=0,
        )
        try:
            version = yield from self.tier.view(edge, name)
        except GoneError:
            return
        self.answers += 1
        if version < newest_here:
            self.violations.append(
                f"{edge.name} ({edge.status.state}) served version {version} of {name} to a request"
                f" of {began_s:.3f} s, but {newest_here} was in effect there"
            )
        for one in completed:
            if version < one.version and not self._is_unknown(one):
                self.violations.append(
                    f"{edge.name} ({edge.status.state}) served version {version} of {name} to a"
                    f" request of {began_s:.3f} s, but {one} was completed"
                )
                return

    def _is_unknown(self, one: Invalidation) -> bool:
        """Whether all that have an invalidation are away: the engine has lost it, too.

        An edge that comes back needs some time to publish it again.
        """
        if one.entry_id in self.server.memory.ids():
            return False
        return all(
            self.env.now < self._away_until_s.get(edge.name, -inf) + RETURN_S
            for edge in self.edges.values()
            if one.entry_id in edge.known_ids()
        )

    def _operators(self) -> Steps:
        while True:
            yield self.env.timeout(self.chance.expovariate(1 / self.plan.invalidate_s))
            if self._is_over:
                return
            serving = [edge for edge in self.edges.values() if edge.is_up and not edge.is_stopped]
            if not serving:
                continue
            edge = self.chance.choice(serving)
            name = self.chance.choice(OBJECTS)
            self.origin[name] += 1
            entry_id = edge.invalidate(name)
            self.invalidations.append(Invalidation(entry_id, name, self.origin[name]))
            if self.chance.random() < self.plan.invalidate_s / self.plan.change_s:
                self._change(self.chance.choice(serving), self.chance.choice(RESOURCES))

    def _change(self, edge: SimulatedEdge, identifier: str) -> None:
        self._number += 1
        etag = f"E{self._number}"

        def acknowledge() -> None:
            self.changes.setdefault(identifier, []).append(etag)

        edge.loop.start(edge.change(identifier, etag, acknowledge))

    def _look_at_completed(self, edge: SimulatedEdge) -> None:
        """Notes what an edge's API says is Completed, the first time that one does."""
        open_ones = [one for one in self.invalidations if one.completed_s is None]
        for one in open_ones:
            if edge.has_completed(one.entry_id):
                one.completed_s = self.env.now
        position = edge.service.position
        before = self._positions.get(edge.name, START)
        if START < position < before and not edge.has_rewound:
            self.violations.append(f"{edge.name} went back from {before} to {position}")
        self._positions[edge.name] = position or before

    def _fault(self, fault: Fault) -> Steps:
        env, server, network = self.env, self.server, self.network
        edge = list(self.edges.values())[fault.edge % len(self.edges)]
        yield env.timeout(fault.at_s)
        if fault.kind in {CUT, KILL, STOP}:
            until_s = max(env.now + fault.seconds, self._away_until_s.get(edge.name, 0.0))
            self._away_until_s[edge.name] = until_s
        match fault.kind:
            case "cut":
                network.cut(edge.name, ENGINE)
                yield env.timeout(fault.seconds)
                network.mend(edge.name, ENGINE)
            case "split":
                peers = [name for name in self.edges if name != edge.name]
                for peer in peers:
                    network.cut(edge.name, peer)
                yield env.timeout(fault.seconds)
                for peer in peers:
                    network.mend(edge.name, peer)
            case "crash":
                server.crash()
                yield env.timeout(fault.seconds)
                server.start()
            case "fail_over":
                server.fail_over(fault.amount)
            case "empty":
                server.empty()
            case "trim":
                server.memory.trim(fault.amount)
            case "slow":
                server.slow_s += 0.05
                yield env.timeout(fault.seconds)
                server.slow_s = 0.0
            case "kill":
                if edge.is_up:
                    edge.kill()
                    yield env.timeout(fault.seconds)
                    edge.start()
            case "replace":
                if edge.is_up and not edge.is_stopped:
                    edge.replace()
            case "stop":
                if edge.is_up:
                    edge.stop()
                    yield env.timeout(fault.seconds)
                    edge.go_on()
            case "weigh":
                if edge.is_up:
                    edge.weigh(float(fault.amount))

    # The end

    def has_settled(self) -> bool:
        log = self.server.memory.contents.log
        return bool(log) and all(
            edge.is_up
            and (edge.service.position, edge.service.entry_id) == (log[-1].position, log[-1].id)
            and edge.is_settled()
            for edge in self.edges.values()
        )

    def _check_end(self) -> None:
        violations = self.violations
        violations += self.tier.circles + self.tier.faults
        for edge in self.edges.values():
            violations += edge.failures + edge.loop.failures
        if not self.has_settled():
            states = [(edge.name, edge.describe()) for edge in self.edges.values()]
            violations.append(f"the fleet does not come to rest: {states}")
            return
        log = self.server.memory.contents.log
        in_log = {one.position: one.id for one in log}
        documents: list[dict[str, str]] = []
        for edge in self.edges.values():
            placed = edge.placed()
            first = max(log[0].position, edge.begins_after() + 1)
            here = {at: id_ for at, id_ in placed.items() if at >= first}
            there = {at: id_ for at, id_ in in_log.items() if at >= first}
            if here != there:
                violations.append(f"{edge.name} has {here}, the log {there}")
            counts = Counter(edge.row_ids())
            if max(counts.values(), default=1) > 1:
                violations.append(f"{edge.name} has applied twice: {counts.most_common(1)}")
            missing = {
                one.entry_id for one in self.invalidations if one.entry_id not in edge.known_ids()
            }
            if missing and not edge.has_everything_row():
                violations.append(f"{edge.name} never applied {sorted(missing)}")
            documents.append(edge.documents())
        if any(one != documents[0] for one in documents):
            violations.append(f"resources differ: {documents}")
        self._check_changes(documents[0])

    def _check_changes(self, documents: dict[str, str]) -> None:
        """Each acknowledged change is the newest, was replaced on purpose, or is reported lost."""
        replaced: set[str] = set()
        for stored in self.server.memory.contents.log:
            entry = decode_entry(stored.text)
            if entry is not None and entry.kind is EntryKind.RESOURCES:
                for change in entry.body["resources"].values():
                    replaced.add(str(change["before"]))
        lost = {
            identifier.partition("/")[2]
            for edge in self.edges.values()
            for line in edge.lines
            if line["event"] == "fleet_change_lost"
            for identifier in line["resources"]
        }
        is_whole = not any(fault.kind in {TRIM, EMPTY} for fault in self.plan.faults)
        for identifier, etags in self.changes.items():
            if identifier in lost or not is_whole:
                continue
            for etag in etags:
                if etag not in replaced and documents.get(identifier) != etag:
                    self.violations.append(f"the change {etag} of {identifier} is lost")


def run_plan(plan: Plan, folder: Path) -> list[str]:
    """What a plan violates."""
    with simulated(plan, folder) as fleet:
        return fleet.run()


@contextlib.contextmanager
def simulated(plan: Plan, folder: Path) -> Iterator[SimulatedFleet]:
    """The fleet of a plan; the same plan gives the same run."""
    state = random.getstate()
    random.seed(plan.seed)  # for the pauses of the real code
    fleet = SimulatedFleet(plan, folder)
    try:
        yield fleet
    finally:
        fleet.close()
        random.setstate(state)
