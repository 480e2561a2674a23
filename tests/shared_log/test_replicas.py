"""Several edges on one engine that fails in every way: they all get the same, once.

The edges are real replicas in SQLite; their followers and publishers are called step by step.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from streamedge.control.log import RowKind
from streamedge.control.resources import Kind
from tests.support.fleet.memory_engine import MemoryServer
from tests.support.fleet.replica_edge import ReplicaEdge, heal, resource

EDGES = 3
# Thousands of transactions: on a disk each would wait for it.
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
KEYS = ("one", "two", "three")
edges = st.integers(0, EDGES - 1)


class Fleet:
    """Edges on one server, and what was acknowledged by them."""

    def __init__(self, folder: Path, count: int = EDGES) -> None:
        self.server = MemoryServer()
        self.edges = [ReplicaEdge(f"e{n}", folder / f"e{n}", self.server) for n in range(count)]
        self.invalidations: set[str] = set()  # the ids of their rows
        self.referenced: set[str] = set()  # those of them with a caller reference
        self.entries: set[str] = set()  # ids
        # By resource: the ETags of the newest acknowledged document ("": removed), and of those
        # since whose answers were lost.
        self.changes: dict[str, set[str]] = {}
        self.is_trimmed = False
        self._numbers = itertools.count(1)

    def invalidate(self, edge: int, reference: str = "") -> None:
        item = f"/{next(self._numbers)}" if not reference else f"/{reference}"
        row = self.edges[edge].control_log.invalidate("E", [item], caller_reference=reference)
        self.invalidations.add(row.id)
        if reference:
            self.referenced.add(row.id)

    async def change(self, edge: int, key: str, *, removes: bool = False) -> None:
        etag = f"E{next(self._numbers)}"
        new = None if removes else resource(key, etag)
        entry_id = await self.edges[edge].change(new, key, Kind.PUBLIC_KEY)
        if entry_id:
            self.entries.add(entry_id)
            self.changes[key] = {"" if removes else etag}
        elif key in self.changes:
            self.changes[key].add("" if removes else etag)

    async def check(self) -> None:
        """Heals the fleet, then compares all edges with the shared log and with each other."""
        await heal(self.edges)
        log = self.server.contents.log
        texts = self.server.contents.resources
        lost = set()
        for edge in self.edges:
            for line in edge.events("fleet_change_lost"):
                lost |= {one.partition("/")[2] for one in line["resources"]}
        views = []
        for edge in self.edges:
            placed = dict(edge.replica.newest_placed(log[-1].position, 10_000))
            in_log = {one.position: one.id for one in log}
            assert all(in_log[at] == id_ for at, id_ in placed.items() if at >= log[0].position)
            assert placed.keys() >= {at for at in in_log if at > edge.begins_after()}
            rows = edge.rows()
            counts = Counter(row.id for row in rows if row.kind is RowKind.INVALIDATION)
            # An edge that joined after an invalidation does not know its caller reference.
            assert all(count == 1 for id_, count in counts.items() if id_ not in self.referenced)
            if not any(row.kind is RowKind.EVERYTHING for row in rows):
                assert self.invalidations <= counts.keys()
            elif not self.is_trimmed:
                # What came before this edge joined counts as invalidated.
                first = min(row.epoch for row in rows if row.kind is RowKind.EVERYTHING)
                assert [row.epoch for row in rows if row.kind is RowKind.EVERYTHING] == [first]
            assert edge.documents().keys() == texts.keys()
            views.append((edge.documents(), edge.replica.view().members))
        assert all(view == views[0] for view in views)
        documents = views[0][0]
        for key, etags in self.changes.items():
            if key not in lost:
                document = documents.get(f"{Kind.PUBLIC_KEY.value}/{key}")
                assert ("" if document is None else document["etag"]) in etags

    def close(self) -> None:
        for edge in self.edges:
            edge.close()


class FleetMachine(RuleBasedStateMachine):
    """Random operations of edges, and random failures of the engine."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(dir=MEMORY)
        self.runner = asyncio.Runner()

    @initialize()
    def start(self) -> None:
        self.fleet = Fleet(Path(self.folder.name))

    @rule(edge=edges)
    def invalidate(self, edge: int) -> None:
        self.fleet.invalidate(edge)

    @rule(edge=edges, reference=st.sampled_from(("r1", "r2")))
    def invalidate_with_reference(self, edge: int, reference: str) -> None:
        self.fleet.invalidate(edge, reference)

    @rule(edge=edges)
    def write(self, edge: int) -> None:
        self.fleet.entries.add(self.fleet.edges[edge].written_here("key"))

    @rule(edge=edges, weight=st.integers(1, 5))
    def describe(self, edge: int, weight: int) -> None:
        self.fleet.edges[edge].member(float(weight))

    @rule(edge=edges, key=st.sampled_from(KEYS), removes=st.booleans())
    def change(self, edge: int, key: str, removes: bool) -> None:
        self.runner.run(self.fleet.change(edge, key, removes=removes))

    @rule(edge=edges)
    def follow(self, edge: int) -> None:
        self.runner.run(self.fleet.edges[edge].follow())

    @rule(edge=edges)
    def publish(self, edge: int) -> None:
        self.runner.run(self.fleet.edges[edge].publish())

    @rule(edge=edges, cut=st.integers(0, 3))
    def cut_answers(self, edge: int, cut: int) -> None:
        self.fleet.edges[edge].engine.cut = cut

    @rule(edge=edges, is_down=st.booleans())
    def cut_off(self, edge: int, is_down: bool) -> None:
        self.fleet.edges[edge].engine.is_down = is_down

    @rule(count=st.integers(1, 4))
    def fail_over(self, count: int) -> None:
        self.fleet.server.lose_tail(count)

    @rule()
    def empty(self) -> None:
        self.fleet.server.empty()

    @rule(edge=edges)
    def restart(self, edge: int) -> None:
        self.fleet.edges[edge].close()
        self.fleet.edges[edge].open()

    @rule()
    def check(self) -> None:
        self.runner.run(self.fleet.check())

    def teardown(self) -> None:
        try:
            if hasattr(self, "fleet"):
                self.runner.run(self.fleet.check())
        finally:
            if hasattr(self, "fleet"):
                self.fleet.close()
            self.runner.close()
            self.folder.cleanup()


TestFleet = FleetMachine.TestCase
TestFleet.settings = settings(
    max_examples=30,
    stateful_step_count=25,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.too_slow],
)


async def test_fifty_failovers_that_lose_entries_lose_nothing_that_was_acknowledged() -> None:
    """Between failovers some edges follow and publish, others are behind or cut off."""
    chance = random.Random(50)
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        fleet = Fleet(Path(folder), 4)
        for number in range(50):
            for _step in range(8):
                edge = fleet.edges[chance.randrange(4)]
                edge.engine.is_down = chance.random() < 0.2
                edge.engine.cut = chance.choice((0, 0, 0, 1))
                fleet.invalidate(chance.randrange(4))
                if chance.random() < 0.3:
                    await fleet.change(chance.randrange(4), chance.choice(KEYS))
                await edge.follow()
                await edge.publish()
            fleet.server.lose_tail(chance.randrange(1, 6))
            if number % 10 == 9:
                await fleet.check()
        lines = [len(edge.events("fleet_history_lost")) for edge in fleet.edges]
        assert max(lines) > 10
        assert len(fleet.invalidations) == 400
        fleet.close()
