"""Journeys: the control database of an edge is locked, lost, replaced or damaged.

No invalidated object is served, and a temporary fault has no lasting effect.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from tests.support.http.http_viewer import fetch
from tests.support.origins.scripted_origin import ScriptedOrigin
from tests.support.patience import PATIENCE_S, polls
from tests.support.process.edge_process import EdgeProcess, pause, run_edge

CACHED = (("Cache-Control", "max-age=3600"),)
SQLITE_PENDING_BYTE = 0x40000000  # blocks new locks on the file, not those that are held
DATABASE_FILES = ("control.db", "control.db-wal", "control.db-shm")


@asynccontextmanager
async def origin_with(name: str, content: bytes) -> AsyncIterator[ScriptedOrigin]:
    async with ScriptedOrigin() as origin:
        origin.put(name, content, headers=CACHED)
        yield origin


def site(origin: ScriptedOrigin) -> str:
    return f'[origins.main]\ntype = "http"\nurl = "{origin.url}"\n'


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Blocks opening a database; a process's lock ends when it closes any descriptor."""
    fd = os.open(database, os.O_RDWR)
    fcntl.lockf(fd, fcntl.LOCK_EX, 1, SQLITE_PENDING_BYTE)
    try:
        yield
    finally:
        os.close(fd)


def invalidate(edge: EdgeProcess, item: str = "/*") -> int:
    """The status of ``POST /invalidations``."""
    call = urllib.request.Request(
        f"http://127.0.0.1:{edge.admin_port}/invalidations",
        json.dumps({"distribution": "EWEB", "items": [item]}).encode(),
    )
    try:
        with urllib.request.urlopen(call, timeout=PATIENCE_S) as response:
            status: int = response.status
    except urllib.error.HTTPError as exc:
        exc.close()
        return exc.code
    return status


async def get(edge: EdgeProcess, path: str = "/a") -> tuple[bytes, str]:
    """The body, and "Hit" or "Miss"."""
    response = await fetch(edge.http_port, path)
    return response.body, response.fields["x-cache"].split()[0]


async def until_hit(edge: EdgeProcess) -> bytes:
    """Waits for a hit; returns its body."""
    for _ in polls():
        body, result = await get(edge)
        if result == "Hit":
            return body
        await asyncio.to_thread(pause)
    raise TimeoutError


async def restart_worker(edge: EdgeProcess) -> None:
    """Kills the only worker, and waits for its successor."""
    (before,) = edge.worker_pids()
    os.kill(before, signal.SIGKILL)
    for _ in polls():
        if edge.worker_pids() != [before]:
            return
        await asyncio.to_thread(pause)
    raise TimeoutError


async def test_locked_database_at_a_workers_start_serves_no_invalidated_object(
    tmp_path: Path,
) -> None:
    async with origin_with("a", b"old") as origin:
        with run_edge(tmp_path, site(origin)) as edge:
            await get(edge)
            with locked(edge.cache / "control.db"):
                await restart_worker(edge)
                assert (await get(edge))[0] == b"old"
                origin.put("a", b"new", headers=CACHED, etag='"2"')
                assert await asyncio.to_thread(invalidate, edge) == 201
                assert (await get(edge))[0] == b"new"
            assert await until_hit(edge) == b"new"
            origin.put("a", b"newer", headers=CACHED, etag='"3"')
            assert await asyncio.to_thread(invalidate, edge) == 201
            assert await get(edge) == (b"newer", "Miss")


def delete(cache: Path) -> None:
    for name in DATABASE_FILES:
        (cache / name).unlink(missing_ok=True)


def damage(cache: Path) -> None:
    delete(cache)
    (cache / "control.db").write_bytes(b"not a database at all" * 4000)


def restore(cache: Path) -> None:
    delete(cache)
    shutil.copy(cache / "backup.db", cache / "control.db")


@pytest.mark.parametrize("lose", [delete, damage, restore])
async def test_objects_cached_before_the_database_was_lost_are_fetched_again(
    tmp_path: Path, lose: Callable[[Path], None]
) -> None:
    async with origin_with("a", b"old") as origin:
        with run_edge(tmp_path, site(origin)) as edge:
            await get(edge)
        shutil.copy(edge.cache / "control.db", edge.cache / "backup.db")
        with run_edge(tmp_path, site(origin)) as edge:
            assert await get(edge) == (b"old", "Hit")
            origin.put("a", b"new", headers=CACHED, etag='"2"')
            assert await asyncio.to_thread(invalidate, edge) == 201
        lose(edge.cache)
        with run_edge(tmp_path, site(origin)) as edge:
            assert (await get(edge))[0] == b"new"
            (line,) = await asyncio.to_thread(edge.await_log, "control_log_replaced")
            assert "backup" in line["do"]
            assert await get(edge) == (b"new", "Hit")
        damaged = [*edge.cache.glob("control.db.damaged-*")]
        assert len(damaged) == (lose is damage)
        with run_edge(tmp_path, site(origin)) as edge:  # logged only once
            assert await get(edge) == (b"new", "Hit")
            assert len(edge.log("control_log_replaced")) == 1


async def test_database_deleted_while_the_edge_runs_is_created_again(tmp_path: Path) -> None:
    async with origin_with("a", b"old") as origin:
        with run_edge(tmp_path, site(origin), workers=2) as edge:
            for _ in range(8):
                await get(edge)
            delete(edge.cache)
            origin.put("a", b"new", headers=CACHED, etag='"2"')
            assert await asyncio.to_thread(invalidate, edge) == 201
            for _ in range(8):
                assert (await get(edge))[0] == b"new"
            assert await until_hit(edge) == b"new"


async def test_database_damaged_while_the_edge_runs_serves_no_invalidated_object(
    tmp_path: Path,
) -> None:
    async with origin_with("a", b"old") as origin:
        with run_edge(tmp_path, site(origin)) as edge:
            await get(edge)
            damage(edge.cache)
            origin.put("a", b"new", headers=CACHED, etag='"2"')
            assert await asyncio.to_thread(invalidate, edge) == 503
            await restart_worker(edge)
            assert (await get(edge))[0] == b"new"  # the invalidations are unknown


def test_check_explains_a_lost_or_damaged_database(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    origin = '[origins.main]\ntype = "directory"\npath = "."\n'
    with run_edge(tmp_path, origin) as edge:
        pass

    def check() -> tuple[int, str]:
        command = [sys.executable, "-m", "streamedge", "check", "--config", str(config)]
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        return result.returncode, " ".join(result.stderr.split())

    assert check() == (0, "")
    delete(edge.cache)
    code, error_text = check()
    assert (code, "is missing" in error_text, "backup" in error_text) == (2, True, True)
    damage(edge.cache)
    code, error_text = check()
    assert (code, "moves" in error_text, "backup" in error_text) == (2, True, True)
