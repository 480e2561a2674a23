"""The shared log in a real Redis server: from an append to the last of ten readers.

Server, proxy, publisher and readers are processes of their own; the clock is CLOCK_MONOTONIC, which
they share. The server writes each entry to its disk (appendfsync everysec), as operators run it.
"""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import TypeVar

from bench.options import Options
from bench.report import Figure, Target
from bench.servers.edge import STREAMEDGE
from bench.servers.server import BenchError, scratch_folder
from streamedge.fleet.entries import Entry, EntryKind, new_entry_id
from streamedge.fleet.members import Presence
from streamedge.fleet.position import START
from streamedge.fleet.states import EdgeState
from streamedge.shared_log.engine import Engine, Snapshot
from streamedge.shared_log.opening import open_engine
from tests.support.engine.redis_server import run_redis
from tests.support.engine.tcp_proxy import run_proxy

READERS = 10
ENTRIES = 400
INTERVAL_S = 0.01
BEHIND = 10_000
RATE = 1_000
DELAY_S = 0.040
BATCH_S = 0.01  # of the outbox, under load
LEASE_S = 10.0
PREFIX = "bench"
TIMEOUT_S = 60.0

T = TypeVar("T")
_SPAWN = multiprocessing.get_context("spawn")


def shared_log(options: Options) -> list[Figure]:
    """Times from append to read, on loopback and with a distant engine; rates."""
    with scratch_folder() as folder:
        near = _latencies(folder / "near", 0.0)
        far = _latencies(folder / "far", DELAY_S)
        rate, loaded = _sustained(folder / "loaded", options.seconds)
        behind_s = _catch_up(folder / "behind")
    return [
        *_percentiles("append to the last of ten readers", near, 20.0),
        *_percentiles(f"the same, engine {DELAY_S * 1000:.0f} ms away each way", far, 110.0),
        Figure(
            "entries a second from one publisher, read by ten",
            "",
            {STREAMEDGE: rate},
            Target(0.99 * RATE, at_least=True),
        ),
        *_percentiles("append to the last reader at that rate", loaded, None),
        Figure(f"reading {BEHIND:,} entries", "s", {STREAMEDGE: behind_s}, Target(1.0)),
    ]


def _percentiles(label: str, times_s: list[float], limit_ms: float | None) -> list[Figure]:
    cuts = statistics.quantiles([1000 * each for each in times_s], n=100)
    target = None if limit_ms is None else Target(limit_ms)
    return [
        Figure(f"{label}, median", "ms", {STREAMEDGE: cuts[49]}),
        Figure(f"{label}, P99", "ms", {STREAMEDGE: cuts[98]}, target),
    ]


def _latencies(folder: Path, delay_s: float) -> list[float]:
    """Single entries, an even time apart."""
    with _fleet(folder, delay_s) as fleet:
        sent = _call(_publish, fleet.url)
        return fleet.times_s(sent)


def _sustained(folder: Path, seconds: float) -> tuple[float, list[float]]:
    """The rate at which entries were taken, and the times of those entries."""
    with _fleet(folder, 0.0) as fleet:
        sent, took_s = _call(_publish_rate, fleet.url, int(RATE * seconds))
        return len(sent) / took_s, fleet.times_s(sent)


def _catch_up(folder: Path) -> float:
    with run_redis(folder, "--appendfsync", "everysec") as server:
        return _call(_read_behind, server.url)


class _Fleet:
    """Ten readers, each a process, that follow a log."""

    def __init__(self, url: str, pipes: list[Connection]) -> None:
        self.url = url
        self._pipes = pipes

    def times_s(self, sent: dict[str, float]) -> list[float]:
        """The time from each append to its last reader."""
        last: dict[str, float] = {}
        for pipe in self._pipes:
            pipe.send(list(sent))
        for pipe in self._pipes:
            if not pipe.poll(TIMEOUT_S):
                raise BenchError("a reader did not get all entries")
            for entry_id, read_s in pipe.recv().items():
                last[entry_id] = max(read_s, last.get(entry_id, 0.0))
        return [last[entry_id] - sent_s for entry_id, sent_s in sent.items()]


@contextmanager
def _fleet(folder: Path, delay_s: float) -> Iterator[_Fleet]:
    readers: list[SpawnProcess] = []
    with run_redis(folder, "--appendfsync", "everysec") as server, run_proxy(server.port) as proxy:
        proxy.delay(delay_s)
        url = server.url if not delay_s else f"redis://127.0.0.1:{proxy.port}/0"
        _call(_begin, server.url)
        pipes = []
        for number in range(READERS):
            pipe, theirs = _SPAWN.Pipe()
            reader = _SPAWN.Process(target=_read, args=[url, number, theirs], daemon=True)
            reader.start()
            readers.append(reader)
            pipes.append(pipe)
        try:
            for pipe in pipes:
                if not pipe.poll(TIMEOUT_S):
                    raise BenchError("a reader did not start")
                pipe.recv()
            yield _Fleet(url, pipes)
        finally:
            for reader in readers:
                reader.terminate()
                reader.join()


