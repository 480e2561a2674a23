"""Sending queued writes: in order, with retries, and without losing rejected ones."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from streamedge.errors import OriginError, OriginFailure
from streamedge.ops.metrics import Counter, Counts, Gauge
from streamedge.origin.directory.origin import DirectoryOrigin
from streamedge.origin.writing import Write, WriteResponse
from streamedge.write_back import replicator as replicator_module
from streamedge.write_back.leader_lock import LeaderLock
from streamedge.write_back.queue import WriteQueue, prepare_write_queue
from streamedge.write_back.replicator import SENDS_MAX, Replicator
from streamedge.write_back.rows import WriteQueueError
from streamedge.write_back.states import BACK_OFF_MAX_S, State
from tests.support.origins.scripted_writer import (
    REPLICATOR,
    RecordingGauges,
    RecordingLog,
    ScriptedWriter,
    body_of,
    put,
)

DOWN = OriginError(OriginFailure.REFUSED, "connection refused")


class Bench:
    """A write queue, a scripted origin, a clock that tests set, and a running replicator."""

    def __init__(self, root: Path) -> None:
        prepare_write_queue(root)
        self.write_queue = WriteQueue(root, 0, 1 << 24, REPLICATOR)
        self.writer = ScriptedWriter()
        self.folder = root / "origin"
        self.folder.mkdir()
        self.log = RecordingLog()
        self.counts = Counts()
        self.late_s = 0.0
        self.dropped: list[tuple[str, bool]] = []
        self.fault: Exception | None = None

    async def accept(self, key: str, body: bytes | None, *fields: tuple[str, str]) -> WriteResponse:
        if body is None:
            return await self.write_queue.accept(key, "main", Write("DELETE", key, fields), None)
        return await self.write_queue.accept(key, "main", put(key, *fields), body_of(body))

    def pass_time(self, time_s: float) -> None:
        self.late_s += time_s
        self.write_queue.signal.notify()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async def drop_cached(key: str) -> None:
            if self.fault is not None:
                raise self.fault
            self.dropped.append((key, self.write_queue.pending(key) is not None))

        replicator = Replicator(
            self.write_queue,
            {"main": self.writer},
            {"main": DirectoryOrigin(self.folder)},
            drop_cached,
            self.log,
            self.counts,
            clock=lambda: time.time() + self.late_s,
        )
        self.replicator = replicator
        task = asyncio.create_task(replicator.run())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.write_queue.close()


async def test_pending_write_is_sent_and_its_row_removed(bench: Bench) -> None:
    await bench.accept("film", b"hello", ("Content-Type", "video/mp4"))
    await bench.accept("gone", None, ("If-Match", '"1"'))
    async with bench.running():
        await bench.log.wait_for_event("write_replicated", 2)
        await bench.accept("later", b"while it runs")
        await bench.log.wait_for_event("write_replicated", 3)
    sent = {write.name: (write, body) for write, body in bench.writer.sent}
    assert sent == {
        "film": (Write("PUT", "film", (("Content-Type", "video/mp4"),), 5), b"hello"),
        "gone": (Write("DELETE", "gone", (("If-Match", '"1"'),), 0), b""),
        "later": (Write("PUT", "later", (), 13), b"while it runs"),
    }
    assert bench.write_queue.pending("film") is None
    assert list(bench.write_queue.bodies.iterdir()) == []
    assert bench.write_queue.rows.totals().held_bytes == 0
    assert bench.write_queue.rows.totals().done == 3
    assert bench.counts.gathered(Counter.REPLICATIONS, "done") == 3


async def test_cache_is_notified_before_readers_fall_back_to_the_origin(bench: Bench) -> None:
    await bench.accept("film", b"hello")
    async with bench.running():
        await bench.log.wait_for_event("write_replicated")
    assert bench.dropped == [("film", True)]


async def test_writes_of_one_object_are_sent_one_after_another(bench: Bench) -> None:
    bench.writer.hold = asyncio.Event()
    for body in (b"1", b"2", b"3"):
        await bench.accept("film", body)
    async with bench.running():
        await bench.accept("other", b"x")
        await bench.writer.attempted(2)
        assert sorted(bench.writer.bodies) == [b"1", b"x"]
        bench.writer.hold.set()
        await bench.log.wait_for_event("write_replicated", 4)
    assert [body for body in bench.writer.bodies if body != b"x"] == [b"1", b"2", b"3"]


async def test_concurrent_sends_are_limited(bench: Bench) -> None:
    bench.writer.hold = asyncio.Event()
    for number in range(3 * SENDS_MAX):
        await bench.accept(f"film-{number}", b"x")
    async with bench.running():
        await bench.writer.attempted(SENDS_MAX)
        bench.writer.hold.set()
        await bench.log.wait_for_event("write_replicated", 3 * SENDS_MAX)
    assert bench.writer.most_running == SENDS_MAX


async def test_write_is_sent_when_its_origin_is_up_again_after_hours(bench: Bench) -> None:
    bench.writer.outcomes = [DOWN] * 12
    await bench.accept("film", b"hello")
    async with bench.running():
        for attempt in range(1, 13):
            refused = await bench.log.wait_for_event("write_not_replicated", attempt)
            assert refused[-1]["state"] == "queued"
            assert bench.write_queue.pending("film") is not None
            bench.pass_time(2 * BACK_OFF_MAX_S)
        lines = await bench.log.wait_for_event("write_replicated")
    assert lines[0]["attempts"] == 13
    assert bench.writer.bodies == [b"hello"] * 13


async def test_recovery_of_an_origin_makes_all_its_writes_due(bench: Bench) -> None:
    """A write that waits for hours is sent at once when another write has succeeded."""
    bench.writer.outcomes = [DOWN]
    await bench.accept("film", b"hello")
    async with bench.running():
        await bench.log.wait_for_event("write_not_replicated")
        (waiting,) = bench.write_queue.rows.list((State.QUEUED,), 10)
        with closing(sqlite3.connect(bench.write_queue.folder / "journal.sqlite")) as connection:
            connection.execute("UPDATE writes SET due_s = due_s + 7200")
            connection.commit()
        await bench.accept("other", b"x")
        lines = await bench.log.wait_for_event("write_replicated", 2)
    assert [event["object"] for event in lines] == ["other", "film"]
    assert waiting.problem == "connection refused"


@pytest.mark.parametrize(
    ("status", "state"), [(412, "conflict"), (409, "conflict"), (403, "failed")]
)
async def test_rejected_write_becomes_a_dead_letter_and_is_logged(
    bench: Bench, status: int, state: str
) -> None:
    bench.writer.outcomes = [WriteResponse(status)]
    await bench.accept("film", b"hello", ("If-Match", '"1"'))
    async with bench.running():
        (line,) = await bench.log.wait_for_event("write_not_replicated")
        assert (line["state"], line["problem"]) == (state, f"answered {status}")
        assert bench.write_queue.pending("film") is None
        (letter,) = (await bench.write_queue.status()).rows
        assert letter.state.value == state
        assert (bench.write_queue.bodies / letter.token).read_bytes() == b"hello"
        assert bench.dropped == [("film", False)]  # only when it is not read from here any more
        assert bench.write_queue.rows.unnotified() == []
        assert await bench.write_queue.requeue(letter.serial, unconditional=True)
        await bench.log.wait_for_event("write_replicated")
    assert bench.writer.sent[-1] == (Write("PUT", "film", (), 5), b"hello")


async def test_chain_of_conditions_reaches_the_origin(bench: Bench) -> None:
    first = await bench.accept("film", b"1", ("If-None-Match", "*"))
    await bench.accept("film", b"2", ("If-Match", first.field("etag")))
    async with bench.running():
        await bench.log.wait_for_event("write_replicated", 2)
    assert [write.fields for write, _ in bench.writer.sent] == [
        (("If-None-Match", "*"),),
        (("If-Match", '"origin-1"'),),
    ]


@pytest.mark.parametrize(
    ("there", "state"),
    [(b"hello", "done"), (b"other", "conflict"), (b"longer", "conflict"), (None, "conflict")],
)
async def test_put_with_a_lost_response_is_compared_with_the_origin(
    bench: Bench, there: bytes | None, state: str
) -> None:
    """Its own condition fails when it is sent again; the origin's bytes tell who wrote them."""
    if there is not None:
        (bench.folder / "film").write_bytes(there)
    lost = OriginError(OriginFailure.BROKEN, "connection lost before an answer")
    bench.writer.outcomes = [lost, WriteResponse(412)]
    await bench.accept("film", b"hello", ("If-None-Match", "*"))
    async with bench.running():
        await bench.log.wait_for_event("write_not_replicated")
        bench.pass_time(BACK_OFF_MAX_S)
        await bench.log.until(lambda: len(bench.log.events) == 3)
    assert bench.log.events[-1][1]["state"] == state


