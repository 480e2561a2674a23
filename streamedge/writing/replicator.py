"""Empties the queue of writes into the origins, one process for the whole edge.

Owns when a write is sent and what its answer comes to; the pure part of both is ``states``. Of each
object the oldest write goes first, and the next one when that has ended. It never drops a write:
one that the origin will not take is kept, and said in the log.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from functools import partial
from io import FileIO
from pathlib import Path

from streamedge.errors import OriginError, OriginFailure
from streamedge.ops.log import Log
from streamedge.ops.metrics import Counter, Counts, Gauge
from streamedge.origin import Origin
from streamedge.origin.answers import find_error_code
from streamedge.origin.spooling import GATHERED_BYTES, in_thread
from streamedge.origin.writing import WritableOrigin, Write, WriteAnswer
from streamedge.writing.bodies import remove_body, sweep
from streamedge.writing.journal import Journal
from streamedge.writing.rows import JournalError, Row
from streamedge.writing.states import (
    KEPT,
    WAITING,
    State,
    back_off_s,
    state_after,
    state_without_answer,
)
from streamedge.writing.turn import Turn

SENDS_MAX = 4
RESTART_S = 5.0  # after the journal could not be written, or a write was left without a state

# Failures after which an origin's recovery helps every write that waits for it.
_UNREACHABLE = frozenset({OriginFailure.REFUSED, OriginFailure.TIMEOUT})

Replicated = Callable[[str], Awaitable[None]]
"""Told an asset's key when what readers got of a write is not to be used again: before they are
sent to an origin that has it, and after they were to one that would not take it.
"""


class Replicator:
    """Sends what waits in ``journal``.

    ``writers`` and ``readers`` are the origins by the names that rows hold; a write whose origin
    has no name any more waits until it has one again.
    """

    def __init__(
        self,
        journal: Journal,
        writers: Mapping[str, WritableOrigin],
        readers: Mapping[str, Origin],
        replicated: Replicated,
        log: Log,
        counts: Counts,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._journal = journal
        self._writers = writers
        self._readers = readers
        self._replicated = replicated
        self._log = log
        self._counts = counts
        self._clock = clock
        self._unreachable: set[str] = set()
        self._sends: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._crash: BaseException | None = None

    def replace(self, writers: Mapping[str, WritableOrigin], readers: Mapping[str, Origin]) -> None:
        """Sends by these from now on; a write that is being sent goes on as it was begun."""
        self._writers = writers
        self._readers = readers

    async def run(self) -> None:
        """Waits for this process's turn, then sends, until it is cancelled."""
        turn = Turn(self._journal.folder / "replicator")
        loop = asyncio.get_running_loop()
        bell = self._journal.signal.bell
        try:
            await turn.wait()
            self._log.event("replicator_started")
            loop.add_reader(bell, self._rung)
            while True:
                try:
                    await self._replicate()
                except (JournalError, OSError) as exc:
                    self._crash = exc
                self._log.event("replicator_failed", error=repr(self._crash))
                await self._stop_sends()
                await asyncio.sleep(RESTART_S)
        finally:
            loop.remove_reader(bell)
            await self._stop_sends()
            turn.end()

    def _rung(self) -> None:
        self._journal.signal.hush()
        self._wake.set()

    async def _replicate(self) -> None:
        """Sends until a send has crashed. Raises JournalError, OSError."""
        rows = self._journal.rows
        self._crash = None
        await in_thread(partial(rows.recover, self._clock()))
        swept = await in_thread(partial(sweep, self._journal.bodies, rows.has_token))
        if swept:
            self._log.event("bodies_swept", files=swept)
        for asset_key in await in_thread(rows.untold):
            await self._tell(asset_key)  # whoever was to has died before
        while self._crash is None:
            self._wake.clear()
            room = SENDS_MAX - len(self._sends)
            due_s: float | None = None
            if room:
                due = await in_thread(partial(rows.take_due, self._clock(), room))
                for row in due:
                    self._begin(row)
                if len(due) < room:
                    due_s = await in_thread(rows.next_due_s)
            await self._measure()
            await self._sleep_until(due_s)

    async def _measure(self) -> None:
        rows = self._journal.rows
        by_state = await in_thread(rows.by_state)
        totals = await in_thread(rows.totals)
        gauges = self._counts.gauges
        gauges[Gauge.WAITING_WRITES] = sum(by_state.get(state, 0) for state in WAITING)
        gauges[Gauge.KEPT_WRITES] = sum(by_state.get(state, 0) for state in KEPT)
        gauges[Gauge.HELD_WRITE_BYTES] = totals.held_bytes

    async def _sleep_until(self, due_s: float | None) -> None:
        """Returns when the bell rings, a send ends, or it is ``due_s``."""
        wait_s = None if due_s is None else max(0.0, due_s - self._clock())
        try:
            async with asyncio.timeout(wait_s):
                await self._wake.wait()
        except TimeoutError:
            return

    def _begin(self, row: Row) -> None:
        send = asyncio.create_task(self._send(row), name=f"replicate-{row.serial}")
        self._sends.add(send)
        send.add_done_callback(self._ended)

    def _ended(self, send: asyncio.Task[None]) -> None:
        self._sends.discard(send)
        self._wake.set()
        if not send.cancelled() and (error := send.exception()) is not None:
            self._crash = error

    async def _stop_sends(self) -> None:
        sends = list(self._sends)
        for send in sends:
            send.cancel()
        await asyncio.gather(*sends, return_exceptions=True)

    async def _send(self, row: Row) -> None:
        """One attempt, from SENDING to another state; cancelled, it stays SENDING for whoever
        comes next.
        """
        etag = ""
        try:
            answer = await self._write(row)
            state = state_after(row.method, answer)
            problem = "" if state is State.DONE else _describe(answer)
            etag = answer.field("etag")
            if state is State.CONFLICT and row.attempts > 1 and await self._is_there(row):
                # An attempt that was thought lost has done it: its own condition now fails.
                state, problem = State.DONE, ""
        except OriginError as exc:
            state, problem = state_without_answer(exc), str(exc)
            if exc.failure in _UNREACHABLE:
                self._unreachable.add(row.origin_name)
        except FileNotFoundError as exc:
            state, problem = State.FAILED, f"its body is gone: {exc}"
        except ValueError as exc:
            state, problem = State.FAILED, f"cannot be sent: {exc}"
        except OSError as exc:
            state, problem = State.QUEUED, f"its body cannot be read: {exc}"
        await self._settle(row, state, problem, etag)

    async def _settle(self, row: Row, state: State, problem: str, etag: str) -> None:
        rows = self._journal.rows
        now_s = self._clock()
        if state is State.DONE:
            await self._replicated(row.asset_key)
        due_s = now_s + back_off_s(row.attempts, random.random())
        settle = partial(rows.settle, row, state, problem=problem, due_s=due_s, etag=etag)
        await in_thread(settle)
        self._journal.signal.notify()
        if state in KEPT:
            await self._tell(row.asset_key)  # only now is it no longer read from here
        if state is State.DONE:
            if row.token:
                await in_thread(partial(remove_body, self._journal.bodies, row.token))
            if row.origin_name in self._unreachable:
                self._unreachable.discard(row.origin_name)
                await in_thread(partial(rows.hasten, row.origin_name, now_s))
        self._counts.add(Counter.REPLICATIONS, "retry" if state is State.QUEUED else state.value)
        self._log.event(
            "write_replicated" if state is State.DONE else "write_not_replicated",
            serial=row.serial,
            origin=row.origin_name,
            object=row.name,
            method=row.method,
            state=state.value,
            attempts=row.attempts,
            waited_s=round(now_s - row.queued_s, 3),
            problem=problem or None,
        )

    async def _tell(self, asset_key: str) -> None:
        await self._replicated(asset_key)
        await in_thread(partial(self._journal.rows.tell, asset_key))

    async def _write(self, row: Row) -> WriteAnswer:
        writer = self._writers.get(row.origin_name)
        if writer is None:
            raise OriginError(
                OriginFailure.UNAVAILABLE, f"no origin is named {row.origin_name} that takes writes"
            )
        write = Write(row.method, row.name, row.fields, row.size_bytes)
        if not row.token:
            return await writer.write(write, None)
        pieces = _read_file(self._journal.bodies / row.token)
        try:
            return await writer.write(write, pieces)
        finally:
            await pieces.aclose()

    async def _is_there(self, row: Row) -> bool:
        """Whether the object at the origin is what ``row`` wants it to be. Raises OriginError."""
        reader = self._readers.get(row.origin_name)
        if reader is None:
            return False
        try:
            read = await reader.read(row.name)
        except OriginError as exc:
            if exc.failure is not OriginFailure.NOT_FOUND:
                raise
            return row.method == "DELETE"
        assert read is not None, "no version was excluded"
        try:
            if row.method == "DELETE" or read.head.version.size_bytes != row.size_bytes:
                return False
            digest = hashlib.md5(usedforsecurity=False)
            async for piece in read.pieces():
                digest.update(piece)
        finally:
            await read.close()
        return f'"{digest.hexdigest()}"' == row.etag


def _describe(answer: WriteAnswer) -> str:
    return f"answered {answer.status} {find_error_code(answer.body)}".rstrip()


async def _read_file(path: Path) -> AsyncGenerator[bytes, None]:
    """A body's bytes. Raises OSError."""
    file = await in_thread(partial(FileIO, path))
    try:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        while piece := await in_thread(partial(file.read, GATHERED_BYTES)):
            yield piece
    finally:
        file.close()