def _call(function: Callable[..., T], *arguments: object) -> T:
    """Runs a function in a process of its own, beside the proxy's."""
    with ProcessPoolExecutor(1, _SPAWN) as pool:
        return pool.submit(function, *arguments).result()


def _entry() -> Entry:
    body = {"items": [{"kind": "prefix", "value": "/films/one/"}], "soft": False, "revoke": False}
    return Entry(
        new_entry_id(), EntryKind.INVALIDATION, "bench", time.time(), "EDISTRIBUTION", body
    )


def _begin(url: str) -> None:
    async def begin() -> None:
        engine = open_engine(url, PREFIX)
        await engine.begin_line(1, Entry(new_entry_id(), EntryKind.LINE, "", 0.0), Snapshot())
        await engine.close()

    asyncio.run(begin())


def _publish(url: str) -> dict[str, float]:
    """Appends single entries; returns when each append began, by id."""

    async def publish() -> dict[str, float]:
        engine = open_engine(url, PREFIX)
        await engine.bounds()
        sent: dict[str, float] = {}
        for _ in range(ENTRIES):
            entry = _entry()
            sent[entry.id] = time.monotonic()
            await engine.append(entry, line=1)
            await asyncio.sleep(INTERVAL_S)
        await engine.close()
        return sent

    return asyncio.run(publish())


def _publish_rate(url: str, count: int) -> tuple[dict[str, float], float]:
    """Appends entries at RATE, a batch of due ones at a time; returns also how long that took."""

    async def publish() -> tuple[dict[str, float], float]:
        engine = open_engine(url, PREFIX)
        await engine.bounds()
        sent: dict[str, float] = {}
        began_s = time.monotonic()
        while len(sent) < count:
            due = min(count, int((time.monotonic() - began_s) * RATE)) - len(sent)
            batch = [_entry() for _ in range(due)]
            sent |= dict.fromkeys((entry.id for entry in batch), time.monotonic())
            await engine.append_many(batch, line=1)
            await asyncio.sleep(BATCH_S)
        await engine.close()
        return sent, time.monotonic() - began_s

    return asyncio.run(publish())


def _read_behind(url: str) -> float:
    """Appends BEHIND entries; returns how long a new reader takes for them."""

    async def read() -> float:
        writer, reader = open_engine(url, PREFIX), open_engine(url, PREFIX)
        await writer.begin_line(1, Entry(new_entry_id(), EntryKind.LINE, "", 0.0), Snapshot())
        await writer.append_many([_entry() for _ in range(BEHIND)], line=1)
        began_s = time.monotonic()
        position, entry_id, count = START, "", 0
        while count <= BEHIND:
            batch = await reader.read_after(position, entry_id, count=1000, wait_s=0)
            position, entry_id = batch[-1].position, batch[-1].id
            count += len(batch)
        took_s = time.monotonic() - began_s
        await writer.close()
        await reader.close()
        return took_s

    return asyncio.run(read())


def _read(url: str, number: int, pipe: Connection) -> None:
    """An edge: follows the log, reports after each batch, and sends when it read each entry."""
    asyncio.run(_follow(open_engine(url, PREFIX), number, pipe))


async def _follow(engine: Engine, number: int, pipe: Connection) -> None:
    read: dict[str, float] = {}
    position, entry_id = START, ""
    beats = itertools.count()
    awaited: set[str] | None = None
    reporting: asyncio.Task[object] | None = None
    while awaited is None or not awaited <= read.keys():
        batch = await engine.read_after(position, entry_id, count=1000, wait_s=0.1)
        now_s = time.monotonic()
        read |= dict.fromkeys((placed.id for placed in batch), now_s)
        if batch:
            position, entry_id = batch[-1].position, batch[-1].id
            if reporting is None:
                pipe.send(None)  # it has read the beginning of the line, and is subscribed
            if reporting is None or reporting.done():
                presence = Presence(f"edge-{number}", EdgeState.UP, position, 0, next(beats))
                reporting = asyncio.create_task(engine.report(presence, LEASE_S))
        if awaited is None and pipe.poll():
            awaited = set(pipe.recv())
    if reporting is not None:
        await reporting
    pipe.send({each: read[each] for each in awaited})
    await engine.close()
