"""Sends queued writes to their origins. One process of the edge does it at a time.

Writes of one object are sent one after another, oldest first. A write is never dropped: one that
the origin rejects becomes a dead letter, with a log event. The state transitions and the retry
delays are in ``states``.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import os
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from functools import partial
from pathlib import Path

from aiofiles import open as open_file

from streamedge.control.database import ControlError
from streamedge.errors import OriginError, OriginFailure
from streamedge.fleet.pending import PendingState, Turn
from streamedge.ops.log import Log
from streamedge.ops.metrics import Counter, Counts, Gauge
from streamedge.origin import Origin, Version
from streamedge.origin.answers import find_error_code
from streamedge.origin.spooling import GATHERED_BYTES, in_thread, to_its_end
from streamedge.origin.writing import WritableOrigin, Write, WriteResponse
from streamedge.write_back.bodies import remove_body, sweep
from streamedge.write_back.fleet_turns import WAIT_S, FleetTurns
from streamedge.write_back.leader_lock import LeaderLock
from streamedge.write_back.queue import WriteQueue
from streamedge.write_back.rows import Row, WriteQueueError
from streamedge.write_back.states import (
    DEAD_LETTERS,
    PENDING_STATES,
    State,
    back_off_s,
    state_after,
    state_without_response,
)

SENDS_MAX = 4
RESTART_S = 5.0  # after a failure of the queue, or of a task
RECHECK_S = 5.0  # between two polls of the change counters of all processes
POLL_S = 0.5  # between two checks for an interrupted write's arrival at the origin

# After these failures, one success makes all waiting writes of the origin due at once.
_UNREACHABLE = frozenset({OriginFailure.REFUSED, OriginFailure.TIMEOUT})
# After these failures and statuses the origin may still carry out the write.
_MAY_STILL_ARRIVE = frozenset({OriginFailure.BROKEN, OriginFailure.TIMEOUT})
_ENDS = {
    State.DONE: PendingState.SENT,
    State.CONFLICT: PendingState.CONFLICT,
    State.FAILED: PendingState.FAILED,
}
_GATEWAY_STATUSES = frozenset({502, 504})

DropCached = Callable[[str], Awaitable[None]]
"""Called with an asset key when cached copies must be dropped: before readers fall back to the
origin (success), or after they did (rejected).
"""


class Replicator:
    """Sends the pending writes of ``write_queue``.

    ``writers`` and ``readers`` map the origin names in the rows to origins. A write waits while
    the configuration has no origin of its name. ``fleet``: the turns of writes that several edges
    hold; None in a fleet of one.
    """

    def __init__(
        self,
        write_queue: WriteQueue,
        writers: Mapping[str, WritableOrigin],
        readers: Mapping[str, Origin],
        drop_cached: DropCached,
        log: Log,
        counts: Counts,
        *,
        fleet: FleetTurns | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._write_queue = write_queue
        self._fleet = fleet
        self._compared_s = -math.inf
        self._writers = writers
        self._readers = readers
        self._drop_cached = drop_cached
        self._log = log
        self._counts = counts
        self._clock = clock
        self._unreachable: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._sending = 0
        self._wake = asyncio.Event()
        self._failure: BaseException | None = None

    def replace(self, writers: Mapping[str, WritableOrigin], readers: Mapping[str, Origin]) -> None:
        """Uses other origins for the next attempts; running attempts continue with the old ones."""
        self._writers = writers
        self._readers = readers

    async def run(self) -> None:
        """Acquires the leader lock, then sends until it is cancelled.

        A failure is logged, and everything starts again RESTART_S later.
        """
        while True:
            try:
                await self._run_as_leader()
            except Exception as exc:  # noqa: BLE001 - the queue must be emptied again
                self._log.event("replicator_failed", error=repr(exc))
            await asyncio.sleep(RESTART_S)

    async def _run_as_leader(self) -> None:
        """Returns by an exception only: the failure, or the cancellation."""
        lock = LeaderLock(self._write_queue.folder / "replicator")
        wakeup = self._write_queue.signal.replicator
        try:
            await lock.acquire()
            self._log.event("replicator_started")
            wakeup.subscribe(self._wake.set)
            await self._replicate()
        finally:
            wakeup.unsubscribe()
            await self._stop_tasks()
            lock.release()

    async def _replicate(self) -> None:
        """Sends until a task or the queue fails, and raises that failure."""
        rows = self._write_queue.rows
        self._failure = None
        await self._end_abandoned()
        interrupted = await in_thread(partial(rows.recover, self._clock(), self._lingers_s))
        for row in interrupted:
            self._start(self._await_arrival(row), f"await-{row.serial}")
        removed_files = await in_thread(partial(sweep, self._write_queue.bodies, rows.has_token))
        if removed_files:
            self._log.event("bodies_swept", files=removed_files)
        for asset_key in await in_thread(rows.unnotified):
            await self._notify_cache(asset_key)  # left over from a process that died
        while self._failure is None:
            self._wake.clear()
            snapshot = self._write_queue.signal.snapshot()
            free_slots = SENDS_MAX - self._sending
            due_s: float | None = None
            if free_slots:
                due = await in_thread(partial(rows.take_due, self._clock(), free_slots))
                for row in due:
                    self._begin(row)
                if len(due) < free_slots:
                    due_s = await in_thread(rows.next_due_s)
            await self._measure()
            await self._compare_with_fleet()
            await self._sleep_until(due_s, snapshot)
        raise self._failure

    async def _compare_with_fleet(self) -> None:
        """Publishes what other edges do not know of the queue, every RECHECK_S."""
        now_s = time.monotonic()
        if self._fleet is None or now_s < self._compared_s + RECHECK_S:
            return
        self._compared_s = now_s
        try:
            await self._fleet.publish_differences()
        except ControlError as exc:
            self._log.event("pending_writes_not_published", error=str(exc))

    async def _has_turn(self, row: Row) -> bool:
        """Whether a write may be sent now; if not, it is queued again or has ended."""
        if self._fleet is None:
            return True
        try:
            turn = await self._fleet.turn(row)
        except ControlError:
            turn = Turn.WAIT
        rows = self._write_queue.rows
        if turn is Turn.SEND:
            return True
        if turn is Turn.SUPERSEDED:
            await in_thread(partial(rows.end_superseded, row))
            self._write_queue.signal.notify()
            await self._fleet.ended(row, PendingState.SUPERSEDED)
            await self._drop_cached(row.asset_key)
            if row.token:
                await remove_body(self._write_queue.bodies, row.token)
            self._counts.add(Counter.REPLICATIONS, "superseded")
            self._log.event(
                "write_superseded",
                serial=row.serial,
                origin=row.origin_name,
                object=row.name,
                reason="a later write of another edge was sent in its place",
            )
            return False
        await in_thread(partial(rows.put_back, row, self._clock() + WAIT_S))
        return False

    async def _end_abandoned(self) -> None:
        """Makes origins end the unfinished uploads of a process that died, before newer writes."""
        for writer in {id(writer): writer for writer in self._writers.values()}.values():
            try:
                await writer.end_abandoned()
            except (OriginError, OSError) as exc:
                self._log.event("abandoned_writes_not_ended", error=repr(exc))

    def _lingers_s(self, row: Row) -> float:
        writer = self._writers.get(row.origin_name)
        return 0.0 if writer is None else writer.lingers_s(_write_of(row))

    async def _await_arrival(self, row: Row) -> None:
        """Polls the origin for a write whose sender died, and releases the object's hold when it
        has arrived.

        The state at the first check shows nothing: the object may have been there before. If the
        origin cannot be read, the hold lasts its full time.
        """
        reader = self._readers.get(row.origin_name)
        until_s = self._clock() + self._lingers_s(row)
        if reader is None:
            return
        try:
            before = await _version(reader, row.name)
            while self._clock() < until_s:
                await asyncio.sleep(POLL_S)
                now = await _version(reader, row.name)
                expected_bytes = None if row.method == "DELETE" else row.size_bytes
                present_bytes = None if now is None else now.size_bytes
                if now != before and present_bytes == expected_bytes:
                    break
                before = now
        except OriginError:
            return
        await in_thread(partial(self._write_queue.rows.release, row.asset_key))
        self._wake.set()

    async def _measure(self) -> None:
        rows = self._write_queue.rows
        by_state = await in_thread(rows.by_state)
        totals = await in_thread(rows.totals)
        gauges = self._counts.gauges
        gauges[Gauge.QUEUED_WRITES] = sum(by_state.get(state, 0) for state in PENDING_STATES)
        gauges[Gauge.DEAD_LETTERS] = sum(by_state.get(state, 0) for state in DEAD_LETTERS)
        gauges[Gauge.QUEUED_WRITE_BYTES] = totals.held_bytes

    async def _sleep_until(self, due_s: float | None, snapshot: bytes) -> None:
        """Returns at ``due_s``, or earlier when the queue changes or a task ends.

        The counters are polled too: workers of a supervisor that was killed, which still drain,
        cannot wake this process. ``snapshot`` is that of the last read.
        """
        while self._write_queue.signal.snapshot() == snapshot:
            wait_s = RECHECK_S if due_s is None else min(RECHECK_S, due_s - self._clock())
            if wait_s <= 0:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
                    return
            if self._fleet is not None:
                return  # to compare the queue with what the fleet knows

    def _begin(self, row: Row) -> None:
        self._sending += 1
        self._start(self._send(row), f"replicate-{row.serial}").add_done_callback(
            self._on_send_done
        )

    def _on_send_done(self, _send: asyncio.Task[None]) -> None:
        self._sending -= 1

    def _start(self, work: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        """Runs ``work`` as a task. If it fails, all tasks end and the replicator starts again."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)
        return task

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failure = error

    async def _stop_tasks(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _send(self, row: Row) -> None:
        """One attempt: from SENDING to the next state. Cancelled, the row stays SENDING, and the
        next leader recovers it.
        """
        etag, lingers_s = "", 0.0
        if not await self._has_turn(row):
            return
        try:
            response = await self._write(row)
            state = state_after(row.method, response)
            problem = "" if state is State.DONE else _describe(response)
            etag = response.field("etag")
            if response.status in _GATEWAY_STATUSES:
                lingers_s = self._lingers_s(row)
            if state is State.CONFLICT and row.attempts > 1 and await self._has_arrived(row):
                # An earlier attempt without a response has succeeded, so its condition fails now.
                state, problem = State.DONE, ""
        except OriginError as exc:
            state, problem = state_without_response(exc), str(exc)
            if exc.failure in _UNREACHABLE:
                self._unreachable.add(row.origin_name)
            if exc.failure in _MAY_STILL_ARRIVE:
                lingers_s = self._lingers_s(row)
        except FileNotFoundError as exc:
            state, problem = State.FAILED, f"its body is missing: {exc}"
        except ValueError as exc:
            state, problem = State.FAILED, f"cannot be sent: {exc}"
        except OSError as exc:
            state, problem = State.QUEUED, f"its body cannot be read: {exc}"
        except Exception as exc:  # noqa: BLE001 - one write must not stop the others
            state, problem = State.QUEUED, f"unexpected: {exc!r}"
        try:
            await self._record_result(row, state, problem, etag, lingers_s)
        except WriteQueueError:
            raise
        except Exception as exc:  # noqa: BLE001 - the cache was not notified: try again
            problem = f"its result cannot be recorded: {exc!r}"
            await self._record_result(row, State.QUEUED, problem, "", lingers_s)

    async def _record_result(
        self, row: Row, state: State, problem: str, etag: str, lingers_s: float
    ) -> None:
        rows = self._write_queue.rows
        now_s = self._clock()
        if state is State.DONE:
            await self._drop_cached(row.asset_key)
        due_s = now_s + back_off_s(row.attempts, random.random())
        record = partial(
            rows.finish_attempt,
            row,
            state,
            problem=problem,
            due_s=due_s,
            etag=etag,
            held_until_s=now_s + lingers_s if lingers_s else 0.0,
        )
        await in_thread(record)
        self._write_queue.signal.notify()
        if self._fleet is not None and state in _ENDS:
            await self._fleet.ended(row, _ENDS[state])
        if state in DEAD_LETTERS:
            await self._notify_cache(row.asset_key)  # only now are readers back at the origin
        if state is State.DONE:
            if row.token:
                await remove_body(self._write_queue.bodies, row.token)
            if row.origin_name in self._unreachable:
                self._unreachable.discard(row.origin_name)
                await in_thread(partial(rows.make_due_now, row.origin_name, now_s))
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

    async def _notify_cache(self, asset_key: str) -> None:
        await self._drop_cached(asset_key)
        await in_thread(partial(self._write_queue.rows.mark_notified, asset_key))

    async def _write(self, row: Row) -> WriteResponse:
        writer = self._writers.get(row.origin_name)
        if writer is None:
            raise OriginError(
                OriginFailure.UNAVAILABLE, f"no origin named {row.origin_name} accepts writes"
            )
        write = _write_of(row)
        if not row.token:
            return await writer.write(write, None)
        pieces = _read_file(self._write_queue.bodies / row.token)
        try:
            return await writer.write(write, pieces)
        finally:
            await pieces.aclose()

    async def _has_arrived(self, row: Row) -> bool:
        """Whether the object at the origin is as ``row`` writes it. Raises OriginError."""
        reader = self._readers.get(row.origin_name)
        if reader is None:
            return False
        try:
            read = await reader.read(row.name)
        except OriginError as exc:
            if exc.failure is not OriginFailure.NOT_FOUND:
                raise
            return row.method == "DELETE"
        if read is None:  # never: no version was excluded
            return False
        try:
            if row.method == "DELETE" or read.head.version.size_bytes != row.size_bytes:
                return False
            digest = hashlib.md5(usedforsecurity=False)
            async for piece in read.pieces():
                digest.update(piece)
        finally:
            await read.close()
        return f'"{digest.hexdigest()}"' == row.etag


def _write_of(row: Row) -> Write:
    return Write(row.method, row.name, row.fields, row.size_bytes)


async def _version(reader: Origin, name: str) -> Version | None:
    """The version of an object, None when there is no object. Raises OriginError."""
    try:
        return (await reader.head(name)).version
    except OriginError as exc:
        if exc.failure is not OriginFailure.NOT_FOUND:
            raise
        return None


def _describe(response: WriteResponse) -> str:
    return f"answered {response.status} {find_error_code(response.body)}".rstrip()


async def _read_file(path: Path) -> AsyncGenerator[bytes, None]:
    """The bytes of a body. Raises OSError."""
    file = await to_its_end(open_file(path, "rb", buffering=0))
    try:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        while piece := await to_its_end(file.read(GATHERED_BYTES)):
            yield piece
    finally:
        await to_its_end(file.close())
