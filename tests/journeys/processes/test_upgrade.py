"""Journeys: SIGUSR2 replaces the program while viewers are served."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import signal
import ssl
import subprocess
import sys
import time
import urllib.request
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from tests.support.certificate_authority import CertificateAuthority
from tests.support.http.get_loop import GetLoop
from tests.support.http.http_viewer import fetch, open_viewer
from tests.support.patience import PATIENCE_S
from tests.support.process.edge_process import EdgeProcess, pause, run_edge
from tests.support.rtmp.rtmp_client import HUGE_BUFFER_MS, frames, open_client
from tests.support.rtmp.rtmp_media import tags_flv

DIRECTORY = '[origins.main]\ntype = "directory"\npath = "media"\n'
FILM_S = 120
PLAYS = 200


def make_media(folder: Path) -> None:
    (folder / "media").mkdir(parents=True)
    (folder / "media" / "a.txt").write_text("content")


def upgrade(edge: EdgeProcess, count: int = 1) -> None:
    """Sends SIGUSR2 and waits until the new program serves."""
    edge.process.send_signal(signal.SIGUSR2)
    edge.await_log("upgraded", count, timeout_s=4 * PATIENCE_S)


async def test_upgrade_cuts_no_play_and_no_request(tmp_path: Path) -> None:
    make_media(tmp_path)
    (tmp_path / "media" / "film.flv").write_bytes(tags_flv(FILM_S, frame_bytes=40))
    authority = CertificateAuthority(tmp_path)
    tls = ssl.create_default_context(cafile=str(authority.root))
    with run_edge(tmp_path, DIRECTORY, workers=2, certificate=authority.issue("edge.test")) as edge:
        before = edge.worker_pids()
        loops = [
            GetLoop(edge.http_port, "/a.txt", b"content", keeps_alive=True),
            GetLoop(edge.http_port, "/a.txt", b"content", keeps_alive=False),
            GetLoop(edge.https_port, "/a.txt", b"content", True, tls, "edge.test"),
            GetLoop(edge.https_port, "/a.txt", b"content", False, tls, "edge.test"),
        ]
        async with AsyncExitStack() as stack:
            players = [
                await stack.enter_async_context(open_client(edge.rtmp_port, buffer_ms=1000))
                for _play in range(PLAYS)
            ]
            for player in players:
                player.play("film")
                await player.until_named("video", "aggregate")
            for loop in loops:
                loop.start()
                await loop.serve_more(3)
            await asyncio.to_thread(upgrade, edge)
            for loop in loops:
                await loop.serve_more(100)
                await loop.stop()
            await asyncio.to_thread(edge.await_new_workers, before)
            retiring = await asyncio.to_thread(edge.await_log, "worker_retiring", 2)
            assert {line["pid"] for line in retiring} == set(before)
            # Those that began before the upgrade play on, from the workers from before.
            assert edge.metric("streamedge_viewers") == PLAYS
            for player in players:
                player.buffer(HUGE_BUFFER_MS)
            for player in players:
                await player.until_named("NetStream.Play.Stop")
                assert frames(player.messages)[-1].time_ms == FILM_S * 1000 - 40
        await asyncio.to_thread(edge.await_log, "upgrade_finished", timeout_s=60)
        assert {line["code"] for line in edge.log("process_ended")} <= {0}
        assert edge.stop() == 0


def start_upgrade(edge: EdgeProcess, attempts: int) -> dict[str, Any]:
    """Sends SIGUSR2; the status when attempt number ``attempts`` is decided."""
    edge.process.send_signal(signal.SIGUSR2)
    return await_decision(edge, attempts)


def await_decision(edge: EdgeProcess, attempts: int) -> dict[str, Any]:
    deadline_s = time.monotonic() + 2 * PATIENCE_S
    while True:
        # The control process is replaced meanwhile: its address waits, or a response is cut.
        with contextlib.suppress(OSError, http.client.HTTPException):
            status: dict[str, Any] = json.loads(edge.admin("/upgrade"))
            if status["attempts"] >= attempts and status["state"] not in {"trying", "starting"}:
                return status
        if time.monotonic() > deadline_s:
            raise TimeoutError("the upgrade was not decided")
        pause()


def get(edge: EdgeProcess) -> int:
    return asyncio.run(fetch(edge.http_port, "/a.txt")).status


def test_config_with_mistakes_refuses_the_upgrade(tmp_path: Path) -> None:
    make_media(tmp_path)
    with run_edge(tmp_path, DIRECTORY) as edge:
        before = edge.worker_pids()
        config = tmp_path / "config.toml"
        text = config.read_text()
        config.write_text(text + "\n[edge]\nnonsense = 1\n")
        status = start_upgrade(edge, 1)
        assert status["state"] == "refused"
        assert any("config.toml" in reason for reason in status["reasons"])
        config.write_text(text.replace('cache = "cache"', 'cache = "another"'))
        status = start_upgrade(edge, 2)
        assert status["reasons"] == ["streamedge: edge.cache has changed: restart the edge"]
        assert edge.worker_pids() == before
        assert get(edge) == 200
        config.write_text(text)
        assert start_upgrade(edge, 3)["state"] in {"retiring", "done"}
        edge.await_new_workers(before)
        assert get(edge) == 200


# The new program cannot be imported: a file of the installation is broken.
BROKEN_TRIAL = """
import os
if os.path.exists(BROKEN) and "STREAMEDGE_TRIAL" in os.environ:
    raise ImportError("half of the files are missing")
