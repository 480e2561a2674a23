"""The durable write queue: an accepted write reaches its origin, or becomes a dead letter.

    writes/journal.sqlite   the rows; see ``rows``
    writes/bodies/          one file for each body; see ``bodies``
    writes/changes          see ``change_signal``
    writes/replicator       locked by the process that sends; see ``leader_lock``

A write becomes durable in this order: the body and its file name, then the row, then the response.
A crash before the row loses only a write that was not answered; a crash after it loses nothing.
Readers find pending writes in memory (``pending_index``).
"""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from streamedge.errors import OriginError
from streamedge.files import sync_folder
from streamedge.fleet.pending import HeldWrite
from streamedge.keys import join_key
from streamedge.ops.wakeup import Wakeup
from streamedge.origin.spooling import gather, in_thread
from streamedge.origin.upload import Upload
from streamedge.origin.writing import (
    HeaderFields,
    Write,
    WriteRefusedError,
    WriteResponse,
    conditions_of,
    refuse,
    require_condition,
)
from streamedge.write_back.bodies import NewBody, create_body, remove_body
from streamedge.write_back.change_signal import ChangeSignal, prepare_signal
from streamedge.write_back.pending_index import PendingIndex
from streamedge.write_back.rows import (
    NotJudgedError,
    Row,
    Rows,
    Totals,
    prepare_rows,
)
from streamedge.write_back.states import (
    DEAD_LETTERS,
    State,
    state_after,
    state_without_response,
)

LISTED_ROWS_MAX = 1000
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

OriginCheck = Callable[[Write], Awaitable[None]]
"""``WritableOrigin.check``."""


@dataclass(frozen=True, slots=True)
class Pending:
    """The state of an object after its newest pending write.

    ``path`` is the file with its bytes, None when the object is deleted. The file is removed as
    soon as the origin has the object: a reader that cannot open it reads from the origin.
    """

    path: Path | None
    size_bytes: int
    etag: str
    fields: HeaderFields
    queued_s: float
    serial: int = 0

    @property
    def is_delete(self) -> bool:
        """Whether the object is deleted."""
        return self.path is None


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """The queue for an operator. ``rows``: dead letters, then pending writes, oldest first."""

    by_state: dict[State, int]
    totals: Totals
    rows: tuple[Row, ...]


def prepare_write_queue(cache_root: Path) -> None:
    """Creates the folder and its files before workers start. Raises OSError, WriteQueueError."""
    folder = cache_root / "writes"
    (folder / "bodies").mkdir(parents=True, exist_ok=True)
    (folder / "replicator").touch()
    prepare_signal(folder)
    prepare_rows(folder / "journal.sqlite")
    sync_folder(folder)
    sync_folder(cache_root)


