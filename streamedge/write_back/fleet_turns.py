"""This edge's queue in its fleet: what others must know of it, and when its writes may be sent.

``fleet.pending`` has the rules. The replicator uses this in a fleet of more than one edge.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from streamedge.control import pending_writes
from streamedge.control.database import ControlDatabase
from streamedge.control.fleet_view import fleet_view
from streamedge.fleet.pending import HeldWrite, PendingState, Turn, end_body, turn_of
from streamedge.write_back.fleet_differences import FleetDifferences
from streamedge.write_back.fleet_writes import HolderError
from streamedge.write_back.queue import WriteQueue
from streamedge.write_back.rows import Row

WAIT_S = 0.1
"""Between two looks whether the turn of a write has come."""
PLACE_WAIT_S = 5.0
"""How long a write waits for its place in the shared log before it is sent without one."""
OVERTAKE_S = 30.0
"""A write waits so long for an earlier one whose holder does not answer."""

Publish = Callable[[dict[str, Any]], None]
"""Adds a PENDING entry with this body to those that wait to be published."""


class Reachability(Protocol):
    """Which holders answer (``PeerHolders``)."""

    async def holds(self, write: HeldWrite) -> bool:
        """Whether the holder still has a write. Raises HolderError if it does not answer."""
        ...


class FleetTurns:
    """The queue of the edge ``edge``. ``holders``: None: this edge reaches no other one."""

    def __init__(
        self,
        edge: str,
        database: ControlDatabase,
        write_queue: WriteQueue,
        holders: Reachability | None,
        publish: Publish,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._edge = edge
        self._database = database
        self._write_queue = write_queue
        self._holders = holders
        self._publish = publish
        self._monotonic = monotonic
        self._clock = clock
        self._silent_since_s: dict[str, float] = {}
        self._differences = FleetDifferences(edge, database, write_queue.rows, clock)

    async def ended(self, row: Row, state: PendingState) -> None:
        """Publishes the end of a write, unless an earlier attempt may still reach the origin: then
        later writes of other edges wait, and ``publish_differences`` does it.
        """
        held = await asyncio.to_thread(self._write_queue.rows.held_keys, self._clock())
        if row.asset_key not in held:
            self._publish(end_body(row.asset_key, row.serial, state))

    async def turn(self, row: Row) -> Turn:
        """Whether a write may be sent now. Raises ControlError."""
        writes, waits_for_place = await asyncio.to_thread(self._read, row)
        silent = await self._silent(write for write in writes if write.holder != self._edge)
        turn = turn_of(row.serial, self._edge, writes, silent, waits_for_place=waits_for_place)
        if turn is Turn.OVERTAKE:
            self._publish(end_body(row.asset_key, row.serial, PendingState.OVERTAKES))
        return turn

    async def publish_differences(self) -> None:
        """Publishes what the fleet does not know of this queue, or knows wrongly.

        Usually nothing: it was interrupted, or an edge has joined. Raises ControlError,
        WriteQueueError.
        """
        for body in await asyncio.to_thread(self._differences.bodies):
            self._publish(body)

    def _read(self, row: Row) -> tuple[tuple[HeldWrite, ...], bool]:
        with self._database.read() as connection:
            writes = pending_writes.writes_of(connection, row.asset_key)
            is_engine_up = fleet_view(connection).is_engine_up
        return writes, is_engine_up and self._clock() - row.queued_s < PLACE_WAIT_S

    async def _silent(self, writes: Iterable[HeldWrite]) -> list[str]:
        """The holders that have not answered for OVERTAKE_S."""
        silent = []
        for write in writes:
            try:
                if self._holders is None:
                    raise HolderError("this edge has no connections to others")
                await self._holders.holds(write)
            except HolderError:
                since_s = self._silent_since_s.setdefault(write.holder, self._monotonic())
                if self._monotonic() - since_s >= OVERTAKE_S:
                    silent.append(write.holder)
            else:
                self._silent_since_s.pop(write.holder, None)
        return silent
