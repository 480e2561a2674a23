"""A bucket that is away for ten minutes, of virtual time: its server is stopped and started."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from time import time

import pytest

from streamedge.logs.batches import prepare_spool, segments_folder, spool_state
from streamedge.logs.delivery import Clock, Destination, LogDelivery, retry_pause_s
from streamedge.ops.log import open_log
from streamedge.ops.metrics import Counts
from streamedge.origin.s3.origin import S3Origin
from streamedge.origin.writing import WritableOrigin, Write, WriteResponse
from tests.support.access_logs import bucket_files, texts
from tests.support.origins.s3_server import S3Server, run_s3_server
from tests.support.patience import PATIENCE_S
from tests.support.process import spool_process
from tests.support.process.edge_process import pause

BUCKET = "logs"
OUTAGE_S = 600.0
LINES = 50  # of a worker that are waited for


@dataclass
class VirtualClock:
    """Time that passes only up to ``until_s``, and only while no file is being sent.

    ``is_waited_for``: the delivery waits for the time to pass, so it does nothing else.
    """

    delivery: LogDelivery | None = None
    elapsed_s: float = 0.0
    until_s: float = 0.0
    is_waited_for: bool = False
    began_s: float = field(default_factory=time)

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.began_s + self.elapsed_s, lambda: self.elapsed_s, self.sleep)

    @property
    def is_blocked(self) -> bool:
        return self.delivery is not None and self.delivery.is_sending

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)
        self.is_waited_for = True
        while self.is_blocked or self.elapsed_s + seconds > self.until_s:
            await asyncio.to_thread(pause)
        self.is_waited_for = False
        self.elapsed_s += seconds

    async def advance(self, seconds: float) -> None:
        """Lets so much time pass; returns when nothing is being done at its end."""
        self.until_s += seconds
        async with asyncio.timeout(PATIENCE_S):
            while self.is_blocked or not self.is_waited_for or self.elapsed_s < self.until_s:
                await asyncio.to_thread(pause)


class TimedWriter:
    """Passes writes on; ``attempts_s`` are their times."""

    def __init__(self, writer: WritableOrigin, clock: VirtualClock) -> None:
        self._writer = writer
        self._clock = clock
        self.attempts_s: list[float] = []

    def lingers_s(self, write: Write) -> float:
        return self._writer.lingers_s(write)

    async def end_abandoned(self) -> int:
        return await self._writer.end_abandoned()

    async def check(self, write: Write) -> None:
        await self._writer.check(write)

    async def write(self, write: Write, body: AsyncIterator[bytes] | None) -> WriteResponse:
        self.attempts_s.append(self._clock.elapsed_s)
        return await self._writer.write(write, body)


@pytest.fixture
def server() -> Iterator[S3Server]:
    """A server of this test's own, which it stops."""
    with run_s3_server() as running:
        running.create_bucket(BUCKET)
        yield running


@contextmanager
def worker(root: Path, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that writes lines "NAME-0", "NAME-1", …; it is killed by SIGKILL."""
    command = [sys.executable, spool_process.__file__, str(segments_folder(root)), name, "EWEB"]
    process = subprocess.Popen(command)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def flushed(root: Path) -> set[str]:
    """The whole lines in the spool's files."""
    lines: set[str] = set()
    for path in root.glob("*/**/*.w*"):
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            lines.update(path.read_text().rpartition("\n")[0].splitlines())
    return lines


async def await_flushed(root: Path, name: str, lines: set[str]) -> None:
    """Adds lines to ``lines`` until it has LINES new ones of a worker."""
    enough = sum(line.startswith(name) for line in lines) + LINES
    async with asyncio.timeout(PATIENCE_S):
        while sum(line.startswith(name) for line in lines) < enough:
            lines |= await asyncio.to_thread(flushed, root)
            await asyncio.to_thread(pause)


async def advance_until_attempt(time_: VirtualClock, writer: TimedWriter, number: int) -> None:
    """Lets time pass until an attempt; the workers complete the segments in real time."""
    async with asyncio.timeout(PATIENCE_S):
        while len(writer.attempts_s) < number:
            await time_.advance(1.0)


async def test_bucket_away_for_ten_minutes_loses_and_doubles_no_flushed_line(
    tmp_path: Path, server: S3Server
) -> None:
    root = tmp_path / "logs"
    prepare_spool(root)
    time_ = VirtualClock()
    origin = S3Origin(
        BUCKET,
        region=server.region,
        endpoint=server.endpoint,
        access_key_id=server.access_key_id,
        secret_access_key=server.secret_access_key,
    )
    writer = TimedWriter(origin.writer, time_)
    destinations = {"EWEB": Destination("logs", writer, "cdn/", spool_process.INTERVAL_S)}
    log = open_log(str(tmp_path / "edge.log"), "control")
    delivery = time_.delivery = LogDelivery(
        root, lambda: destinations, lambda: 1 << 30, log, Counts(), time_.clock
    )
    lines: set[str] = set()
    running = asyncio.create_task(delivery.run())
    try:
        with worker(root, "w0"), worker(root, "w1") as second:
            await await_flushed(root, "w0", lines)
            await await_flushed(root, "w1", lines)
            await advance_until_attempt(time_, writer, 1)
            await asyncio.to_thread(server.process.stop)
            stopped = len(writer.attempts_s)
            await await_flushed(root, "w0", lines)
            await advance_until_attempt(time_, writer, stopped + 1)
            await time_.advance(OUTAGE_S / 2)
            await await_flushed(root, "w1", lines)
            second.kill()
            await time_.advance(OUTAGE_S / 2)
            await await_flushed(root, "w0", lines)
            lines |= await asyncio.to_thread(flushed, root)
        failed_s = writer.attempts_s[stopped:]
        assert spool_state(root).size_bytes > 0
        await asyncio.to_thread(server.process.start)
        while spool_state(root).size_bytes > 0:
            await time_.advance(retry_pause_s(100))
    finally:
        running.cancel()
        await asyncio.wait([running])
        await origin.close()
        log.finish()
    pauses_s = [after_s - before_s for before_s, after_s in pairwise(failed_s)]
    assert pauses_s[:7] == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0]
    assert set(pauses_s[7:]) == {60.0}
    assert sum(pauses_s) > OUTAGE_S - 2 * 60.0
    delivered = Counter(await asyncio.to_thread(lambda: texts(bucket_files(server, BUCKET))))
    assert set(delivered.values()) == {1}
    assert lines <= delivered.keys()
