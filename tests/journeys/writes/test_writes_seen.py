"""Journeys: after a write that succeeded no worker serves what was there before, whatever happens.

Readers request an object all the time, so that both workers are always about to store or to
validate it, and now and then a worker is killed. A reader that comes after an acknowledged write
gets that write or a later one.
"""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.http.http_viewer import TruncatedError, fetch, open_viewer, request
from tests.support.process.edge_process import EdgeProcess, run_edge

NAMES = ("a", "b")
ROUNDS = 40
KILLS = (10, 20, 30)  # the rounds in which a worker is killed while a write is under way
LOST = (
    TruncatedError,
    OSError,
    EOFError,
    ValueError,
)  # the worker was killed

ORIGINS = '[origins.main]\ntype = "directory"\npath = "objects"\n'
DISTRIBUTIONS = (
    '[cache_policies.own]\nviewer_directives = true\n[[distributions]]\nid = "EWEB"\n'
    'type = "web"\norigin = "main"\ncache_policy = "own"\nwrite = "{mode}"\n'
    'methods = ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"]\n'
)


async def write(port: int, name: str, version: int) -> bool:
    """Whether the write was acknowledged."""
    body = b"%d" % version
    try:
        async with open_viewer(port) as viewer:
            put = request(f"/{name}", "PUT", content_length=str(len(body)))
            await viewer.send(put + body)
            return (await viewer.receive()).status < 300
    except LOST:
        return False


async def read(port: int, name: str, **fields: str) -> int | None:
    """The version that a new viewer receives; None without one, or if its worker was killed."""
    try:
        response = await fetch(port, f"/{name}", **fields)
    except LOST:
        return None
    return int(response.body) if response.status == 200 else None


async def crowd(port: int, name: str, ended: asyncio.Event) -> None:
    """A reader that keeps the cache busy with lookups, validations and fills."""
    while not ended.is_set():
        await read(port, name)
        await read(port, name, cache_control="no-cache")


async def rounds(edge: EdgeProcess, name: str, killer: bool) -> int:
    """Writes, and reads with several new viewers after each write; returns the reads."""
    looks = 0
    for version in range(1, ROUNDS + 1):
        writing = asyncio.create_task(write(edge.http_port, name, version))
        if killer and version in KILLS:
            await asyncio.sleep(0)
            with suppress(ProcessLookupError):
                os.kill(edge.worker_pids()[version // 10 % 2], signal.SIGKILL)
        if not await writing:
            continue
        for seen in await asyncio.gather(*(read(edge.http_port, name) for _viewer in range(4))):
            assert seen is None or seen >= version
            looks += seen is not None
    return looks


@pytest.mark.parametrize("mode", ["through", "back"])
async def test_no_reader_receives_an_object_older_than_an_acknowledged_write(
    tmp_path: Path, mode: str
) -> None:
    (tmp_path / "objects").mkdir()
    with run_edge(
        tmp_path, ORIGINS, workers=2, distributions=DISTRIBUTIONS.format(mode=mode)
    ) as edge:
        edge.await_log("worker_up", 2)
        ended = asyncio.Event()
        readers = [asyncio.create_task(crowd(edge.http_port, name, ended)) for name in NAMES * 2]
        try:
            looks = await asyncio.gather(
                *(rounds(edge, name, killer=name == "a") for name in NAMES)
            )
        finally:
            ended.set()
            await asyncio.gather(*readers)
        assert all(count > ROUNDS for count in looks)
        edge.await_log("worker_up", 3)  # one was killed and replaced
