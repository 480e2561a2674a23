"""The queue under SIGKILL, and two processes that compete for the leader lock."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from streamedge.write_back.bodies import sweep
from streamedge.write_back.queue import WriteQueue, prepare_write_queue
from streamedge.write_back.states import State
from tests.support.origins.scripted_writer import REPLICATOR, body_of, put
from tests.support.patience import PATIENCE_S

PROGRAM = "tests.support.process.queue_process"


class Worker:
    """A running ``queue_process.py``."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    async def wait_for_event(self, event: str) -> dict[str, Any]:
        """Waits until it prints ``event``."""
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            while line := await self._process.stdout.readline():
                log_line: dict[str, Any] = json.loads(line)
                if log_line["event"] == event:
                    return log_line
        raise AssertionError(f"ended without {event}")

    async def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()


Start = Callable[[str, str], Awaitable[Worker]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    prepare_write_queue(tmp_path)
    (tmp_path / "origin").mkdir()
    return tmp_path


@pytest.fixture
async def start(root: Path) -> AsyncIterator[Start]:
    workers: list[Worker] = []

    async def start(task: str, argument: str) -> Worker:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", PROGRAM, task, str(root), argument, stdout=asyncio.subprocess.PIPE
        )
        workers.append(Worker(process))
        return workers[-1]

    yield start
    for worker in workers:
        await worker.kill()


async def test_process_killed_before_the_row_leaves_no_write(root: Path, start: Start) -> None:
    worker = await start("accept", "body")
    await worker.wait_for_event("body")
    write_queue = WriteQueue(root, 1, 1 << 20, REPLICATOR)
    (body,) = write_queue.bodies.iterdir()
    os.utime(body, (0, 0))
    assert (
        sweep(write_queue.bodies, write_queue.rows.has_token) == 0
    )  # it may still come to its row
    await worker.kill()
    assert write_queue.pending("key") is None
    assert write_queue.rows.by_state() == {}
    assert sweep(write_queue.bodies, write_queue.rows.has_token) == 1
    write_queue.close()


@pytest.mark.parametrize("point", ["row", "answer"])
async def test_write_of_a_process_killed_after_the_row_is_sent(
    root: Path, start: Start, point: str
) -> None:
    worker = await start("accept", point)
    await worker.wait_for_event(point)
    await worker.kill()
    write_queue = WriteQueue(root, 1, 1 << 20, REPLICATOR)
    pending = write_queue.pending("key")
    assert pending is not None
    assert pending.path is not None
    assert pending.path.read_bytes() == b"hello"
    successor = await start("replicate", "0")
    await successor.wait_for_event("write_replicated")
    assert (root / "origin/film").read_bytes() == b"hello"
    assert write_queue.pending("key") is None
    write_queue.close()


async def test_second_process_takes_over_when_the_leader_ends(root: Path, start: Start) -> None:
    write_queue = WriteQueue(root, 2, 1 << 20, REPLICATOR)
    first = await start("replicate", "0")
    await first.wait_for_event("replicator_started")
    second = await start("replicate", "1")
    for body in (b"one", b"two"):
        await write_queue.accept("key", "main", put("film"), body_of(body))
        assert (await first.wait_for_event("write_replicated"))["pid"] == first.pid
    await first.kill()
    await second.wait_for_event("replicator_started")
    await write_queue.accept("key", "main", put("film"), body_of(b"three"))
    assert (await second.wait_for_event("write_replicated"))["pid"] == second.pid
    assert (root / "origin/film").read_bytes() == b"three"
    write_queue.close()


async def test_write_of_a_leader_killed_after_the_origin_had_it_is_not_a_conflict(
    root: Path, start: Start
) -> None:
    write_queue = WriteQueue(root, 2, 1 << 20, REPLICATOR)
    await write_queue.accept("key", "main", put("film", ("If-None-Match", "*")), body_of(b"hello"))
    await write_queue.accept("key", "main", put("film"), body_of(b"later"))
    first = await start("stick", "0")
    await first.wait_for_event("stuck")
    await first.kill()
    assert write_queue.rows.by_state() == {State.SENDING: 1, State.QUEUED: 1}
    second = await start("replicate", "1")
    lines = [await second.wait_for_event("write_replicated") for _ in range(2)]
    assert [event["attempts"] for event in lines] == [2, 1]
    assert (root / "origin/film").read_bytes() == b"later"
    assert write_queue.rows.by_state() == {}
    write_queue.close()


async def test_next_leader_notifies_the_cache_of_a_conflict_of_a_killed_one(
    root: Path, start: Start
) -> None:
    """Else readers would go on getting what the origin has refused."""
    (root / "origin/film").write_bytes(b"the origin's own")
    write_queue = WriteQueue(root, 2, 1 << 20, REPLICATOR)
    await write_queue.accept("key", "main", put("film", ("If-None-Match", "*")), body_of(b"hello"))
    first = await start("silent", "0")
    await first.wait_for_event("silent")
    await first.kill()
    assert write_queue.rows.by_state() == {State.CONFLICT: 1}
    for unnotified in (["key"], []):
        assert write_queue.rows.unnotified() == unnotified
        second = await start("replicate", "1")
        if unnotified:
            assert (await second.wait_for_event("notified"))["key"] == "key"
        await write_queue.accept("other", "main", put("other"), body_of(b"hello"))
        await second.wait_for_event("write_replicated")
        await second.kill()
    write_queue.close()
