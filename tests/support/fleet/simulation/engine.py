"""The simulated engine: the engine in memory, behind the network, with presences and a work queue.

A ``SimulatedServer`` is the server, a ``SimulatedEngine`` one edge's connection to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import simpy

from streamedge.fleet.entries import Entry, PlacedEntry
from streamedge.fleet.members import Presence
from streamedge.fleet.position import START
from streamedge.shared_log.engine import (
    Bounds,
    EngineError,
    Presences,
    Snapshot,
)
from tests.support.fleet.memory_engine import MemoryEngine, MemoryServer
from tests.support.fleet.simulation.network import ENGINE, Network

CALL_TIMEOUT_S = 1.5
REPORTED_BEHIND_MAX = 1000
T = TypeVar("T")
_Answer = Callable[[object], None]


@dataclass(frozen=True)
class Costs:
    """Seconds of the server's only thread. ``each``: for each edge that is read or written to."""

    call_s: float = 40e-6
    presence_each_s: float = 1.2e-6
    push_each_s: float = 2e-6


class SimulatedServer:
    """The server; ``memory`` is its log. Faults are methods.

    ``checks_ids``: without it, which is a mutation, no history is compared at reports.
    """

    def __init__(self, env: simpy.Environment, network: Network, costs: Costs) -> None:
        self.env = env
        self.network = network
        self.memory = MemoryServer()
        self.is_up = True
        self.checks_ids = True
        self.slow_s = 0.0
        self._costs = costs
        self._free_s = 0.0
        self._presences: dict[str, tuple[Presence, float]] = {}
        self._reports = 0
        self._complete_s = 0.0
        self._has_first_report = False
        self._data_set = 0
        self._readers: list[Callable[[], None]] = []
        self._watchers: list[Callable[[], None]] = []
        self.calls = 0

    # Faults

    def crash(self) -> None:
        self.is_up = False
        self._forget_connections()

    def start(self) -> None:
        """Starts again with all entries, but without reports."""
        self.is_up = True
        self._lose_reports()

    def fail_over(self, entries: int) -> None:
        """To a replica that is ``entries`` appends behind."""
        self.memory.lose_tail(entries)
        self._forget_connections()
        self._lose_reports()

    def empty(self) -> None:
        self.memory.empty()
        self._lose_reports()

    def _lose_reports(self) -> None:
        self._presences.clear()
        self._has_first_report = False
        self._data_set += 1

    def _forget_connections(self) -> None:
        self._readers.clear()
        self._watchers.clear()

    # Calls

    def execute(self, work: Callable[[], object], answer: _Answer, cost_s: float) -> None:
        """Runs ``work`` when the calls before it are done."""
        if not self.is_up:
            answer(EngineError("connection refused"))
            return
        self.calls += 1
        self._free_s = max(self._free_s, self.env.now) + cost_s + self.slow_s

        def run(_event: simpy.Event) -> None:
            if not self.is_up:
                return
            before = self.memory.contents
            try:
                result = work()
            except Exception as exc:  # noqa: BLE001  # the caller gets it
                result = exc
            if self.memory.contents is not before:
                self._wake(self._readers)
            answer(result)

        self.env.timeout(self._free_s - self.env.now).callbacks.append(run)

    def cost_s(self, *, presences: int = 0, pushes: int = 0) -> float:
        costs = self._costs
        return costs.call_s + presences * costs.presence_each_s + pushes * costs.push_each_s

    @property
    def edges(self) -> int:
        return len(self._presences)

    def wait(self, look: Callable[[], bool], *, reports: bool, wait_s: float) -> None:
        """Calls ``look`` at each change until it returns True, and a last time after ``wait_s``."""
        waiting = self._watchers if reports else self._readers
        is_over = False

        def again() -> None:
            nonlocal is_over
            if not is_over:
                is_over = look()
                if not is_over:
                    waiting.append(again)

        def last(_event: simpy.Event) -> None:
            nonlocal is_over
            if not is_over and again in waiting:
                is_over = True
                waiting.remove(again)
                look()

        waiting.append(again)
        self.env.timeout(wait_s).callbacks.append(last)

    def _wake(self, waiting: list[Callable[[], None]]) -> None:
        looks = list(waiting)
        waiting.clear()
        for look in looks:
            look()

    # Presences

    def report(self, presence: Presence, lease_s: float, applied: int, entry_id: str) -> Presences:
        log = self.memory.contents.log
        ids = {one.position: one.id for one in log[-REPORTED_BEHIND_MAX:]}
        if self.checks_ids and entry_id and ids.get(applied) != entry_id:
            presence = replace(presence, position=START)
        if not self._has_first_report:
            self._has_first_report = True
            self._complete_s = self.env.now + lease_s
        self._presences[presence.name] = presence, self.env.now + lease_s
        self._reports += 1
        self._wake(self._watchers)
        return self.presences()

    def withdraw(self, name: str) -> None:
        self._presences.pop(name, None)
        self._reports += 1
        self._wake(self._watchers)

    def presences(self) -> Presences:
        now_s = self.env.now
        ended = [name for name, (_presence, end_s) in self._presences.items() if end_s <= now_s]
        for name in ended:
            del self._presences[name]
        return Presences(
            {name: presence for name, (presence, _end_s) in self._presences.items()},
            self._has_first_report and now_s >= self._complete_s,
            str(self._data_set),
        )

    @property
    def reports(self) -> int:
        return self._reports


