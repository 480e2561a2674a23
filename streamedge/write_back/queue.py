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
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from streamedge.files import sync_folder
from streamedge.keys import join_key
from streamedge.ops.wakeup import Wakeup
from streamedge.origin.spooling import gather, in_thread
from streamedge.origin.upload import Upload
from streamedge.origin.writing import (
    HeaderFields,
    Write,
    WriteRefusedError,
    WriteResponse,
    refuse,
)
from streamedge.write_back.bodies import NewBody, create_body, remove_body
from streamedge.write_back.change_signal import ChangeSignal, prepare_signal
from streamedge.write_back.pending_index import PendingIndex
from streamedge.write_back.rows import WRITE_CONDITIONS, Row, Rows, Totals, prepare_rows
from streamedge.write_back.states import DEAD_LETTERS, State

LISTED_ROWS_MAX = 1000
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


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
        self.signal.notify()  # the last process with this slot may have died before its own call

    def close(self) -> None:
        """Closes the files; the queue stays on disk."""
        self._index.close()
        self.rows.close()
        self.signal.close()

    async def accept(
        self, asset_key: str, origin_name: str, write: Write, body: AsyncIterator[bytes] | None
    ) -> WriteResponse:
        """Queues a PUT or DELETE. Success means that it is on disk here.

        Refusals are responses too: 412 for a condition that a pending write of the object does not
        meet, 413 for a body and 503 for a queue over the limit, 507 for a full disk, 400 for a body
        that does not match its checksums. Raises WriteQueueError, OSError, and what ``body``
        raises. Then nothing was queued, except after a WriteQueueError of the commit itself: the
        write may or may not be queued.
        """
        try:
            if write.method == "DELETE":
                fields = tuple(item for item in write.fields if item[0].lower() in WRITE_CONDITIONS)
                row = _new_row(asset_key, origin_name, write, fields)
                await in_thread(partial(self._commit, row, None))
                self._publish(asset_key)
                return WriteResponse(204)
            return await self._accept_put(asset_key, origin_name, write, body)
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

    async def _accept_put(
        self, asset_key: str, origin_name: str, write: Write, body: AsyncIterator[bytes] | None
    ) -> WriteResponse:
        upload = Upload(write, body)
        verifier = upload.verifier()
        announced_bytes = upload.size_bytes or 0
        check = partial(
            self.rows.check, asset_key, upload.fields, announced_bytes, self._limit_bytes
        )
        await in_thread(check)

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
            await in_thread(partial(self._commit, row, new_body))
        finally:
            await new_body.close()
        self._publish(asset_key)
        return WriteResponse(200, (("ETag", new_body.etag),))

    def _publish(self, asset_key: str) -> None:
        """Makes the other edges of a fleet learn of a write."""
        if self.publish is not None:
            self.publish(asset_key)

    def _commit(self, row: Row, body: NewBody | None) -> None:
        self.rows.insert(row, self._limit_bytes)
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
