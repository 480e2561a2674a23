"""The durable queue of writes: what is accepted here will reach the origin, or be reported.

    writes/journal.sqlite   the rows; see ``rows``
    writes/bodies/          one file for each body; see ``bodies``
    writes/changes, bell    see ``signal``
    writes/replicator       locked by whoever sends; see ``turn``

Owns the order in which a write becomes durable: body and name on disk, then the row, then the
answer. So a crash before the row forgets a write that nobody was told of, and a crash after it
none. And it tells readers, from memory as long as nothing changes, what is newer here than there.
"""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from streamedge.keys import join_key
from streamedge.origin.spooling import gather, in_thread
from streamedge.origin.upload import Upload
from streamedge.origin.writing import (
    HeaderFields,
    Write,
    WriteAnswer,
    WriteRefusedError,
    refuse,
)
from streamedge.write_back.bodies import NewBody, remove_body, sync_folder
from streamedge.write_back.change_signal import ChangeSignal, prepare_signal
from streamedge.write_back.pending_index import PendingIndex
from streamedge.write_back.rows import CONDITIONS, Row, Rows, Totals, prepare_rows
from streamedge.write_back.states import DEAD_LETTERS, State

LISTED_ROWS_MAX = 1000
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True, slots=True)
class Pending:
    """What readers of this edge get of an object until its origin has it.

    ``path`` is the file of its bytes, None when the object is deleted. It may be removed at any
    time, because the origin has it by then: whoever cannot open it asks again.
    """

    path: Path | None
    size_bytes: int
    etag: str
    fields: HeaderFields
    queued_s: float


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """The journal for an operator. ``rows`` has the oldest, kept ones first."""

    by_state: dict[State, int]
    totals: Totals
    rows: tuple[Row, ...]


def prepare_write_queue(cache_root: Path) -> None:
    """Makes the folder ready: before any worker starts. Raises OSError, WriteQueueError."""
    folder = cache_root / "writes"
    (folder / "bodies").mkdir(parents=True, exist_ok=True)
    (folder / "replicator").touch()
    prepare_signal(folder)
    prepare_rows(folder / "journal.sqlite")
    sync_folder(folder)
    sync_folder(cache_root)


class WriteQueue:
    """One process's hand on the queue; ``slot`` is its number (below ``signal.SLOTS``).

    ``limit_bytes`` holds for the bodies of all writes, of those kept for the operator too.
    """

    def __init__(self, cache_root: Path, slot: int, limit_bytes: int) -> None:
        self.folder = cache_root / "writes"
        self.bodies = self.folder / "bodies"
        self.signal = ChangeSignal(self.folder, slot)
        self.rows = Rows(self.folder / "journal.sqlite")
        # Readers ask on the event loop, and must not wait for a transaction of a thread.
        self._waiting = PendingIndex(self.folder / "journal.sqlite")
        self._limit_bytes = limit_bytes
        self._mark = b""
        self.signal.notify()  # whoever had this number before may have died before it said so

    def close(self) -> None:
        """Closes the files; what waits stays."""
        self._waiting.close()
        self.rows.close()
        self.signal.close()

    async def accept(
        self, asset_key: str, origin_name: str, write: Write, body: AsyncIterator[bytes] | None
    ) -> WriteAnswer:
        """Queues a PUT or DELETE; success says that it is on disk here.

        Refusals are answers: 412 against what waits for the same object, 503 over the limit, 507
        for a full disk, 400 for a body that does not match its checksums. Raises WriteQueueError,
        OSError, and what ``body`` raises: then nothing was queued, but for a WriteQueueError of the
        commit itself, after which nobody can tell.
        """
        try:
            if write.method == "DELETE":
                fields = tuple(item for item in write.fields if item[0].lower() in CONDITIONS)
                row = _new_row(asset_key, origin_name, write, fields)
                await in_thread(partial(self._commit, row, None))
                return WriteAnswer(204)
            return await self._accept_put(asset_key, origin_name, write, body)
        except WriteRefusedError as exc:
            return exc.answer
        except OSError as exc:
            if exc.errno in _FULL:
                return refuse(507, "InsufficientStorage", "the edge's disk is full").answer
            raise

    def pending(self, asset_key: str) -> Pending | None:
        """What is newer here than at the origin. Raises WriteQueueError.

        For each request: compares 2 KiB while nothing changes.
        """
        mark = self.signal.snapshot()
        if mark != self._mark:
            self._waiting.refresh()
            self._mark = mark
        row = self._waiting.newest(asset_key)
        return None if row is None else self._pending(row)

    async def is_waiting_below(self, identity: str, prefix: str) -> bool:
        """Whether a write waits for an object of the origin ``identity`` whose name begins with
        ``prefix``. Raises WriteQueueError.
        """
        return await asyncio.to_thread(self.rows.is_waiting_below, join_key(identity), prefix)

    async def status(self, rows_max: int = LISTED_ROWS_MAX) -> QueueStatus:
        """For the admin address. Raises WriteQueueError."""
        return await asyncio.to_thread(self._status, rows_max)

    async def requeue(self, serial: int, *, unconditional: bool = False) -> bool:
        """Tries a kept write again, as the newest of its object; whether there was one.

        ``unconditional`` drops its conditions, which would fail again.
        """
        again = partial(self.rows.requeue, serial, time.time(), unconditional=unconditional)
        done = await in_thread(again)
        self.signal.notify()
        return done

    async def discard(self, serial: int) -> bool:
        """Gives a kept write up for good; whether there was one."""
        token = await in_thread(partial(self.rows.discard, serial))
        if token:
            await in_thread(partial(remove_body, self.bodies, token))
        self.signal.notify()
        return token is not None

    async def _accept_put(
        self, asset_key: str, origin_name: str, write: Write, body: AsyncIterator[bytes] | None
    ) -> WriteAnswer:
        upload = Upload(write, body)
        verifier = upload.verifier()
        known_bytes = upload.size_bytes or 0
        check = partial(self.rows.check, asset_key, upload.fields, known_bytes, self._limit_bytes)
        await in_thread(check)
        new = await in_thread(partial(NewBody, self.bodies))
        try:
            async for piece in gather(upload.pieces()):
                if new.size_bytes + len(piece) > self._limit_bytes:
                    raise refuse(413, "EntityTooLarge", "more than may wait for the origin")
                await in_thread(partial(new.append, piece))
                await in_thread(partial(verifier.update, piece))
            verifier.verify(upload.trailers)
            row = _new_row(asset_key, origin_name, write, upload.settled_fields, new)
            await in_thread(partial(self._commit, row, new))
        finally:
            await in_thread(new.close)
        return WriteAnswer(200, (("ETag", new.etag),))

    def _commit(self, row: Row, body: NewBody | None) -> None:
        if body is not None:
            body.sync()
        self.rows.insert(row, self._limit_bytes)
        if body is not None:
            body.keep()
        self.signal.notify()

    def _pending(self, row: Row) -> Pending:
        path = self.bodies / row.token if row.token else None
        return Pending(path, row.size_bytes, row.etag, row.fields, row.queued_s)

    def _status(self, rows_max: int) -> QueueStatus:
        kept = self.rows.list(tuple(DEAD_LETTERS), rows_max)
        waiting = self.rows.list((State.SENDING, State.QUEUED), rows_max - len(kept))
        return QueueStatus(self.rows.by_state(), self.rows.totals(), (*kept, *waiting))


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