class SimulatedEngine:
    """One edge's connection; implements ``streamedge.shared_log.engine.Engine``."""

    def __init__(self, server: SimulatedServer, name: str) -> None:
        self._server = server
        self._name = name
        self._memory = MemoryEngine(server.memory)
        self._seen_reports = 0

    async def append(
        self,
        entry: Entry,
        *,
        line: int,
        documents: Mapping[str, str | None] | None = None,
        expected_resources_position: int | None = None,
    ) -> int:
        return await self._call(
            lambda: _now(
                self._memory.append(
                    entry,
                    line=line,
                    documents=documents,
                    expected_resources_position=expected_resources_position,
                )
            ),
            self._server.cost_s(pushes=self._server.edges),
        )

    async def append_many(self, entries: Sequence[Entry], *, line: int) -> list[int]:
        return await self._call(
            lambda: _now(self._memory.append_many(entries, line=line)),
            self._server.cost_s(pushes=self._server.edges),
        )

    async def read_after(
        self, position: int, entry_id: str, *, count: int, wait_s: float
    ) -> list[PlacedEntry]:
        def read() -> list[PlacedEntry]:
            return _now(self._memory.read_after(position, entry_id, count=count, wait_s=0.0))

        return await self._wait(read, wait_s, reports=False)

    async def entry_ids(self, positions: Sequence[int]) -> list[str | None]:
        return await self._call(lambda: _now(self._memory.entry_ids(positions)))

    async def bounds(self) -> Bounds:
        return await self._call(lambda: _now(self._memory.bounds()))

    async def begin_line(self, line: int, entry: Entry, snapshot: Snapshot) -> bool:
        return await self._call(lambda: _now(self._memory.begin_line(line, entry, snapshot)))

    async def snapshot(self) -> Snapshot:
        return await self._call(lambda: _now(self._memory.snapshot()))

    async def report(
        self, presence: Presence, lease_s: float, *, applied: int = START, entry_id: str = ""
    ) -> Presences:
        server = self._server
        return await self._call(
            lambda: server.report(presence, lease_s, applied, entry_id),
            server.cost_s(presences=server.edges, pushes=server.edges),
        )

    async def withdraw(self, name: str) -> None:
        await self._call(lambda: self._server.withdraw(name))

    async def presence_after(self, wait_s: float) -> Presences:
        server = self._server

        def read() -> Presences | None:
            if server.reports == self._seen_reports:
                return None
            self._seen_reports = server.reports
            return server.presences()

        presences = await self._wait(read, wait_s, reports=True)
        if presences is None:
            return await self._call(server.presences, server.cost_s(presences=server.edges))
        return presences

    async def trim(self, position: int, *, keep: int = 0) -> None:
        await self._call(lambda: _now(self._memory.trim(position, keep=keep)))

    async def problems(self) -> list[str]:
        return []

    async def close(self) -> None:
        return None

    async def _call(
        self,
        work: Callable[[], T],
        cost_s: float | None = None,
        *,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> T:
        """Calls the server on a connection of its own."""
        server, network = self._server, self._server.network
        future, finish = self._future()

        def answer(result: object) -> None:
            network.send(ENGINE, self._name, lambda: finish(result))

        network.send(
            self._name,
            ENGINE,
            lambda: server.execute(work, answer, server.cost_s() if cost_s is None else cost_s),
        )
        result: T = await self._result(future, timeout_s)
        return result

    async def _wait(self, read: Callable[[], T], wait_s: float, *, reports: bool) -> T:
        """Calls the server again and again there, until there is something or time is over."""
        server, network = self._server, self._server.network
        connection = (self._name, reports)
        future, finish = self._future()

        def send(result: object) -> None:
            network.send(ENGINE, self._name, lambda: finish(result), connection)

        def look(*, is_last: bool = False) -> bool:
            result: object
            try:
                result = read()
            except EngineError as exc:
                result = exc
            if result or is_last:
                send(result)
                return True
            return False

        def begin() -> None:
            if look(is_last=wait_s <= 0):
                return
            deadline_s = server.env.now + wait_s
            server.wait(
                lambda: look(is_last=server.env.now >= deadline_s - 1e-9),
                reports=reports,
                wait_s=wait_s,
            )

        def refused(result: object) -> None:
            if isinstance(result, EngineError):
                send(result)

        network.send(
            self._name,
            ENGINE,
            lambda: server.execute(begin, refused, server.cost_s()),
            (self._name, reports, "out"),
        )
        result: T = await self._result(future, wait_s + CALL_TIMEOUT_S)
        return result

    def _future(self) -> tuple[asyncio.Future[Any], _Answer]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def finish(result: object) -> None:
            loop.call_soon(_set_result, future, result)

        return future, finish

    async def _result(self, future: asyncio.Future[Any], timeout_s: float) -> Any:
        try:
            async with asyncio.timeout(timeout_s):
                result = await future
        except TimeoutError:
            raise EngineError("the engine does not answer in time") from None
        if isinstance(result, Exception):
            raise result
        return result


def _set_result(future: asyncio.Future[Any], result: object) -> None:
    if not future.done():
        future.set_result(result)


def _now(call: Coroutine[Any, Any, T]) -> T:
    """The result of a call of the engine in memory, which waits for nothing."""
    try:
        call.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    raise AssertionError("the engine in memory has to wait")