class WriteQueue:
    """The queue as one process uses it; ``slot`` is its number, below ``change_signal.SLOTS``.

    ``replicator`` is notified of each change.
    ``limit_bytes`` limits the bytes of all bodies and rows, dead letters included.
    """

    def __init__(self, cache_root: Path, slot: int, limit_bytes: int, replicator: Wakeup) -> None:
        self.folder = cache_root / "writes"
        self.bodies = self.folder / "bodies"
        self.signal = ChangeSignal(self.folder, slot, replicator)
        self.rows = Rows(self.folder / "journal.sqlite")
        # A connection of its own: readers are on the event loop and must not wait for a
        # transaction that a thread runs.
        self._index = PendingIndex(self.folder / "journal.sqlite")
        self._limit_bytes = limit_bytes
        self._snapshot = b""
        self.publish: Callable[[str], None] | None = None
        """Called with the key of an object after a write was queued: it makes other edges of the
        fleet learn of that."""
        self.is_waiting_elsewhere: Callable[[str, str], bool] | None = None
        """As ``is_waiting_below``, for the other edges of a fleet; with the start of their keys."""
        self.newest_elsewhere: Callable[[str, int | None], HeldWrite | None] | None = None
        """``FleetWrites.newest``."""
        self.signal.notify()  # the last process with this slot may have died before its own call

    def close(self) -> None:
        """Closes the files; the queue stays on disk."""
        self._index.close()
        self.rows.close()
        self.signal.close()

    async def accept(
        self,
        asset_key: str,
        origin_name: str,
        write: Write,
        body: AsyncIterator[bytes] | None,
        check: OriginCheck | None = None,
    ) -> WriteResponse:
        """Queues a PUT or DELETE. Success means that it is on disk here.

        Refusals are responses too: 412 for a condition that does not hold for the object as readers
        see it, 413 for a body and 503 for a queue over the limit, 507 for a full disk, 400 for a
        body that does not match its checksums, and what ``check`` raises and the replicator would
        not try again. Raises WriteQueueError, OriginError (as ``check``), OSError, and what
        ``body`` raises. Then nothing was queued, except after a WriteQueueError of the commit
        itself: the write may or may not be queued.

        ``check``: the origin's; None: the origin judges all when the write is sent.
        """
        try:
            if write.method == "DELETE":
                write = replace(write, fields=conditions_of(write.fields))
                await self._check(asset_key, write, 0, check)
                row = _new_row(asset_key, origin_name, write, write.fields)
                await self._commit(row, None, write, check)
                self._publish(asset_key)
                return WriteResponse(204)
            return await self._accept_put(asset_key, origin_name, write, body, check)
        except WriteRefusedError as exc:
            return exc.response
        except OSError as exc:
            if exc.errno in _FULL:
                return refuse(507, "InsufficientStorage", "the edge's disk is full").response
            raise

    def pending(self, asset_key: str) -> Pending | None:
        """The newest pending write of an object, or None. Raises WriteQueueError.

        Called for each request: compares 2 KiB when nothing has changed.
        """
        snapshot = self.signal.snapshot()
        if snapshot != self._snapshot:
            self._index.refresh()
            self._snapshot = snapshot
        row = self._index.newest(asset_key)
        return None if row is None else self._pending(row)

    async def is_waiting_below(self, identity: str, prefix: str) -> bool:
        """Whether a write waits for an object of the origin ``identity`` whose name begins with
        ``prefix``, on any edge. Raises WriteQueueError, OriginError.
        """
        elsewhere = self.is_waiting_elsewhere
        if elsewhere is not None and elsewhere(join_key(identity), prefix):
            return True
        return await asyncio.to_thread(self.rows.is_waiting_below, join_key(identity), prefix)

    async def status(self, rows_max: int = LISTED_ROWS_MAX) -> QueueStatus:
        """Counts, and up to ``rows_max`` writes, for the admin address. Raises WriteQueueError."""
        return await asyncio.to_thread(self._status, rows_max)

    async def requeue(self, serial: int, *, unconditional: bool = False) -> bool:
        """Queues a dead letter again, as the newest write of its object. False: no such letter.

        ``unconditional`` drops its conditions, which would fail again.
        """
        requeue = partial(self.rows.requeue, serial, time.time(), unconditional=unconditional)
        is_done = await in_thread(requeue)
        self.signal.notify()
        return is_done

    async def discard(self, serial: int) -> bool:
        """Deletes a dead letter and its body. False: there is no such letter."""
        token = await in_thread(partial(self.rows.discard, serial))
        if token:
            await remove_body(self.bodies, token)
        self.signal.notify()
        return token is not None

    async def _check(
        self, asset_key: str, write: Write, size_bytes: int, check: OriginCheck | None
    ) -> None:
        """Raises WriteRefusedError, OriginError for a write that would become a dead letter.

        Its conditions have to hold for what readers get: the newest pending write of the object,
        or else what the origin has.
        """
        fields = write.fields
        newest = await in_thread(
            partial(self.rows.check, asset_key, fields, size_bytes, self._limit_bytes)
        )
        is_pending = newest is not None
        if self.newest_elsewhere is not None and conditions_of(fields):
            held = self.newest_elsewhere(asset_key, None if newest is None else newest.serial)
            if held is not None:
                require_condition(fields, None if held.is_delete else held.etag)
                is_pending = True
        if check is None:
            return
        if is_pending:
            conditions = conditions_of(fields)
            rest = tuple(field for field in fields if field not in conditions)
            write = replace(write, fields=rest)
        try:
            await check(write)
        except WriteRefusedError as exc:
            if state_after(write.method, exc.response) in DEAD_LETTERS:
                raise
        except OriginError as exc:
            if state_without_response(exc) in DEAD_LETTERS:
                raise

    async def _accept_put(
        self,
        asset_key: str,
        origin_name: str,
        write: Write,
        body: AsyncIterator[bytes] | None,
        check: OriginCheck | None,
    ) -> WriteResponse:
        upload = Upload(write, body)
        verifier = upload.verifier()
        await self._check(asset_key, write, upload.size_bytes or 0, check)

        def digest(piece: bytes) -> None:
            new_body.digest(piece)
            verifier.update(piece)

        new_body = await create_body(self.bodies)
        try:
            async for piece in gather(upload.pieces()):
                if new_body.size_bytes + len(piece) > self._limit_bytes:
                    raise refuse(
                        413, "EntityTooLarge", "larger than the whole write queue of this edge"
                    )
                await new_body.append(piece)
                await in_thread(partial(digest, piece))
            verifier.verify(upload.trailers)
            row = _new_row(asset_key, origin_name, write, upload.final_fields, new_body)
            await new_body.sync()
            await self._commit(row, new_body, write, check)
        finally:
            await new_body.close()
        self._publish(asset_key)
        return WriteResponse(200, (("ETag", new_body.etag),))

    def _publish(self, asset_key: str) -> None:
        """Makes the other edges of a fleet learn of a write."""
        if self.publish is not None:
            self.publish(asset_key)

    async def _commit(
        self, row: Row, body: NewBody | None, write: Write, check: OriginCheck | None
    ) -> None:
        """Queues a row, and judges its conditions again where no pending write does."""
        try:
            await in_thread(partial(self._insert, row, body, is_judged=check is None))
        except NotJudgedError:
            await self._check(row.asset_key, write, row.size_bytes, check)
            await in_thread(partial(self._insert, row, body, is_judged=True))

    def _insert(self, row: Row, body: NewBody | None, *, is_judged: bool) -> None:
        self.rows.insert(row, self._limit_bytes, is_judged=is_judged)
        if body is not None:
            body.keep()
        self.signal.notify()

    def _pending(self, row: Row) -> Pending:
        path = self.bodies / row.token if row.token else None
        return Pending(path, row.size_bytes, row.etag, row.fields, row.queued_s, row.serial)

    def _status(self, rows_max: int) -> QueueStatus:
        letters = self.rows.list(tuple(DEAD_LETTERS), rows_max)
        waiting = self.rows.list((State.SENDING, State.QUEUED), rows_max - len(letters))
        return QueueStatus(self.rows.by_state(), self.rows.totals(), (*letters, *waiting))


def _new_row(
    asset_key: str,
    origin_name: str,
    write: Write,
    fields: HeaderFields,
    body: NewBody | None = None,
) -> Row:
    now_s = time.time()
    return Row(
        serial=0,
        asset_key=asset_key,
        origin_name=origin_name,
        name=write.name,
        method=write.method,
        fields=fields,
        size_bytes=0 if body is None else body.size_bytes,
        token="" if body is None else body.token,
        etag="" if body is None else body.etag,
        state=State.QUEUED,
        attempts=0,
        due_s=now_s,
        queued_s=now_s,
    )
