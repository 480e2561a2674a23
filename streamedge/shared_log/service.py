"""This edge's part in its fleet, in the control process: follower, publisher, and their state.

``FleetService`` runs on the event loop of the control process; SQLite runs in threads. Other parts
read ``position``, ``line``, ``is_engine_up`` and ``is_caught_up``, wait at ``change_event``, and
publish with ``publish_member``.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from streamedge.callbacks import do_nothing
from streamedge.control.database import ControlError
from streamedge.control.fleet_view import FleetView
from streamedge.control.replica import AppliedEntries, Replica
from streamedge.coordination.wakeups import ChangeEvent
from streamedge.fleet.entries import Entry, EntryKind, PlacedEntry, new_entry_id
from streamedge.fleet.members import Member, Role
from streamedge.fleet.position import START, format_position
from streamedge.ops.background import Services
from streamedge.ops.log import Log
from streamedge.shared_log.engine import Engine, EngineError, HistoryError
from streamedge.shared_log.follower import Follower
from streamedge.shared_log.publisher import Publisher

PAUSES_S = (0.05, 0.1, 0.2)  # after failures in a row, each up to twice as long
WAKE_DELAY_S = 0.015
"""From the moment when a row is in effect until idle workers read it, and others here notice it:
edges that share a machine first put it into effect, and rows in a row cost one wake-up."""
TRIM_ENTRIES = 500  # followed since the last call
TRIM_INTERVAL_S = 60.0
CHECKPOINT_ENTRIES = 100  # followed since the last one: a few hundred pages of the WAL
CHECKPOINT_DELAY_S = 0.1  # behind an entry, which other edges of the machine may still apply
CHECKPOINTS_APART_S = 1.0
PUBLISHED_INTERVAL_S = 1.0  # between looks for waiting entries without a wake-up


@dataclass(frozen=True, slots=True)
class LocalEdge:
    """What the service calls on this edge.

    ``announce_rows``, ``wake_workers`` and ``await_workers`` are those of ``InvalidationFeed``.
    ``checkpoint`` is that of the control database. It is called in a thread, as ``await_workers``
    is. ``copy_aside``: see ``Follower``. ``few_waiting()``: the entries that wait to be published,
    or None if these must be read in a thread; it does not block.
    """

    announce_rows: Callable[[int], bool]
    copy_aside: Callable[[], str]
    few_waiting: Callable[[], Sequence[Entry] | None] = do_nothing
    wake_workers: Callable[[], None] = do_nothing
    await_workers: Callable[[int], None] = do_nothing
    checkpoint: Callable[[], None] = do_nothing


class FleetService:
    """Follows and publishes for the edge described by ``member``."""

    def __init__(
        self,
        engine: Engine,
        replica: Replica,
        member: Member,
        local: LocalEdge,
        log: Log,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.engine = engine
        self.replica = replica
        self.member = member
        self.change_event = ChangeEvent()
        """Notified soon after each batch, and after each change of state."""
        self.is_engine_up = False
        self.is_caught_up = False
        """Whether the log's head was reached since the engine is up."""
        self.position = START
        """This edge has applied the shared log up to here, and has woken its workers."""
        self.entry_id = ""
        """The id of the entry at ``position``."""
        self.local_position = 0
        """In the control log: a worker that has applied it has applied all up to ``position``."""
        self.changes_refused = ""
        """Why the API's changes are refused now, as a sentence; "" where they are not."""
        self.view = FleetView()
        """As of the last batch."""
        self._follower = Follower(
            engine, replica, log, local.copy_aside, self._put_applied_into_effect, clock=clock
        )
        self._in_effect = (0, FleetView())
        self._delayed: asyncio.TimerHandle | None = None
        self._publisher = Publisher(engine, replica, log, monotonic=monotonic)
        self._local = local
        self._log = log
        self._clock = clock
        self._monotonic = monotonic
        self._unpublished = asyncio.Event()
        self._followed_entries = 0
        self._has_failed = False  # since the engine answered last
        self._down_since_s = monotonic()

    @property
    def line(self) -> int:
        """The line that entries are appended to; 0 before the log was read."""
        return self._follower.line

    @property
    def history(self) -> int:
        """Grows whenever entries lose their positions in the shared log."""
        return self._follower.history

    def now_s(self) -> float:
        """Seconds since 1970 by this edge's clock, for new entries."""
        return self._clock()

    def start(self, services: Services) -> None:
        """Starts the tasks that follow and publish."""
        services.start("fleet_follower", self.follow)
        services.start("fleet_publisher", self.publish)
        services.start("fleet_trimmer", self.trim)
        services.start("fleet_checkpoints", self.checkpoint)

    def notify_unpublished(self) -> None:
        """There may be new entries that wait to be published. Called on the event loop."""
        self._unpublished.set()

    def note_own_rows(self, *, at_once: bool) -> None:
        """Rows of this edge are in effect, and wait to be published. Called on the event loop.

        ``at_once``: idle workers have something to do, too.
        """
        self._unpublished.set()
        self._finish_batch(at_once=at_once)

    async def publish_member(self, member: Member) -> str:
        """Publishes the description of an edge; returns the id of its entry.

        It is on disk here when this returns, and appended when the engine answers.
        """
        entry = Entry(
            new_entry_id(), EntryKind.MEMBER, self.replica.edge, self._clock(), "", member.body()
        )
        await asyncio.to_thread(self.replica.add_own, entry)
        self.notify_unpublished()
        return entry.id

    async def wait_published(self, entry_id: str, timeout_s: float) -> int | None:
        """Waits until an entry has come back in the shared log; its position, None on a timeout."""
        deadline_s = self._monotonic() + timeout_s
        while True:
            seen = self.position
            place = await asyncio.to_thread(self.replica.place_of, entry_id)
            if place is not None and place.position is not None:
                return place.position
            left_s = deadline_s - self._monotonic()
            if left_s <= 0:
                return None

            def has_moved(seen: int = seen) -> bool:
                return self.position != seen

            await self.change_event.wait_for(has_moved, left_s)

    async def wait_applied(self, position: int, timeout_s: float) -> bool:
        """Waits until this edge has applied the shared log up to a position."""
        return await self.change_event.wait_for(lambda: self.position >= position, timeout_s)

    async def follow(self) -> None:
        """Follows the shared log until cancelled; goes on after failures of the engine."""
        failures = 0
        while True:
            try:
                await self._synchronize()
                failures = 0
                while True:
                    await self._step()
            except HistoryError:
                failures = 1  # ``_synchronize`` logs what was lost
            except (EngineError, ControlError) as exc:
                failures += 1
                await self._note_failure(exc)
            await asyncio.sleep(_pause_s(failures))

    async def publish(self) -> None:
        """Publishes waiting entries until cancelled."""
        failures = 0
        while True:
            if self.line == 0 or not self.is_engine_up:
                await self.change_event.wait_for(
                    lambda: self.line != 0 and self.is_engine_up, PUBLISHED_INTERVAL_S
                )
                continue
            self._unpublished.clear()
            count = 0
            try:
                few = self._local.few_waiting()
                if few is None or few:
                    count = await self._publisher.step(self.line, self._follower.position, few)
            except (EngineError, ControlError):
                failures += 1  # the follower logs the engine's state
                await asyncio.sleep(_pause_s(failures))
                continue
            failures = 0
            if count == 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(PUBLISHED_INTERVAL_S):
                        await self._unpublished.wait()

    async def trim(self) -> None:
        """Lets the engine remove old entries while the log grows, until cancelled.

        All edges do so: it costs nothing where there is nothing to remove.
        """
        while True:
            next_trim = self._followed_entries + TRIM_ENTRIES

            def is_due(next_trim: int = next_trim) -> bool:
                return self._followed_entries >= next_trim

            while not await self.change_event.wait_for(is_due, TRIM_INTERVAL_S):
                pass
            with contextlib.suppress(EngineError):
                await self.engine.trim(self.position)

    async def checkpoint(self) -> None:
        """Moves what was followed from the WAL of the control database into its file, until
        cancelled. The transactions of the event loop never wait for the disk instead.
        """
        while True:
            next_checkpoint = self._followed_entries + CHECKPOINT_ENTRIES

            def is_due(next_checkpoint: int = next_checkpoint) -> bool:
                return self._followed_entries >= next_checkpoint

            while not await self.change_event.wait_for(is_due, TRIM_INTERVAL_S):
                pass
            await asyncio.sleep(CHECKPOINT_DELAY_S)
            with contextlib.suppress(ControlError):
                await asyncio.to_thread(self._local.checkpoint)
            await asyncio.sleep(CHECKPOINTS_APART_S)

    async def _synchronize(self) -> None:
        await self._follower.synchronize()
        self._publisher.forget()
        await asyncio.to_thread(self.replica.note_engine, is_up=True)
        await self._put_into_effect()
        self._local.wake_workers()
        self._note_applied()
        if not self.is_engine_up:
            self.is_engine_up = True
            down_s = self._monotonic() - self._down_since_s
            self._log.event(
                "fleet_engine_up",
                position=format_position(self._follower.position),
                line=self.line,
                after_s=round(down_s, 3),
            )
        self._has_failed = False
        await self._publish_own_member()
        self._unpublished.set()
        self.change_event.notify()

    async def _step(self) -> None:
        head = START if self.is_caught_up else (await self.engine.bounds()).last
        if self._follower.position >= head:
            self._note_caught_up()
        applied = await self._follower.step()
        if applied.entries or applied.is_replaced:
            self._followed_entries += len(applied.entries)
            self._publisher.note_followed(applied.entries)
            if applied.is_replaced:
                await self._put_into_effect()
            self._note_applied()
            if self.view.unpublished:
                self._unpublished.set()
            self._finish_batch(at_once=applied.is_replaced or _is_urgent(applied.entries))

    def _note_caught_up(self) -> None:
        if not self.is_caught_up:
            self.is_caught_up = True
            self._log.event("fleet_caught_up", position=format_position(self._follower.position))
            self.change_event.notify()

    def _finish_batch(self, *, at_once: bool) -> None:
        """Wakes what need not hurry, once rows are in effect: ``at_once`` or soon."""
        if not at_once:
            if self._delayed is None:
                loop = asyncio.get_running_loop()
                self._delayed = loop.call_later(WAKE_DELAY_S, self._wake_others)
            return
        if self._delayed is not None:
            self._delayed.cancel()
        self._wake_others()

    def _wake_others(self) -> None:
        self._delayed = None
        self._local.wake_workers()
        self.change_event.notify()

    async def _put_into_effect(self) -> None:
        """Makes the workers apply what is in the control database."""
        local_position, view = await asyncio.to_thread(self._read_replica)
        await self._announce(local_position)
        self._in_effect = local_position, view

    async def _put_applied_into_effect(self, applied: AppliedEntries) -> None:
        """Puts entries that were followed into effect; nothing is read again."""
        await self._announce(applied.local_position)
        self._in_effect = applied.local_position, applied.view

    def _read_replica(self) -> tuple[int, FleetView]:
        return self.replica.local_position(), self.replica.view()

    async def _announce(self, local_position: int) -> None:
        if not self._local.announce_rows(local_position):
            await asyncio.to_thread(self._local.await_workers, local_position)

    def _note_applied(self) -> None:
        """What was applied here is in effect."""
        self.position, self.entry_id = self._follower.position, self._follower.entry_id
        self.local_position, self.view = self._in_effect

    async def _publish_own_member(self) -> None:
        """Publishes this edge's own description where the fleet has none or another one.

        An edge that has just joined always does: see ``ReplicaState.settled_position``.
        """
        if await asyncio.to_thread(self.replica.has_waiting_member, self.member.name):
            return
        here = self.view.members.get(self.member.name)
        state = await asyncio.to_thread(self.replica.state)
        is_settled = state is not None and state.settled_position is not None
        role = Role.SERVING if here is None or here.role is Role.REMOVED else here.role
        member = replace(self.member, role=role)
        if not is_settled or here is None or here.body() != member.body():
            await self.publish_member(member)

    async def _note_failure(self, exc: Exception) -> None:
        """Logs the first of several failures in a row; what failed is tried again."""
        self.is_caught_up = False
        if not self._has_failed:
            self._has_failed = True
            self._down_since_s = self._monotonic()
            position = format_position(self.position)
            if isinstance(exc, EngineError):
                self._log.event(
                    "fleet_engine_down",
                    error=str(exc),
                    position=position,
                    effect="invalidations apply here and are sent later; the API changes nothing",
                )
            else:
                self._log.event("fleet_replica_failed", error=str(exc), position=position)
            self.is_engine_up = False
            with contextlib.suppress(ControlError):
                await asyncio.to_thread(self.replica.note_engine, is_up=False)
        self.change_event.notify()


def _is_urgent(entries: Iterable[PlacedEntry]) -> bool:
    """Whether workers have more to do than to compare cached objects with these entries at the next
    request, or to count as having applied them."""
    return any(
        entry is None
        or entry.kind not in {EntryKind.INVALIDATION, EntryKind.WRITTEN}
        or bool(entry.body.get("revoke"))
        for _position, _id, entry in entries
    )


def _pause_s(failures: int) -> float:
    """The pause after failures in a row, with jitter, so that edges do not come back at once."""
    base_s = PAUSES_S[min(failures, len(PAUSES_S)) - 1]
    return base_s * (1 + random.random())