@pytest.mark.parametrize(("is_there", "state"), [(False, "done"), (True, "conflict")])
async def test_delete_with_a_lost_response_is_compared_with_the_origin(
    bench: Bench, is_there: bool, state: str
) -> None:
    if is_there:
        (bench.folder / "film").write_bytes(b"new")
    lost = OriginError(OriginFailure.BROKEN, "connection lost before an answer")
    bench.writer.outcomes = [lost, WriteResponse(412)]
    await bench.accept("film", None, ("If-Match", '"1"'))
    async with bench.running():
        await bench.log.wait_for_event("write_not_replicated")
        bench.pass_time(BACK_OFF_MAX_S)
        await bench.log.until(lambda: len(bench.log.events) == 3)
    assert bench.log.events[-1][1]["state"] == state


async def test_conflict_of_the_first_attempt_is_a_conflict(bench: Bench) -> None:
    (bench.folder / "film").write_bytes(b"hello")
    bench.writer.outcomes = [WriteResponse(412)]
    await bench.accept("film", b"hello", ("If-None-Match", "*"))
    async with bench.running():
        (line,) = await bench.log.wait_for_event("write_not_replicated")
    assert line["state"] == "conflict"
    assert bench.dropped == [("film", False)]  # readers have been sent to the origin before


async def test_write_waits_while_its_origin_is_not_configured(bench: Bench) -> None:
    await bench.write_queue.accept("film", "renamed", put("film"), body_of(b"hello"))
    async with bench.running():
        (line,) = await bench.log.wait_for_event("write_not_replicated")
    assert line["state"] == "queued"
    assert "renamed" in line["problem"]


