"""A simulated edge: its real control process, its worker, and the disk that outlives both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from pathlib import Path
from typing import Any, cast

import simpy

from streamedge.control.database import ControlDatabase, ControlError
from streamedge.control.fleet_positions import FleetPositions, read_placements
from streamedge.control.invalidation_index import InvalidationIndex, Verdict
from streamedge.control.log import ControlLog, RowKind
from streamedge.control.replica import Replica
from streamedge.control.resources import ConflictError, Kind, ResourceStore, UnavailableError
from streamedge.coordination.fleet_status import FleetStatus
from streamedge.coordination.wakeups import ChangeEvent
from streamedge.fleet.members import Member
from streamedge.fleet.position import parse_position
from streamedge.fleet.states import EdgeState
from streamedge.ops.log import Log
from streamedge.shared_log.applied_batches import AppliedBatches
from streamedge.shared_log.presence import CHECK_INTERVAL_S, OwnEdge, PresenceReporter
from streamedge.shared_log.resource_changes import append_change, expected_position
from streamedge.shared_log.service import FleetService, LocalEdge
from tests.support.fleet.replica_edge import RecordedLog, resource
from tests.support.fleet.simulation.engine import SimulatedEngine, SimulatedServer
from tests.support.fleet.simulation.loop import SimulatedLoop

SCOPE = "E"
WORKER_CHECK_S = 0.1  # as ``process.traffic.CHECK_INTERVAL_S``
EPOCH_S = 1_800_000_000.0


@dataclass(frozen=True)
class Timing:
    """``lease_s`` as in the config; ``skew_s`` of the wall clock; ``rate`` of the monotonic one.

    ``thread_s``: a call in a thread. ``worker_s``: until a worker has applied new rows.
    """

    lease_s: float = 10.0
    skew_s: float = 0.0
    rate: float = 1.0
    thread_s: float = 0.001
    worker_s: float = 0.001


@dataclass
class Cached:
    """A cached object: its version, and the position of the control log at its request."""

    version: int
    position: int


class SimulatedStatus(FleetStatus):
    """Read by a simulated clock."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self._clock = clock
        self._until_s = -inf

    def note(self, state: EdgeState, hears_until_s: float) -> None:
        super().note(state, hears_until_s)
        self._until_s = hears_until_s

    @property
    def hears_until_s(self) -> float:
        return self._until_s

    def hears_fleet(self) -> bool:
        return self._clock() < self._until_s


class ObservedChangeEvent(ChangeEvent):
    """Also calls ``observe`` at each change."""

    def __init__(self, observe: Callable[[], None]) -> None:
        super().__init__()
        self._observe = observe

    def notify(self) -> None:
        super().notify()
        self._observe()


