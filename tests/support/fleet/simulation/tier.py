"""How simulated edges answer viewers and each other: from the cache, the tier, the origin.

The rules are those of ``origin.peer.tier`` and ``delivery.peer.handler``: the order of requests,
who refuses, and what a record's position becomes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import simpy

from streamedge.control.position import older_of
from streamedge.fleet.ownership import owners, rank_of, ranks
from streamedge.fleet.states import EdgeState
from tests.support.fleet.simulation.edge import Cached, SimulatedEdge
from tests.support.fleet.simulation.network import Network

BEHIND_WAIT_S = 0.1
_POLL_S = 0.01
PEER_TIMEOUT_S = 20.0  # an edge that lives shows it, so a wait may be long
ATTEMPTS = 20
Steps = Generator[simpy.Event, Any, Any]


class GoneError(Exception):
    """The edge was killed meanwhile."""


@dataclass(frozen=True)
class Mutations:
    """Mechanisms that are switched off, so that tests see properties fail."""

    ignores_need: bool = False
    ignores_unplaced: bool = False
    ignores_history: bool = False  # at reports
    ignores_clock: bool = False  # at requests: only a timer looks at the lease


class Tier:
    """The tier of all simulated edges. ``origin``: the version of each object there, now."""

    def __init__(
        self,
        env: simpy.Environment,
        network: Network,
        chance: random.Random,
        edges: Mapping[str, SimulatedEdge],
        parents: Iterable[str],
        origin: Mapping[str, int],
        mutations: Mutations,
    ) -> None:
        self._env = env
        self._network = network
        self._chance = chance
        self._edges = edges
        self._parents = tuple(parents)
        self._origin = origin
        self._mutations = mutations
        self._waits: dict[tuple[str, str], tuple[str, str]] = {}
        self.circles: list[str] = []
        self.faults: list[str] = []
        self.counts: dict[str, int] = {}

    def view(self, edge: SimulatedEdge, name: str) -> Steps:
        """A viewer's request; returns the version that it gets. Raises GoneError."""
        life = edge.life
        while edge.is_stopped:
            yield edge.gone_on
        _check(edge, life)
        cached: Cached = yield from self._get(edge, name, None)
        return cached.version

    def _get(self, edge: SimulatedEdge, name: str, rank: int | None) -> Steps:
        """What is cached, or a lookup, which later requests for the object wait for."""
        life = edge.life
        for _attempt in range(ATTEMPTS):
            cached = edge.fresh(name)
            if cached is not None:
                self._count("hits")
                return cached
            running = edge.lookups.get(name)
            if running is not None:
                yield running
                _check(edge, life)
                continue
            ended = edge.lookups[name] = self._env.event()
            try:
                cached = yield from self._fetch(edge, name, rank)
                _check(edge, life)
                edge.cache[name] = cached
            finally:
                if edge.lookups.get(name) is ended:
                    del edge.lookups[name]
                ended.succeed()
            return cached
        raise GoneError("too many lookups")

    def _fetch(self, edge: SimulatedEdge, name: str, rank: int | None) -> Steps:
        """Requests an object from the tier, then from the origin."""
        life = edge.life
        sent, need = edge.index.position, edge.index.fleet_position
        order = [one.name for one in ranks(name, 0, owners(self._parents, edge.members))]
        candidates = order[: order.index(edge.name)] if edge.name in order else order
        unplaced = edge.has_unplaced_rows and not self._mutations.ignores_unplaced
        if edge.status.state is EdgeState.LOST or unplaced:
            candidates = []
        for lower, peer in enumerate(candidates):
            if rank is not None and lower >= rank:
                self.faults.append(f"{edge.name} at rank {rank} asks rank {lower} for {name}")
            answer = yield from self._ask(edge, peer, lower, name, need)
            _check(edge, life)
            if answer is not None:
                version, as_of = answer
                self._count("from_peers")
                return Cached(version, older_of(sent, edge.index.local_position(as_of)))
        yield self._env.timeout(self._chance.uniform(0.001, 0.03))
        version = self._origin[name]
        yield self._env.timeout(self._chance.uniform(0.001, 0.03))
        self._count("from_origin")
        return Cached(version, sent)

    def _ask(self, edge: SimulatedEdge, peer: str, rank: int, name: str, need: int) -> Steps:
        """The answer of another edge: a version and its as-of; None if it refuses or fails."""
        env, network = self._env, self._network
        ended = env.event()

        def finish(answer: object) -> None:
            if not ended.triggered:
                ended.succeed(answer)

        def reply(answer: object) -> None:
            network.send(peer, edge.name, lambda: finish(answer))

        def serve() -> None:
            env.process(self._serve(edge, self._edges[peer], rank, name, need, reply))

        if not network.reaches(edge.name, peer):
            yield env.timeout(0.5)
            return None
        network.send(edge.name, peer, serve)
        env.timeout(PEER_TIMEOUT_S).callbacks.append(lambda _event: finish(None))
        answer = yield ended
        return answer

    def _wait(self, edge: str, peer: str, name: str) -> None:
        """Notes that an edge's lookup waits for that of an edge that has accepted its request."""
        self._waits[edge, name] = (peer, name)
        at: tuple[str, str] | None = (peer, name)
        while at is not None:
            if at == (edge, name):
                self.circles.append(f"{edge} and {peer} wait for each other for {name}")
                return
            at = self._waits.get(at)

    def _serve(
        self,
        child: SimulatedEdge,
        edge: SimulatedEdge,
        rank: int,
        name: str,
        need: int,
        reply: Callable[[object], None],
    ) -> Steps:
        """Handles another edge's request."""
        life = edge.life
        try:
            while edge.is_stopped:
                yield edge.gone_on
            _check(edge, life)
            if not edge.is_up or edge.status.state in {EdgeState.JOINING, EdgeState.LOST}:
                reply(None)
                return
            members = owners(self._parents, edge.members)
            if rank_of(edge.name, name, 0, members) != rank:
                self._count("refused_rank")
                reply(None)
                return
            if not self._mutations.ignores_need:
                deadline_s = self._env.now + BEHIND_WAIT_S
                edge.refresh()
                while edge.index.fleet_position < need and self._env.now < deadline_s:
                    yield self._env.timeout(_POLL_S)
                    _check(edge, life)
                    edge.refresh()
                if edge.index.fleet_position < need:
                    self._count("refused_behind")
                    reply(None)
                    return
            self._wait(child.name, edge.name, name)
            try:
                cached: Cached = yield from self._get(edge, name, rank)
            finally:
                self._waits.pop((child.name, name), None)
            reply((cached.version, edge.index.as_of(cached.position)))
        except GoneError:
            reply(None)

    def _count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1


def _check(edge: SimulatedEdge, life: int) -> None:
    if edge.life != life or not edge.is_up:
        raise GoneError(edge.name)
