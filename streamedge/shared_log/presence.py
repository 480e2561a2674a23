"""Reports that this edge lives, reads who else does, and keeps this edge's own state.

``fleet.lease`` has the rules of the own state, ``fleet.attendance`` those of the others. Each
change of state is one log line. The workers see the own state in shared memory.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, inf
from typing import NamedTuple

from streamedge.coordination.fleet_status import FleetStatus, lease_clock_s
from streamedge.coordination.wakeups import ChangeEvent
from streamedge.fleet import lease
from streamedge.fleet.attendance import Attendance
from streamedge.fleet.lease import Standing
from streamedge.fleet.members import Presence
from streamedge.fleet.position import START, format_position, line_of
from streamedge.fleet.states import EdgeState
from streamedge.ops.log import Log
from streamedge.shared_log.engine import Engine, EngineError, Presences

NEAR_HEAD_ENTRIES = 1000
CHECK_INTERVAL_S = 0.05  # for the end of the lease, and for a drain
WATCH_S = 1.0
HEAD_INTERVAL_S = 1.0  # at least, between reads of the head for the lag that is shown
RETRY_S = 0.2
CATCH_UP_PAUSE_S = 0.1  # between reports of an edge that is not current yet
REPORTS_APART_S = 0.05  # at least, in a row: reports of many batches are one
# After an entry all edges report at about the same time, and each edge reads all reports. The
# delay lets them apply the entry first, and lets one look read most of the reports.
REPORT_DELAY_S = 0.005
LOOKS_APART_S = 0.02
IDLE_LOOKS_APART_S = 0.5
"""While nothing here waits for the reports of others: every edge gets those of all, so what one
costs counts more than how soon it is seen."""


class AppliedLog(NamedTuple):
    """How far this edge has applied the shared log.

    ``position`` and ``entry_id``: of the entry applied last in this edge's copy. ``by_workers``:
    the position up to which all workers have applied it. ``history``: another number if positions
    may be those of other entries now.
    """

    position: int
    entry_id: str
    by_workers: int
    history: int = 0


@dataclass(frozen=True, slots=True)
class OwnEdge:
    """This edge, as its presence describes it.

    ``applied``, ``load`` and ``drains`` return how far it is, its open connections, and whether an
    operator drains it. ``is_new``: it had not joined its fleet when the process started.
    """

    name: str
    applied: Callable[[], AppliedLog]
    load: Callable[[], int]
    drains: Callable[[], bool]
    is_new: bool


class PresenceReporter:
    """Keeps this edge's presence in the engine.

    ``change_event`` is notified when presences change. ``continues``: the process replaces one that
    has not withdrawn the presence; if ``status`` says that the edge is UP, it stays so.
    """

    def __init__(
        self,
        edge: OwnEdge,
        engine: Engine,
        lease_s: float,
        status: FleetStatus,
        log: Log,
        change_event: ChangeEvent,
        *,
        continues: bool = False,
        clock: Callable[[], float] = lease_clock_s,
    ) -> None:
        self.name = edge.name
        self.lease_s = lease_s
        self._engine = engine
        self._status = status
        self._log = log
        self._change_event = change_event
        self._applied = edge.applied
        self._load = edge.load
        self._drains = edge.drains
        self._is_new = edge.is_new
        self._clock = clock
        self._data_set_before_joining = ""
        self._beat = 0
        self._wake = asyncio.Event()
        self._head = 0
        self._own_before = ""
        self.standing = Standing()
        self._continues = continues and status.state is EdgeState.UP
        if self._continues:
            self.standing = lease.continued(status.hears_until_s)
        self.attendance = Attendance()
        self._reported = Attendance()  # from the response to the last report
        self._heard_s = -inf  # when the presences were read last
        self.fault = ""
        self._completed = 0
        self._completed_history = 0
        self._waiting = 0
        self._begins_to_wait = asyncio.Event()
        self._head_read_s = 0.0
        self._behind_since_s: float | None = None

    @property
    def state(self) -> EdgeState:
        """The state of this edge now."""
        return lease.at(self.standing, self._clock()).state

    @property
    def head(self) -> int:
        """The position of the newest entry of the log, as it was read last."""
        return max(self._head, self._applied().position)

    @property
    def lag_s(self) -> float:
        """For how long the workers have been behind the newest entry that is known here."""
        if self._behind_since_s is None:
            return 0.0
        return self._clock() - self._behind_since_s

    @property
    def hears_fleet(self) -> bool:
        """Whether cached objects may be used without validation."""
        return self._clock() < self.standing.hears_until_s

    @property
    def knows_others(self) -> bool:
        """Whether the presences of the other edges are those of now: read within a lease."""
        return self._clock() - self._heard_s < self.lease_s

    @property
    def position(self) -> int:
        """All workers of this edge have applied the shared log up to here."""
        return self._applied().by_workers

    @property
    def hears_engine(self) -> bool:
        """Whether the last report has succeeded."""
        return not self.fault

    def has_completed(self, position: int) -> bool:
        """Whether every edge has applied all entries up to a position, as far as is known here."""
        return self._completed_history == self._applied().history and position <= self._completed

    def edges_with(self, position: int) -> set[str]:
        """The edges that have applied all entries up to a position, as far as is known here.

        The response to a report may say so before the presences that are watched do, or after.
        """
        names = self.attendance.applied(position) | self._reported.applied(position)
        names.discard(self.name)
        return names | {self.name} if self.position >= position else names

    def missing(self, position: int) -> list[str]:
        """Why entries up to a position are not completed, as sentences that say what to do."""
        if self.position < position:
            return [f"not all workers of {self.name} have applied it: see the log of this edge"]
        if self.fault:
            return [
                f"{self.name} does not hear from the engine ({self.fault}): mend the engine, or the"
                " way to it, then invalidate again"
            ]
        if not self.hears_fleet:
            return [
                f"{self.name} has not joined the fleet yet: invalidate again when streamedge fleet"
                " shows it as up"
            ]
        sentences = [
            f"{name} reports that it has not applied it: invalidate again when streamedge fleet"
            " shows this edge without a lag, or as gone"
            for name in self._reported.behind(position)
            if name not in self.edges_with(position)
        ]
        if not self._reported.is_complete:
            sentences.append(
                "the engine has collected reports for less than one fleet.lease (it is new, or was"
                " restarted) or has one that this edge cannot read, so an edge may be unknown to"
                f" it: invalidate again in {ceil(self.lease_s)} s"
            )
        return sentences or [f"{self.name} has not reported since: invalidate again"]

    async def wait_completed(
        self, position: int, timeout_s: float, observe: Callable[[], None] = lambda: None
    ) -> bool:
        """Waits until every edge has applied all entries up to a position.

        ``observe`` is called after each change of the presences.
        """

        def has_completed() -> bool:
            observe()
            return self.has_completed(position)

        self._waiting += 1
        self._begins_to_wait.set()
        self.report_soon()
        try:
            return await self._change_event.wait_for(has_completed, timeout_s)
        finally:
            self._waiting -= 1

    def report_soon(self) -> None:
        """Makes the next report come now: the workers have applied entries."""
        self._wake.set()

    async def report(self) -> None:
        """Reports again and again, until cancelled."""
        interval_s = self.lease_s / lease.REPORTS_PER_LEASE
        if self._continues:
            await self._await_position()
        while True:
            self._wake.clear()
            try:
                await self._report_once()
            except EngineError as exc:
                self._failed(exc)
                await asyncio.sleep(RETRY_S)
                continue
            reported_s = self._clock()
            pause_s = interval_s if self.standing.is_current else CATCH_UP_PAUSE_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()
            pause_s = max(REPORT_DELAY_S, reported_s + REPORTS_APART_S - self._clock())
            await asyncio.sleep(pause_s)

    async def watch(self) -> None:
        """Reads presences whenever an edge has reported, until cancelled."""
        while True:
            try:
                self._update(await self._engine.presence_after(WATCH_S))
            except EngineError:
                await asyncio.sleep(RETRY_S)
            if self._is_awaited:
                await asyncio.sleep(LOOKS_APART_S)
                continue
            self._begins_to_wait.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(IDLE_LOOKS_APART_S):
                    await self._begins_to_wait.wait()

    async def check(self) -> None:
        """Notices the end of the lease, and a drain; called every CHECK_INTERVAL_S."""
        now_s, applied = self._clock(), self._applied()
        if self._is_awaited:
            self._begins_to_wait.set()  # a worker waits
        if applied.history != self._completed_history:
            self._status.note_completed(START)  # these positions may be those of other entries
        self._direct(lease.at(self.standing, now_s))
        if applied.by_workers >= max(self._head, applied.position):
            self._behind_since_s = None
        elif self._behind_since_s is None:
            self._behind_since_s = now_s

    async def withdraw(self) -> None:
        """Ends the presence because the edge stops; others need not wait for the lease."""
        self.standing = Standing(EdgeState.DRAINING)
        self._status.note(self.standing.state, 0.0)
        with contextlib.suppress(EngineError):
            await self._engine.withdraw(self.name)

    async def _await_position(self) -> None:
        """Waits until this process knows how far the edge is, half of the lease at most.

        The engine has the position from before, and the reported one must not go back.
        """
        remaining_s = max(0.0, self.standing.hears_until_s - self._clock())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(remaining_s / 2):
                while self._applied().by_workers == START:
                    self._wake.clear()
                    await self._wake.wait()

    async def _report_once(self) -> None:
        applied = self._applied()
        self._beat += 1
        is_near = line_of(self._head) == line_of(applied.by_workers) and (
            self._head - applied.by_workers <= NEAR_HEAD_ENTRIES
        )
        reported = lease.state_to_report(self.standing, is_near_head=self._beat > 1 and is_near)
        presence = Presence(self.name, reported, applied.by_workers, self._load(), self._beat)
        sent_s = self._clock()
        presences = await self._engine.report(
            presence, self.lease_s, applied=applied.position, entry_id=applied.entry_id
        )
        now_s = self._clock()
        standing = lease.after_report(
            self.standing,
            reported,
            sent_s,
            now_s,
            self.lease_s,
            is_complete=self._is_complete(presences),
        )
        self._direct(standing)
        self._complete(presences, applied)
        if not self.standing.is_current:
            await self._catch_up()
        elif now_s - self._head_read_s >= HEAD_INTERVAL_S:
            await self._read_head()
        self.fault = ""

    def _is_complete(self, presences: Presences) -> bool:
        """Whether the log has all entries that may cover what is cached here.

        Joining makes everything older invalid, so a data set that is still the one from before
        then is complete for this edge: a new fleet does not wait for the first lease.
        """
        data_set = presences.data_set
        if self._is_new and self._applied().position == START:
            self._data_set_before_joining = data_set
        return presences.complete or (bool(data_set) and data_set == self._data_set_before_joining)

    async def _catch_up(self) -> None:
        """Reads the head of the log, and compares it with what the workers have applied."""
        await self._read_head()
        self._become(lease.after_head(self.standing, self._head, self._clock()))
        applied = self._applied()
        if not self.standing.is_whole or applied.by_workers < self.standing.head:
            return
        # The position alone could be one of a history that the engine has lost.
        [entry_id] = await self._engine.entry_ids([applied.position])
        if (entry_id or "") == applied.entry_id:
            now_s = self._clock()
            self._become(lease.after_applying(self.standing, applied.by_workers, now_s))

    async def _read_head(self) -> None:
        self._head = (await self._engine.bounds()).last
        self._head_read_s = self._clock()

    def _failed(self, exc: EngineError) -> None:
        self.fault = str(exc) or repr(exc)
        self._direct(lease.at(self.standing, self._clock()))

    def _direct(self, standing: Standing) -> None:
        drains = self._drains() or self._status.is_stopping
        self._become(lease.directed(standing, drains=drains))

    def _become(self, standing: Standing) -> None:
        before, self.standing = self.standing, standing
        until_s = standing.hears_until_s
        self._status.note(standing.state, 0.0 if until_s == -inf else until_s)
        was, now = _own_state(before), _own_state(standing)
        if was != now or not self._own_before:
            applied = self._applied()
            self._log.event(
                "edge_state",
                edge=self.name,
                state=now,
                before=self._own_before or None,
                position=format_position(applied.by_workers),
                reason=self.fault or None,
            )
            self._own_before = now
            self._wake.set()
            self._change_event.notify()

    def _update(self, presences: Presences) -> None:
        """Takes the presences that last."""
        self._heard_s = self._clock()
        changes = self.attendance.update(presences.by_name, is_complete=presences.complete)
        for change in changes:
            if change.name != self.name:
                self._log.event(
                    "edge_state", edge=change.name, state=change.after, before=change.before or None
                )
        if (
            self._is_awaited
            and self.attendance.completed(self._applied().by_workers) > self._completed
        ):
            self.report_soon()  # its answer says whether these are all edges
        self._change_event.notify()

    @property
    def _is_awaited(self) -> bool:
        """Whether something here waits until other edges have applied entries."""
        return self._waiting > 0 or self._status.awaits_completion

    def _complete(self, presences: Presences, own: AppliedLog) -> None:
        """Notes what is completed, by presences that were read after this edge had applied ``own``.

        Those that were pushed may lack an edge that has just joined. After lost history, the
        positions that were completed are those of other entries.
        """
        if self._clock() < self.standing.hears_until_s:
            self._reported = Attendance(presences.by_name, is_complete=presences.complete)
            completed = self._reported.completed(own.by_workers)
            if completed > self._completed or own.history != self._completed_history:
                self._completed, self._completed_history = completed, own.history
                self._status.note_completed(max(START, completed))
                self._change_event.notify()


def _own_state(standing: Standing) -> str:
    """The state for the log; an edge that drains may have lost the engine besides."""
    if standing.state is EdgeState.DRAINING and not standing.is_current:
        return "draining, lost"
    return standing.state.value