class SimulatedEdge:
    """One edge. ``cache`` and the control database outlive ``kill`` and ``start``."""

    def __init__(
        self,
        env: simpy.Environment,
        server: SimulatedServer,
        folder: Path,
        member: Member,
        timing: Timing,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.env = env
        self.name = member.name
        self.member = member
        self.timing = timing
        self.cache: dict[str, Cached] = {}
        self.is_up = False
        self.is_stopped = False
        self.life = 0
        """Counts starts and kills."""
        self.lines: list[dict[str, Any]] = []
        self.failures: list[str] = []
        self._announced = 0
        self._worker_position = 0
        self.reads_clock = True
        self.in_effect: set[str] = set()
        """The ids of the entries that the worker has applied."""
        self.on_change: Callable[[SimulatedEdge], None] = lambda _edge: None
        self._server = server
        self._folder = folder
        self._gone_on = env.event()
        self._log = cast("Log", RecordedLog(self.lines))
        self.start()

    # Life

    def replace(self) -> None:
        """An upgrade: other processes take over, with the state in memory."""
        status = self.status
        self.kill()
        self.start(status)

    def start(self, status: SimulatedStatus | None = None) -> None:
        """Starts the control process and the worker on what is on disk.

        ``status``: that of processes before an upgrade.
        """
        timing = self.timing
        self.is_up = True
        self.life += 1
        self.loop = SimulatedLoop(
            self.env,
            rate=timing.rate,
            offset_s=1000.0 + 10 * timing.skew_s,
            thread_s=timing.thread_s,
        )
        self.database = ControlDatabase(self._folder)
        self.control_log = ControlLog(self.database, edge=self.name, clock=self._wall_s)
        self.resources = ResourceStore(self.database)
        replica = Replica(self.database, self.name, lambda *_keys: None, clock=self._wall_s)
        self.engine = SimulatedEngine(self._server, self.name)
        self.service = FleetService(
            self.engine,
            replica,
            self.member,
            LocalEdge(self._publish_rows, lambda: "copy"),
            self._log,
            clock=self._wall_s,
            monotonic=self.loop.time,
        )
        self.status = status or SimulatedStatus(self.loop.time)
        self.change_event = ObservedChangeEvent(lambda: self.on_change(self))
        self._batches = AppliedBatches(
            self.service, lambda position: self._worker_position >= position
        )
        own = OwnEdge(
            self.name,
            self._batches.applied,
            load=lambda: 0,
            drains=lambda: False,
            is_new=replica.state() is None,
        )
        self.presence = PresenceReporter(
            own,
            self.engine,
            timing.lease_s,
            self.status,
            self._log,
            self.change_event,
            continues=status is not None,
            clock=self.loop.time,
        )
        self._start_worker()
        for work in (
            self.service.follow,
            self.service.publish,
            self.presence.report,
            self.presence.watch,
            partial(self._batches.follow, self.notice),
        ):
            self.loop.start(self._keep(work))
        self._repeat(CHECK_INTERVAL_S, self._check)
        self._repeat(WORKER_CHECK_S, self._check_worker)

    def kill(self) -> None:
        """All processes end at once."""
        self.go_on()
        self.is_up = False
        self.life += 1
        self.failures += self.loop.failures
        self.loop.kill()
        self.database.close()
        self.lookups: dict[str, simpy.Event] = {}

    def stop(self) -> None:
        """SIGSTOP to all processes."""
        self.is_stopped = True
        self.loop.stop()

    def go_on(self) -> None:
        """SIGCONT: what was received is handled before timers that are due."""
        if self.is_stopped:
            self.is_stopped = False
            gone_on, self._gone_on = self._gone_on, self.env.event()
            gone_on.succeed()
            self.loop.go_on()

    @property
    def gone_on(self) -> simpy.Event:
        """Triggered by the next ``go_on``."""
        return self._gone_on

    def _wall_s(self) -> float:
        return EPOCH_S + self.timing.skew_s + self.env.now * self.timing.rate

    async def _keep(self, work: Callable[[], Any]) -> None:
        """As ``ops.background.Services``, but no failure is expected."""
        try:
            await work()
        except Exception as exc:
            self.failures.append(f"{self.name}: {exc!r}")
            raise

    def _repeat(self, interval_s: float, work: Callable[[], None]) -> None:
        loop = self.loop

        def again() -> None:
            work()
            loop.call_later(interval_s, again)

        loop.call_later(interval_s, again)

    def _check(self) -> None:
        check = self.presence.check()
        try:
            check.send(None)
        except StopIteration:
            return
        raise AssertionError("the check of the lease has to wait")

    # The control process and its workers, as ``process.fleet.parts`` connects them

    def _publish_rows(self, local_position: int) -> bool:
        """New rows are in effect for requests at once; workers note it a little later."""
        self._announced = max(self._announced, local_position)
        loop = self.loop
        loop.call_later(self.timing.worker_s, self._apply_rows, local_position)
        return True

    def _apply_rows(self, local_position: int) -> None:
        if self.index.refresh(self._announced, again=True):
            self._worker_position = max(self._worker_position, self.index.position)
            self.in_effect = self.known_ids()
            self.notice()

    def notice(self) -> None:
        self.service.notify_unpublished()
        if self._batches.have_workers_advanced():
            self.presence.report_soon()
        self.on_change(self)

    # The worker

    def _start_worker(self) -> None:
        positions = FleetPositions(partial(read_placements, self.database))
        self.index = InvalidationIndex(
            self.control_log, self._log, monotonic=self.loop.time, fleet=positions
        )
        self._announced = self.control_log.position()
        self.index.refresh(self._announced, again=True)
        self._worker_position = self.index.position
        self.hears_fleet = False
        self.lookups = {}

    def _check_worker(self) -> None:
        self.hears_fleet = self.status.hears_fleet()
        self.on_change(self)

    def refresh(self) -> None:
        """Applies announced rows, as the worker does with each request."""
        self.index.refresh(self._announced)

    def fresh(self, name: str) -> Cached | None:
        """What is cached of an object, if it may be used now."""
        cached = self.cache.get(name)
        self.refresh()
        hears_fleet = self.hears_fleet and (not self.reads_clock or self.status.hears_fleet())
        if cached is None or not hears_fleet:
            return None
        validity = self.index.validity(SCOPE, name, frozenset, cached.position)
        return cached if validity.verdict is Verdict.FRESH else None

    @property
    def has_unplaced_rows(self) -> bool:
        """Whether rows of this edge are not in the shared log, as far as the worker knows."""
        return self.index.has_waiting_rows

    @property
    def members(self) -> Mapping[str, Member]:
        return self.service.view.members

    # Operators

    def invalidate(self, name: str) -> str:
        """An invalidation by this edge's API; it is durable here. Returns the id of its entry."""
        row = self.control_log.invalidate(SCOPE, [name])
        self._publish_rows(self.control_log.position())
        self.service.notify_unpublished()
        return newest_entry_id(self.database, row.epoch)

    async def change(self, identifier: str, etag: str, acknowledge: Callable[[], None]) -> None:
        """Creates or replaces a resource by this edge's API."""
        try:
            with self.database.read() as connection:
                expected = expected_position(connection)
            before = {one.id: one for one in self.resources.resources()}.get(identifier)
            after = resource(identifier, etag)
            changes = {(Kind.PUBLIC_KEY, identifier): (before, after)}
            await append_change(self.service, changes, expected)
        except (ConflictError, UnavailableError, ControlError):
            return
        acknowledge()

    def has_completed(self, entry_id: str) -> bool:
        """Whether this edge's API says Completed of an invalidation."""
        place = self.service.replica.place_of(entry_id)
        return (
            place is not None
            and place.position is not None
            and self.presence.has_completed(place.position)
        )

    def weigh(self, weight: float) -> None:
        """Another weight of this edge, for the whole fleet."""
        self.member = replace(self.member, weight=weight)
        self.loop.start(self.service.publish_member(self.member))

    # For checks

    @property
    def has_rewound(self) -> bool:
        """Whether the edge ever went back because the shared log has lost entries."""
        return any(line["event"] == "fleet_history_lost" for line in self.lines)

    def is_settled(self) -> bool:
        """Whether everything is published, and the documents are the engine's."""
        state = self.service.replica.state()
        return state is not None and state.is_reconciled and not self.service.replica.unpublished(1)

    def describe(self) -> str:
        return f"{self.status.state}, {self.service.replica.state()}, {self.lines[-3:]}"

    def placed(self) -> dict[int, str]:
        """The ids of the entries here, by position."""
        return dict(self.service.replica.newest_placed(1 << 62, 1_000_000))

    def begins_after(self) -> int:
        """The position of the last snapshot that this edge has begun to follow from."""
        return max(
            parse_position(line["position"])
            for line in self.lines
            if line["event"] in {"fleet_joined", "fleet_log_trimmed"}
        )

    def row_ids(self) -> list[str]:
        """The ids of all invalidations in the control log."""
        rows = self.control_log.read_after(0).rows
        return [row.id for row in rows if row.kind is RowKind.INVALIDATION]

    def has_everything_row(self) -> bool:
        return any(row.kind is RowKind.EVERYTHING for row in self.control_log.read_after(0).rows)

    def known_ids(self) -> set[str]:
        """The ids of all entries that were applied here; empty while the edge is down."""
        if not self.is_up:
            return set()
        with self.database.read() as connection:
            return {id_ for (id_,) in connection.execute("SELECT id FROM fleet_entries")}

    def documents(self) -> dict[str, str]:
        """The ETags of all resources by id."""
        return {one.id: one.etag for one in self.resources.resources()}


def newest_entry_id(database: ControlDatabase, epoch: int) -> str:
    """The id of the entry of a row of the control log."""
    with database.read() as connection:
        (entry_id,) = connection.execute(
            "SELECT id FROM fleet_entries WHERE epoch = ? AND has_row = 1", (epoch,)
        ).fetchone()
    return str(entry_id)


def member_named(name: str, weight: float = 1.0) -> Member:
    return Member(name, peer_address=f"{name}:7443", weight=weight)