async def test_other_origins_are_used_from_the_next_write_on(bench: Bench) -> None:
    await bench.write_queue.accept("film", "renamed", put("film"), body_of(b"hello"))
    async with bench.running():
        await bench.log.wait_for_event("write_not_replicated")
        origin = DirectoryOrigin(bench.folder)
        bench.replicator.replace({"renamed": bench.writer}, {"renamed": origin})
        bench.pass_time(BACK_OFF_MAX_S)
        (line,) = await bench.log.wait_for_event("write_replicated")
    assert (line["origin"], line["object"]) == ("renamed", "film")


async def test_write_with_a_missing_body_fails(bench: Bench) -> None:
    await bench.accept("film", b"hello")
    for body in bench.write_queue.bodies.iterdir():
        body.unlink()
    async with bench.running():
        (line,) = await bench.log.wait_for_event("write_not_replicated")
    assert line["state"] == "failed"


async def test_write_interrupted_by_a_stop_is_sent_later(bench: Bench) -> None:
    bench.writer.hold = asyncio.Event()
    await bench.accept("film", b"hello")
    async with bench.running():
        await bench.writer.attempted(1)
    assert bench.write_queue.rows.by_state() == {State.SENDING: 1}
    assert bench.write_queue.pending("film") is not None
    bench.writer.hold = None
    async with bench.running():
        (line,) = await bench.log.wait_for_event("write_replicated")
    assert line["attempts"] == 2


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
async def test_write_of_a_dead_sender_arrives_before_those_of_its_successor(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """The successor leaves the object alone until it sees the write arrive."""
    monkeypatch.setattr(replicator_module, "POLL_S", 0.0)
    bench.writer.lingering_s = 3600.0
    bench.writer.hold = asyncio.Event()
    (bench.folder / "film").write_bytes(b"before")
    await bench.accept("film", b"first" if method == "PUT" else None)
    async with bench.running():
        await bench.writer.attempted(1)
    bench.writer.hold = None
    await bench.accept("film", b"second")
    await bench.accept("other", b"x")
    async with bench.running():
        await bench.log.wait_for_event("write_replicated")
        assert bench.writer.bodies[1:] == [b"x"]
        if method == "PUT":
            (bench.folder / "film").write_bytes(b"first")
        else:
            (bench.folder / "film").unlink()
        await bench.log.wait_for_event("write_replicated", 3)
    assert bench.writer.bodies[-1] == b"second"


async def test_hold_for_a_write_of_a_dead_sender_that_never_lands_expires(
    bench: Bench,
) -> None:
    bench.writer.lingering_s = 3600.0
    bench.writer.hold = asyncio.Event()
    await bench.accept("film", b"first")
    async with bench.running():
        await bench.writer.attempted(1)
    bench.writer.hold = None
    async with bench.running():
        await bench.accept("other", b"x")
        await bench.log.wait_for_event("write_replicated")
        bench.pass_time(3601.0)
        await bench.log.wait_for_event("write_replicated", 2)
    assert bench.writer.bodies == [b"first", b"x", b"first"]


@pytest.mark.parametrize(
    "outcome",
    [
        OriginError(OriginFailure.TIMEOUT, "silent"),
        OriginError(OriginFailure.BROKEN, "connection lost"),
        WriteResponse(504),
    ],
)
async def test_newer_write_waits_while_an_unanswered_one_may_land(
    bench: Bench, outcome: OriginError | WriteResponse
) -> None:
    bench.writer.lingering_s = 3600.0
    bench.writer.outcomes = [outcome]
    await bench.accept("film", b"first")
    await bench.accept("film", b"second")
    async with bench.running():
        await bench.log.wait_for_event("write_not_replicated")
        bench.pass_time(60.0)
        await bench.log.wait_for_event("write_replicated")
        await bench.accept("other", b"x")
        await bench.log.wait_for_event("write_replicated", 2)
        assert bench.writer.bodies == [b"first", b"first", b"x"]
        bench.pass_time(3600.0)
        await bench.log.wait_for_event("write_replicated", 3)
    assert bench.writer.bodies[-1] == b"second"


async def test_write_that_raises_does_not_stop_the_others(bench: Bench) -> None:
    bench.writer.outcomes = [KeyError("a fault of ours")]
    await bench.accept("film", b"hello")
    async with bench.running():
        (failed,) = await bench.log.wait_for_event("write_not_replicated")
        assert "a fault of ours" in failed["problem"]
        await bench.accept("other", b"x")
        await bench.log.wait_for_event("write_replicated")
        bench.pass_time(BACK_OFF_MAX_S)
        await bench.log.wait_for_event("write_replicated", 2)
    assert "replicator_failed" not in {event for event, _fields in bench.log.events}


async def test_write_stays_queued_if_the_cache_cannot_be_notified(bench: Bench) -> None:
    bench.fault = OSError("the cache cannot be notified")
    await bench.accept("film", b"hello")
    async with bench.running():
        (failed,) = await bench.log.wait_for_event("write_not_replicated")
        assert "cannot be notified" in failed["problem"]
        assert bench.write_queue.pending("film") is not None
        bench.fault = None
        bench.pass_time(BACK_OFF_MAX_S)
        await bench.log.wait_for_event("write_replicated")
    assert bench.write_queue.pending("film") is None


async def test_replicator_restarts_after_any_failure(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicator_module, "RESTART_S", 0.0)
    acquire, faults = LeaderLock.acquire, iter([RuntimeError("can't start new thread")])

    async def fail_once(lock: LeaderLock) -> None:
        for fault in faults:
            raise fault
        await acquire(lock)

    monkeypatch.setattr(LeaderLock, "acquire", fail_once)
    await bench.accept("film", b"hello")
    async with bench.running():
        (failed,) = await bench.log.wait_for_event("replicator_failed")
        await bench.log.wait_for_event("write_replicated")
    assert "new thread" in failed["error"]


async def test_replicator_restarts_after_a_queue_failure(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicator_module, "RESTART_S", 0.0)
    finish_attempt = bench.write_queue.rows.finish_attempt
    faults = iter([WriteQueueError("disk full")])

    def fail_once(*args: object, **more: object) -> None:
        for fault in faults:
            raise fault
        finish_attempt(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(bench.write_queue.rows, "finish_attempt", fail_once)
    await bench.accept("film", b"hello")
    async with bench.running():
        (failed,) = await bench.log.wait_for_event("replicator_failed")
        await bench.log.wait_for_event("write_replicated")
    assert "disk full" in failed["error"]
    assert bench.writer.bodies == [b"hello"] * 2


async def test_gauges_count_pending_writes_dead_letters_and_bytes(bench: Bench) -> None:
    bench.counts.gauges = RecordingGauges(bench.log)
    bench.writer.outcomes = [WriteResponse(403), DOWN]
    await bench.accept("film", b"hello")
    expected = {Gauge.QUEUED_WRITES: 1, Gauge.DEAD_LETTERS: 1, Gauge.QUEUED_WRITE_BYTES: 7}
    async with bench.running():
        await bench.log.wait_for_event("write_not_replicated", 1)
        await bench.accept("other", b"hi")
        await bench.log.until(lambda: bench.counts.gauges == expected)
