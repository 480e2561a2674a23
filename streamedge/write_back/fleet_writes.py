"""The queued writes of the other edges of a fleet, as one process sees them.

The control process follows the shared log into the control database; here its rows are an index in
memory, which is read again where the change counter says that they have changed. A request for an
object without a queued write costs one lookup in a dictionary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from typing import Protocol

from streamedge.cache.storage.changes import ChangeCounter, write_slots
from streamedge.control import pending_writes
from streamedge.control.database import ControlDatabase, ControlError
from streamedge.errors import OriginError, OriginFailure, StreamEdgeError
from streamedge.fleet.pending import HeldWrite
from streamedge.ops.log import Log
from streamedge.ops.metrics import Counter, Counts
from streamedge.ops.rate_limited import RateLimitedEvent
from streamedge.origin import OriginRead
from streamedge.spans import Span

DOWN_S = 2.0
"""How long an edge that did not send a queued object is not requested again."""
STORED_FIELDS = frozenset(
    {"cache-control", "content-disposition", "content-encoding", "content-language", "expires"}
)
"""Fields of a written object, beside its type and metadata, that its readers get."""
_SLOT = write_slots(pending_writes.SIGNAL_KEY)[0]


class HolderError(StreamEdgeError):
    """The holder of a queued write cannot be reached, or refuses."""


class NotHeldError(HolderError):
    """The write has ended: the origin has the object, or has refused it."""


class Holders(Protocol):
    """Sends requests to the edges that hold queued writes."""

    async def read(self, write: HeldWrite, span: Span | None) -> OriginRead:
        """Reads a queued body. Raises HolderError, and OriginError while the body is read."""
        ...


class FleetWrites:
    """Queued writes of other edges than ``edge``, for one event loop.

    ``database`` must not wait for locks. ``holders``: None: this edge reaches no other one.
    """

    def __init__(
        self,
        edge: str,
        database: ControlDatabase,
        changes: ChangeCounter,
        holders: Holders | None,
        log: Log,
        counts: Counts,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.edge = edge
        self._database = database
        self._changes = changes
        self._holders = holders
        self._counts = counts
        self._monotonic = monotonic
        self._signal = -1
        self._number = 0
        self._writes: dict[str, tuple[HeldWrite, ...]] = {}
        self._down_until_s: dict[str, float] = {}
        self._holder_gone = RateLimitedEvent(log, "pending_write_not_read")

    def writes(self, key: str) -> tuple[HeldWrite, ...]:
        """All queued writes of an object in the shared log, the newest first.

        Raises OriginError while the control database cannot be read: there may be one.
        """
        signal = self._changes.word[_SLOT]
        if signal != self._signal:
            self._refresh()
            self._signal = signal
        return self._writes.get(key, ())

    def newest(self, key: str, own_serial: int | None) -> HeldWrite | None:
        """The write of another edge that is the object's state.

        ``own_serial``: of this edge's newest queued write, which may be later; None without one.
        Raises OriginError.
        """
        writes = self.writes(key)
        if not writes:
            return None
        if own_serial is not None and not self._is_placed(writes, own_serial):
            return None  # it will be placed behind all that this edge has read
        for write in writes:
            if not write.is_overtaken and (write.holder != self.edge or own_serial is not None):
                return None if write.holder == self.edge else write
        return None

    def is_superseded(self, key: str, own_serial: int) -> bool:
        """Whether a write in this edge's queue will not be sent, because a later one of another
        edge was. Raises OriginError.
        """
        return any(
            one.holder == self.edge and one.serial == own_serial and one.is_overtaken
            for one in self.writes(key)
        )

    def is_waiting_below(self, key_prefix: str, prefix: str) -> bool:
        """Whether another edge holds a write whose key and object name have these prefixes."""
        self.writes("")
        return any(
            write.holder != self.edge and write.name.startswith(prefix)
            for key, writes in self._writes.items()
            if key.startswith(key_prefix)
            for write in writes
        )

    async def read(self, write: HeldWrite, span: Span | None) -> OriginRead:
        """Reads the body of a write from its holder. Raises HolderError, OriginError."""
        try:
            if self._holders is None:
                raise HolderError("this edge has no connections to others")
            if self._monotonic() < self._down_until_s.get(write.holder, 0.0):
                raise HolderError("it did not answer a moment ago")
            read = await self._holders.read(write, span)
        except NotHeldError:
            self._counts.add(Counter.PENDING_READS, "ended")
            raise
        except HolderError as exc:
            now_s = self._monotonic()
            if now_s >= self._down_until_s.get(write.holder, 0.0):
                self._down_until_s[write.holder] = now_s + DOWN_S
            self._counts.add(Counter.PENDING_READS, "unreachable")
            self._holder_gone.emit(
                now_s,
                holder=write.holder,
                object=write.name,
                error=str(exc),
                effect="readers get what the origin has until the holder answers",
            )
            raise
        self._counts.add(Counter.PENDING_READS, "read")
        return read

    def _is_placed(self, writes: Collection[HeldWrite], own_serial: int) -> bool:
        return any(one.holder == self.edge and one.serial >= own_serial for one in writes)

    def _refresh(self) -> None:
        try:
            with self._database.read() as connection:
                keys: list[str] | None = None
                if self._signal < 0:
                    number = pending_writes.last_change(connection)
                else:
                    number, keys = pending_writes.changes_after(connection, self._number)
                if keys is None:
                    self._writes = pending_writes.all_writes(connection)
                else:
                    for key in keys:
                        self._replace(key, pending_writes.writes_of(connection, key))
                self._number = number
        except ControlError as exc:
            raise OriginError(OriginFailure.UNAVAILABLE, str(exc)) from exc

    def _replace(self, key: str, writes: tuple[HeldWrite, ...]) -> None:
        if writes:
            self._writes[key] = writes
        else:
            self._writes.pop(key, None)


def body_fields(fields: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """The fields of a written object that its readers get; others may be secrets of the writer."""
    return tuple(
        (name, value)
        for name, value in fields.items()
        if name in STORED_FIELDS or name == "content-type" or name.startswith("x-amz-meta-")
    )
