"""Workers as real processes on one cache folder: sharing, dying, starting again."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from streamedge.cache.storage.extent import CHUNK_BYTES, HEADER_BYTES
from streamedge.spans import Span
from tests.support.http.location import Location, fetch, run_location
from tests.support.origins.scripted_origin import Pattern
from tests.support.patience import PATIENCE_S

FILM = Pattern(9 * CHUNK_BYTES + 777, seed=14)
ALL = Span(0, FILM.size_bytes)
STOP = 4 * CHUNK_BYTES + 1234


def digest_to(end: int) -> str:
    return hashlib.sha256(FILM.read(Span(0, end))).hexdigest()


WHOLE = {"size_bytes": FILM.size_bytes, "digest": digest_to(FILM.size_bytes)}
PROGRAM = Path(__file__).parents[1] / "support" / "process" / "worker_process.py"


@pytest.fixture
async def location(cache_root: Path) -> AsyncIterator[Location]:
    async with run_location(cache_root) as location:
        location.server.put("film", FILM)
        yield location


@asynccontextmanager
async def run_worker(
    location: Location, slot: int, *positions: int, file_limit_bytes: int = 0
) -> AsyncIterator[Process]:
    """A worker in a process of its own, killed at the end if it has not ended."""
    arguments = [location.root, slot, location.server.url, file_limit_bytes, *positions]
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(PROGRAM), *map(str, arguments), stdin=DEVNULL, stdout=PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def output(process: Process) -> Any:
    """The next line of a worker."""
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        line = await process.stdout.readline()
    assert line, "the worker ended without a word"
    return json.loads(line)


async def kill(location: Location, process: Process) -> None:
    """SIGKILL, and until the origin has seen it."""
    process.send_signal(signal.SIGKILL)
    await process.wait()
    await location.server.until(lambda: location.server.connections_open == 0)


async def test_processes_share_one_read_of_each_byte(location: Location) -> None:
    server = location.server
    server.hold("film", at=STOP)
    async with run_worker(location, 0, STOP) as one, run_worker(location, 1, STOP) as other:
        assert [await output(one), await output(other)] == [STOP, STOP]
        assert len(server.requests) == 1
        server.release("film")
        lasts = [await output(one), await output(other)]
    assert sorted(last.pop("origin_bytes") for last in lasts) == [0, FILM.size_bytes]
    assert lasts == [WHOLE, WHOLE]
    assert server.body_bytes_sent == FILM.size_bytes


async def test_fill_of_a_killed_worker_is_continued_where_it_stopped(location: Location) -> None:
    server = location.server
    server.hold("film", at=STOP)
    async with run_worker(location, 0, STOP) as filling, run_worker(location, 1, STOP) as other:
        assert [await output(filling), await output(other)] == [STOP, STOP]
        # The worker that requested first has the fill; the other one continues.
        first, second = (filling, other)
        if not await fills(location, filling):
            first, second = second, first
        first.send_signal(signal.SIGKILL)
        await first.wait()
        await server.wait_for_requests(2)
        server.release("film")
        last = await output(second)
    assert last == WHOLE | {"origin_bytes": FILM.size_bytes - STOP}
    assert server.requests[1].span == Span(STOP, FILM.size_bytes)
    assert server.requests[1].headers["if-match"] == '"1"'
    assert server.body_bytes_sent <= FILM.size_bytes + CHUNK_BYTES


async def fills(location: Location, process: Process) -> bool:
    """Whether a process is the one with a connection to the origin."""
    port = f":{location.server.port:04X}"
    sockets = {
        row.split()[9]
        for row in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if row.split()[2].endswith(port)
    }
    links = [os.readlink(entry) for entry in Path(f"/proc/{process.pid}/fd").iterdir()]
    return any(link == f"socket:[{inode}]" for link in links for inode in sockets)


async def test_workers_killed_one_after_another_lose_no_byte(location: Location) -> None:
    server = location.server
    at = 0
    server.hold("film", at=0)
    for slot, stop in enumerate((777, 2 * CHUNK_BYTES, 5 * CHUNK_BYTES + 1)):
        async with run_worker(location, slot, stop) as process:
            server.release("film", stop - at)
            assert await output(process) == stop
            await kill(location, process)
        at = stop
    server.release("film")
    async with run_worker(location, 0) as process:
        assert WHOLE.items() <= (await output(process)).items()
    assert [request.span.start for request in server.requests if request.span is not None] == [
        0,
        777,
        2 * CHUNK_BYTES,
        5 * CHUNK_BYTES + 1,
    ]
    assert server.body_bytes_sent == FILM.size_bytes


async def test_lookup_of_a_killed_worker_is_repeated_by_another(
    location: Location,
) -> None:
    server = location.server
    server.hold_responses()
    async with run_worker(location, 0) as first:
        await server.wait_for_requests(1)
        await kill(location, first)
    async with run_worker(location, 1) as other:
        await server.wait_for_requests(2)
        server.release_responses()
        assert WHOLE.items() <= (await output(other)).items()
    assert server.body_bytes_sent == FILM.size_bytes


async def test_cached_object_needs_no_request_after_a_restart(location: Location) -> None:
    async with run_worker(location, 0) as process:
        assert await output(process) == WHOLE | {"origin_bytes": FILM.size_bytes}
    await location.server.refuse()
    async with run_worker(location, 0) as process:
        assert await output(process) == WHOLE | {"origin_bytes": 0}
    assert len(location.server.requests) == 1
    await location.server.accept()


async def test_system_call_failure_gives_a_named_error(location: Location) -> None:
    """EFBIG in the middle of a fill, by RLIMIT_FSIZE, which bounds memory files just so."""
    limit_bytes = HEADER_BYTES + STOP
    async with run_worker(location, 0, file_limit_bytes=limit_bytes) as process:
        last = await output(process)
    assert 0 < last["size_bytes"] <= STOP
    assert last["digest"] == digest_to(last["size_bytes"])
    # The bytes on disk before that are valid and need not be fetched again.
    sent = location.server.body_bytes_sent
    worker = location.worker()
    extent = location.extent(FILM.size_bytes)
    assert extent is not None
    kept_bytes = sum(extent.resume(chunk) for chunk in range(extent.chunks))
    worker.store.close_extent(extent)
    assert 0 < kept_bytes <= STOP
    assert await fetch(worker, location.asset(), ALL) == FILM.read(ALL)
    assert location.server.body_bytes_sent - sent == FILM.size_bytes - kept_bytes
