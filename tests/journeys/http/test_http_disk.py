"""Journeys: a disk that is full, and a disk that returns wrong data."""

from __future__ import annotations

import asyncio
import json
import os
import resource
from pathlib import Path

from streamedge.cache.storage.extent import CHUNK_BYTES, HEADER_BYTES
from streamedge.spans import Span
from tests.support.http.http_viewer import fetch, open_viewer
from tests.support.origins.scripted_origin import Pattern, ScriptedOrigin
from tests.support.process.edge_process import run_edge

FILM_BYTES = 3_000_001
FILM = Pattern(FILM_BYTES, seed=5)
WHOLE = FILM.read(Span(0, FILM_BYTES))
FILE_LIMIT_BYTES = 2 << 20


def http_toml(url: str) -> str:
    return f'[origins.main]\ntype = "http"\nurl = "{url}"\n'


def limit_files(pid: int, size_bytes: int) -> None:
    """Limits the size of all files of a process, on disk and in memory."""
    _soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size_bytes, hard))


async def test_full_disk_truncates_only_one_response(tmp_path: Path) -> None:
    async with ScriptedOrigin() as origin:
        origin.put("film.mp4", FILM)
        origin.put("other.mp4", FILM)
        origin.put("small", b"small")
        with run_edge(tmp_path, http_toml(origin.url)) as edge:
            await asyncio.to_thread(edge.await_log, "worker_up")
            (worker,) = edge.worker_pids()
            assert (await fetch(edge.http_port, "/film.mp4", range="bytes=0-9")).status == 206
            limit_files(worker, FILE_LIMIT_BYTES)
            async with open_viewer(edge.http_port) as viewer:
                await viewer.send_request("/film.mp4")
                head = await viewer.receive_head()
                assert head.fields["content-length"] == str(FILM_BYTES)
                received = await viewer.receive_rest()
            assert len(received) < FILM_BYTES
            assert received == WHOLE[: len(received)]
            assert (await fetch(edge.http_port, "/small")).body == b"small"
            part = await fetch(edge.http_port, "/film.mp4", range="bytes=5-99")
            assert part.body == WHOLE[5:100]
            assert await asyncio.to_thread(edge.await_log, "disk_write_failed")
            limit_files(worker, resource.RLIM_INFINITY)
            assert (await fetch(edge.http_port, "/film.mp4")).body == WHOLE
            assert (await fetch(edge.http_port, "/other.mp4")).body == WHOLE
            assert edge.worker_pids() == [worker]
            assert edge.log("process_ended") == []


async def test_damaged_chunk_is_fetched_again_after_a_power_failure(tmp_path: Path) -> None:
    async with ScriptedOrigin() as origin:
        origin.put("film.mp4", FILM)
        with run_edge(tmp_path, http_toml(origin.url)) as edge:
            assert (await fetch(edge.http_port, "/film.mp4")).body == WHOLE
        damage(tmp_path / "cache", position=10 * CHUNK_BYTES + 77)
        pretend_power_failure(tmp_path / "cache")
        request_count = len(origin.requests)
        with run_edge(tmp_path, http_toml(origin.url), workers=2) as edge:
            assert (await fetch(edge.http_port, "/film.mp4")).body == WHOLE
            again = origin.requests[request_count:]
            # A write may have been missed, so the object is validated, but not fetched again.
            assert [request.span for request in again] == [
                None,
                Span(10 * CHUNK_BYTES, 11 * CHUNK_BYTES),
            ]
            assert again[0].headers["if-none-match"] == '"1"'
            assert (await fetch(edge.http_port, "/film.mp4")).body == WHOLE
            assert len(origin.requests) == request_count + 2


async def test_damaged_header_drops_only_its_extent(tmp_path: Path) -> None:
    async with ScriptedOrigin() as origin:
        origin.put("film.mp4", FILM)
        with run_edge(tmp_path, http_toml(origin.url)) as edge:
            assert (await fetch(edge.http_port, "/film.mp4")).body == WHOLE
        damage(tmp_path / "cache", position=-HEADER_BYTES)
        with run_edge(tmp_path, http_toml(origin.url)) as edge:
            assert (await fetch(edge.http_port, "/film.mp4")).body == WHOLE
            assert origin.body_bytes_sent == 2 * FILM_BYTES
            assert await asyncio.to_thread(edge.await_log, "extent_dropped")


def damage(cache: Path, *, position: int) -> None:
    """Inverts a byte of the only extent's body, or with a negative position of its header."""
    (extent,) = (cache / "extents").glob("*/*")
    fd = os.open(extent, os.O_RDWR)
    try:
        offset = HEADER_BYTES + position
        (byte,) = os.pread(fd, 1, offset)
        os.pwrite(fd, bytes([byte ^ 0xFF]), offset)
    finally:
        os.close(fd)


def pretend_power_failure(cache: Path) -> None:
    """Marks the folder as after a power failure of the machine."""
    era = json.loads((cache / "era").read_text())
    (cache / "era").write_text(json.dumps({**era, "clean": False, "boot_id": "another"}))
