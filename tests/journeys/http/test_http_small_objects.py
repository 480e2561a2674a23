"""Journeys: small objects while processes are killed, and after a power failure."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from streamedge.cache.storage.records import decode_record, decode_record_line
from tests.journeys.http.test_http_disk import http_toml, pretend_power_failure
from tests.support.http.http_viewer import TruncatedError, fetch, open_viewer
from tests.support.origins.scripted_origin import ScriptedOrigin
from tests.support.patience import PATIENCE_S
from tests.support.process.edge_process import EdgeProcess, run_edge

BODIES = {f"/page-{number}": f"page {number} ".encode() * (1 + number * 7) for number in range(600)}
VIEWERS = 8
KILLS = 3


async def get_all(edge: EdgeProcess) -> dict[str, str]:
    """Requests each page once; returns the X-Cache of each, by path."""
    async with open_viewer(edge.http_port) as viewer:
        responses = {path: await viewer.get(path) for path in BODIES}
    assert {path: response.body for path, response in responses.items()} == BODIES
    return {path: response.cache for path, response in responses.items()}


async def view(edge: EdgeProcess, paths: list[str]) -> None:
    """Requests pages until its worker is killed; each response that came whole is right."""
    while paths:
        try:
            async with open_viewer(edge.http_port) as viewer:
                while paths:
                    path = paths.pop()
                    assert (await viewer.get(path)).body == BODIES[path]
        except (TruncatedError, ConnectionError, EOFError):
            continue  # that worker was killed


def count_whole_files(folder: Path) -> int:
    """The files that were written to their end: a killed worker leaves one without content."""
    contents = [path.read_bytes() for path in folder.glob("*/*")]
    records = [decode_record_line(content.partition(b"\n")[0]) for content in contents]
    return sum(
        record is not None and decode_record(content, record.key) is not None
        for content, record in zip(contents, records, strict=True)
    )


def put_all(origin: ScriptedOrigin) -> None:
    for path, body in BODIES.items():
        origin.put(path[1:], body)


async def test_workers_killed_while_they_store_leave_whole_objects(tmp_path: Path) -> None:
    async with ScriptedOrigin() as origin:
        put_all(origin)
        with run_edge(tmp_path, http_toml(origin.url), workers=2) as edge:
            paths = list(BODIES)
            viewers = [asyncio.create_task(view(edge, paths)) for _viewer in range(VIEWERS)]
            for kill in range(KILLS):
                await origin.wait_for_requests((kill + 1) * len(BODIES) // (KILLS + 2))
                os.kill(edge.worker_pids()[kill % 2], signal.SIGKILL)
                await asyncio.to_thread(edge.await_log, "worker_up", 3 + kill)
            await asyncio.gather(*viewers)
            await get_all(edge)
            assert set((await get_all(edge)).values()) == {"Hit"}


async def test_edge_killed_while_it_stores_continues_with_whole_objects(tmp_path: Path) -> None:
    async with ScriptedOrigin() as origin:
        put_all(origin)
        with run_edge(tmp_path, http_toml(origin.url), workers=2) as edge:
            paths = list(BODIES)
            viewers = [asyncio.create_task(view(edge, paths)) for _viewer in range(VIEWERS)]
            await origin.wait_for_requests(len(BODIES) // 2)
            os.killpg(edge.pid, signal.SIGKILL)
            edge.process.wait(PATIENCE_S)
            for viewer in viewers:
                viewer.cancel()
            await asyncio.gather(*viewers, return_exceptions=True)
        stored = count_whole_files(tmp_path / "cache" / "assets")
        # A body that came slowly is in an extent, perhaps not all of it.
        slow = len(list((tmp_path / "cache" / "extents").glob("*/*")))
        request_count = len(origin.requests)
        with run_edge(tmp_path, http_toml(origin.url), workers=2) as edge:
            assert list((tmp_path / "cache" / "new").iterdir()) == []
            hits = list((await get_all(edge)).values()).count("Hit")
            assert stored - slow <= hits <= stored
            missing = len(BODIES) - stored
            assert missing <= len(origin.requests) - request_count <= missing + slow


@pytest.mark.parametrize("kept_bytes", [0, 100, -1])
async def test_small_object_that_a_power_failure_truncated_is_fetched_again(
    tmp_path: Path, kept_bytes: int
) -> None:
    async with ScriptedOrigin() as origin:
        put_all(origin)
        with run_edge(tmp_path, http_toml(origin.url)) as edge:
            assert (await fetch(edge.http_port, "/page-599")).body == BODIES["/page-599"]
        (file,) = (tmp_path / "cache" / "assets").glob("*/*")
        os.truncate(file, kept_bytes if kept_bytes >= 0 else file.stat().st_size + kept_bytes)
        pretend_power_failure(tmp_path / "cache")
        with run_edge(tmp_path, http_toml(origin.url)) as edge:
            response = await fetch(edge.http_port, "/page-599")
            assert (response.body, response.cache) == (BODIES["/page-599"], "Miss")
            assert (await fetch(edge.http_port, "/page-599")).cache == "Hit"
        assert len(origin.requests) == 2