"""
# The workers of the new program end at their start.
BROKEN_WORKERS = """
import os
if os.path.exists(BROKEN) and "STREAMEDGE_HANDOVER" in os.environ:
    import streamedge.process.start as start
    def run_worker(context):
        raise RuntimeError("a fault of the new version")
    start.run_worker = run_worker
"""


def test_program_that_cannot_be_imported_leaves_the_old_one(tmp_path: Path) -> None:
    make_media(tmp_path)
    broken = tmp_path / "broken"
    prelude = f"BROKEN = {str(broken)!r}\n{BROKEN_TRIAL}"
    with run_edge(tmp_path, DIRECTORY, prelude=prelude) as edge:
        before = edge.worker_pids()
        broken.touch()
        status = start_upgrade(edge, 1)
        assert status["state"] == "refused"
        assert "half of the files are missing" in status["reasons"][-1]
        assert (edge.worker_pids(), get(edge)) == (before, 200)


def test_workers_from_before_serve_on_when_new_ones_do_not_come_up(tmp_path: Path) -> None:
    make_media(tmp_path)
    broken = tmp_path / "broken"
    prelude = f"BROKEN = {str(broken)!r}\n{BROKEN_WORKERS}"
    with run_edge(tmp_path, DIRECTORY, prelude=prelude, workers=2) as edge:
        before = edge.worker_pids()
        broken.touch()
        status = start_upgrade(edge, 1)
        assert status["state"] == "failed"
        assert "ended 3 times" in status["reasons"][0]
        edge.await_log("upgrade_failed")
        assert (edge.worker_pids(), get(edge)) == (before, 200)
        assert edge.admin("/healthz")
        # The next attempt, with a program that works.
        broken.unlink()
        assert start_upgrade(edge, 2)["state"] in {"retiring", "done"}
        edge.await_log("upgrade_finished", timeout_s=PATIENCE_S)
        edge.await_new_workers(before)
        assert get(edge) == 200
        assert edge.stop() == 0


async def test_upgrade_is_refused_while_workers_from_before_serve(tmp_path: Path) -> None:
    make_media(tmp_path)
    (tmp_path / "media" / "film.flv").write_bytes(tags_flv(FILM_S, frame_bytes=40))
    with run_edge(tmp_path, DIRECTORY) as edge:
        async with open_client(edge.rtmp_port, buffer_ms=1000) as player:
            player.play("film")
            await player.until_named("video", "aggregate")
            status = await asyncio.to_thread(start_upgrade, edge, 1)
            assert status["state"] == "retiring"
            status = await asyncio.to_thread(start_upgrade, edge, 2)
            assert status["state"] == "refused"
            assert "still serve viewers" in status["reasons"][0]
            (refused,) = await asyncio.to_thread(edge.await_log, "upgrade_refused")
            assert refused["reasons"] == status["reasons"]
            # An operator ends the play there, too.
            call = invalidation(edge, "film.flv")
            await asyncio.to_thread(urllib.request.urlopen, call, timeout=PATIENCE_S)
            await player.until_named("NetStream.Play.Stop", "NetStream.Play.Failed")
        await asyncio.to_thread(edge.await_log, "upgrade_finished", timeout_s=PATIENCE_S)
        assert (await asyncio.to_thread(start_upgrade, edge, 3))["state"] in {"retiring", "done"}
        # The counters of three generations.
        plays = "streamedge_plays_total"
        assert await asyncio.to_thread(edge.await_metric, plays, lambda value: value >= 1) == 1


def invalidation(edge: EdgeProcess, name: str) -> urllib.request.Request:
    body = {"distribution": "ESTREAM", "items": [f"/{name}"], "revoke": True}
    return urllib.request.Request(
        f"http://127.0.0.1:{edge.admin_port}/invalidations",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )


async def test_edge_that_stops_ends_both_generations(tmp_path: Path) -> None:
    make_media(tmp_path)
    (tmp_path / "media" / "film.flv").write_bytes(tags_flv(FILM_S, frame_bytes=40))
    with run_edge(tmp_path, DIRECTORY) as edge:
        async with open_client(edge.rtmp_port, buffer_ms=1000) as player:
            player.play("film")
            await player.until_named("video", "aggregate")
            await asyncio.to_thread(upgrade, edge)
            edge.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(edge.await_log, "worker_draining", 2)
            assert edge.process.poll() is None  # the play goes on
            edge.process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(edge.process.wait, PATIENCE_S) == 0
        assert edge.log()[-1]["event"] == "edge_down"


async def test_workers_from_before_end_when_their_new_supervisor_is_killed(
    tmp_path: Path,
) -> None:
    make_media(tmp_path)
    (tmp_path / "media" / "film.flv").write_bytes(tags_flv(FILM_S, frame_bytes=40))
    with run_edge(tmp_path, DIRECTORY) as edge:
        before = edge.worker_pids()
        async with open_client(edge.rtmp_port, buffer_ms=1000) as player:
            player.play("film")
            await player.until_named("video", "aggregate")
            await asyncio.to_thread(upgrade, edge)
            workers = [*before, *await asyncio.to_thread(edge.await_new_workers, before)]
            edge.process.kill()
            edge.process.wait()
        for pid in workers:
            await asyncio.to_thread(await_end, pid)


def await_end(pid: int) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while Path(f"/proc/{pid}").exists():
        if "State:\tZ" in Path(f"/proc/{pid}/status").read_text():
            return
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"process {pid} still runs")
        pause()


async def test_write_queue_has_one_leader_through_an_upgrade(tmp_path: Path) -> None:
    make_media(tmp_path)
    (tmp_path / "media" / "film.flv").write_bytes(tags_flv(FILM_S, frame_bytes=40))
    distributions = (
        '[[distributions]]\nid = "EWEB"\ntype = "web"\norigin = "main"\n'
        'methods = ["GET", "HEAD", "PUT"]\nwrite = "back"\n'
        '[[distributions]]\nid = "ESTREAM"\ntype = "rtmp"\norigin = "main"\n'
        'application = ["cfx/st"]\n'
    )
    with run_edge(tmp_path, DIRECTORY, workers=2, distributions=distributions) as edge:
        async with open_client(edge.rtmp_port, buffer_ms=1000) as player:
            player.play("film")  # so that a worker from before stays
            await player.until_named("video", "aggregate")
            for number in range(4):
                if number == 2:
                    await asyncio.to_thread(upgrade, edge)
                async with open_viewer(edge.http_port) as viewer:
                    text = f"content {number}".encode()
                    length = str(len(text))
                    await viewer.send_request(f"/{number}.txt", "PUT", content_length=length)
                    await viewer.send(text)
                    assert (await viewer.receive()).status in {200, 201}
                await asyncio.to_thread(await_file, tmp_path / "media" / f"{number}.txt", text)
            # The lock has gone on to a new worker, perhaps by way of another old one. Old workers
            # release it after all new ones are up, and may log their retirement after that.
            await asyncio.to_thread(await_leader, edge, edge.log("worker_up")[-1]["time"])
            assert edge.log("replicator_failed") == []
            name = "streamedge_replications_total"
            assert await asyncio.to_thread(edge.await_metric, name, lambda value: value >= 4) == 4


def await_leader(edge: EdgeProcess, after_s: float) -> None:
    """Waits until a worker has begun to replicate after a time."""
    deadline_s = time.monotonic() + PATIENCE_S
    while edge.log("replicator_started")[-1]["time"] < after_s:
        if time.monotonic() > deadline_s:
            raise TimeoutError("no worker replicates")
        pause()


def await_file(path: Path, text: bytes) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not path.exists() or path.read_bytes() != text:
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{path.name} has not come")
        pause()


def test_upgrade_command_waits_for_the_new_processes(tmp_path: Path) -> None:
    make_media(tmp_path)
    with run_edge(tmp_path, DIRECTORY) as edge:
        command = [sys.executable, "-m", "streamedge", "upgrade", "--config"]
        command.append(str(tmp_path / "config.toml"))
        before = edge.worker_pids()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("Upgraded.")
        edge.await_new_workers(before)
        done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
        assert json.loads(done.stdout)["attempts"] == 2
