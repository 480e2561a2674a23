"""What a worker knows of the queued writes of its fleet, and what it publishes of its own.

In a fleet of one there is none of this, and nothing here is imported.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from streamedge.cache.objects import Cache
from streamedge.control.database import ControlDatabase
from streamedge.coordination.shared_state import SharedState
from streamedge.coordination.shared_writes import SharedWrites
from streamedge.ops.log import Log
from streamedge.ops.metrics import Counts
from streamedge.origin.peer.tier import Fleet
from streamedge.write_back.fleet_differences import queued_body
from streamedge.write_back.fleet_turns import FleetTurns
from streamedge.write_back.fleet_writes import FleetWrites
from streamedge.write_back.holders import PeerHolders
from streamedge.write_back.queue import WriteQueue
from streamedge.write_back.rows import WriteQueueError
from streamedge.write_back.states import PENDING_STATES

BUSY_TIMEOUT_S = 1.0
QUEUE_DRAIN_S = 5.0
QUEUE_POLL_S = 0.1


class WorkerWrites:
    """The parts of one worker. ``database`` must not wait for locks; ``fleet``: None without
    connections to other edges.
    """

    def __init__(
        self,
        shared: SharedState,
        cache: Cache,
        database: ControlDatabase,
        fleet: Fleet | None,
        write_queue: WriteQueue | None,
        log: Log,
        counts: Counts,
    ) -> None:
        edge = shared.config_versions.config.edge
        wakeups = shared.wakeups
        holders = None if fleet is None else PeerHolders(fleet)
        self.fleet_writes = FleetWrites(
            edge.name, database, cache.store.changes, holders, log, counts
        )
        self._thread_database = ControlDatabase(edge.cache, busy_timeout_s=BUSY_TIMEOUT_S)
        self.shared_writes = SharedWrites(
            self._thread_database,
            edge.name,
            partial(wakeups.notify_at, wakeups.control),
            log,
            cache.store.changes.announce_invalidation,
            partial(_describe, write_queue, edge.name),
            _all_completed if shared.fleet is None else shared.fleet.has_completed,
        )
        cache.share_writes = self.shared_writes.share
        self._write_queue = write_queue
        self._log = log
        self.turns: FleetTurns | None = None
        if write_queue is not None:
            write_queue.publish = self.shared_writes.share_queued
            write_queue.is_waiting_elsewhere = self.fleet_writes.is_waiting_below
            write_queue.newest_elsewhere = self.fleet_writes.newest
            self.turns = FleetTurns(
                edge.name,
                self._thread_database,
                write_queue,
                holders,
                self.shared_writes.share_pending,
            )

    async def drain(self, timeout_s: float) -> None:
        """Lets the replicator send what waits, for QUEUE_DRAIN_S at most: other edges cannot read
        it when this edge has stopped.
        """
        if self._write_queue is None:
            return
        try:
            async with asyncio.timeout(min(timeout_s, QUEUE_DRAIN_S)):
                while True:
                    if not await self._count_waiting():
                        return
                    await asyncio.sleep(QUEUE_POLL_S)  # the queue notifies the replicator alone
        except WriteQueueError:
            return
        except TimeoutError:
            if timeout_s > 0:
                effect = "other edges get the origin's objects until this edge is started again"
                self._log.event("queued_writes_left", effect=effect)

    async def _count_waiting(self) -> int:
        if self._write_queue is None:
            return 0
        by_state = await asyncio.to_thread(self._write_queue.rows.by_state)
        return sum(by_state.get(state, 0) for state in PENDING_STATES)

    async def close(self) -> None:
        """Waits until all that is to be published is on disk."""
        await self.shared_writes.close()
        self._thread_database.close()


def _all_completed(_position: int) -> bool:
    return True


def _describe(write_queue: WriteQueue | None, edge: str, key: str) -> dict[str, Any] | None:
    """The body of the entry of an object's newest queued write; None: none waits any more."""
    if write_queue is None:
        return None
    try:
        row = write_queue.rows.newest(key)
    except WriteQueueError:
        return None  # the replicator publishes it later
    return None if row is None else queued_body(row, edge)
