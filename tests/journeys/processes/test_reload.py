"""Journeys: a reload drops no viewer, and a bad config file changes nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from streamedge.spans import Span
from tests.support.http.http_viewer import Viewer, fetch, open_viewer
from tests.support.origins.scripted_origin import Pattern, ScriptedOrigin
from tests.support.patience import PATIENCE_S, polls
from tests.support.process.edge_process import EdgeProcess, pause, run_edge
from tests.support.rtmp.rtmp_client import frames, open_client
from tests.support.rtmp.rtmp_media import tags_flv

FOLDER = '[origins.main]\ntype = "directory"\npath = "media"\n'
EWEB = '[[distributions]]\nid = "EWEB"\ntype = "web"\norigin = "main"\naliases = ["a.example"]\n'
E2 = '[[distributions]]\nid = "E2"\ntype = "web"\norigin = "main"\naliases = ["b.example"]\n'
ESTREAM = '[[distributions]]\nid = "ESTREAM"\ntype = "rtmp"\norigin = "main"\n'


@contextmanager
def folder_edge(folder: Path, workers: int = 1) -> Iterator[EdgeProcess]:
    """Serves EWEB and ESTREAM from a folder with film.mp4 and film.flv."""
    (folder / "media").mkdir()
    (folder / "media" / "film.mp4").write_bytes(b"abc")
    (folder / "media" / "film.flv").write_bytes(tags_flv(6))
    with run_edge(folder, FOLDER, workers=workers, distributions=EWEB + ESTREAM) as edge:
        yield edge


def rewrite(edge: EdgeProcess, text: str, by: str) -> None:
    """Replaces text in the config file."""
    file = edge.folder / "config.toml"
    old = file.read_text()
    assert text in old
    file.write_text(old.replace(text, by))


def reload(edge: EdgeProcess, *options: str) -> subprocess.CompletedProcess[str]:
    """Runs ``streamedge reload``."""
    command = [sys.executable, "-m", "streamedge", "reload", *options]
    file = str(edge.folder / "config.toml")
    return subprocess.run(
        [*command, "--config", file],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def post_reload(edge: EdgeProcess) -> dict[str, Any]:
    """The document of a successful POST /reload."""
    request = urllib.request.Request(f"http://127.0.0.1:{edge.admin_port}/reload", method="POST")
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
        document: dict[str, Any] = json.load(response)
        return document


async def status(viewer: Viewer, host: str, path: str = "/film.mp4") -> int:
    return (await viewer.get(path, host=host)).status


async def test_sighup_adds_a_distribution_and_keeps_connections(tmp_path: Path) -> None:
    with folder_edge(tmp_path) as edge:
        async with open_viewer(edge.http_port) as viewer:
            assert await status(viewer, "a.example") == 200
            assert await status(viewer, "b.example") == 421
            rewrite(edge, ESTREAM, ESTREAM + E2)
            edge.process.send_signal(signal.SIGHUP)
            (line,) = await asyncio.to_thread(edge.await_log, "config_loaded")
            assert line["changed"] == ["distributions.E2"]
            for _round in polls():
                if await status(viewer, "b.example") == 200:
                    break
                await asyncio.to_thread(pause)
            assert await status(viewer, "b.example") == 200
            assert await status(viewer, "a.example") == 200


def test_all_workers_use_the_new_config_when_reload_returns(tmp_path: Path) -> None:
    with folder_edge(tmp_path, workers=3) as edge:
        for number in range(4):
            rewrite(edge, '"a.example"', f'"h{number}.example", "a.example"')
            document = post_reload(edge)
            assert document["changed"] == ["distributions.EWEB"]
            assert (document["generation"], document["workers_pending"]) == (number + 1, [])
            for _time in range(12):  # each on a new connection, to any worker
                response = asyncio.run(
                    fetch(edge.http_port, "/film.mp4", host=f"h{number}.example")
                )
                assert response.status == 200


def test_bad_file_changes_nothing_and_is_explained(tmp_path: Path) -> None:
    with folder_edge(tmp_path) as edge:
        rewrite(edge, '"a.example"', '"b.example"')
        rewrite(edge, EWEB.splitlines()[3], 'origin = "mian"\nx = 1')
        edge.process.send_signal(signal.SIGHUP)
        (line,) = edge.await_log("config_refused")
        assert len(line["mistakes"]) == 4  # both distributions have such a line
        assert asyncio.run(fetch(edge.http_port, "/film.mp4", host="a.example")).status == 200
        assert asyncio.run(fetch(edge.http_port, "/film.mp4", host="b.example")).status == 421

        result = reload(edge)
        assert result.returncode == 2
        assert 'no origin has the name "mian"; did you mean "main"?' in result.stderr
        assert "4 mistakes; nothing has changed." in result.stderr


def test_reload_reports_mistakes_that_only_the_edge_sees(tmp_path: Path) -> None:
    with folder_edge(tmp_path) as edge:
        other_file = tmp_path / "elsewhere" / "config.toml"
        other_file.parent.mkdir()
        (other_file.parent / "media").mkdir()
        other_file.write_text((tmp_path / "config.toml").read_text())
        rewrite(edge, ESTREAM, ESTREAM + "[limits]\n")
        command = [sys.executable, "-m", "streamedge", "reload", "--config", str(other_file)]
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        assert result.returncode == 2
        assert "config.toml:" in result.stderr
        assert "1 mistake; nothing has changed." in result.stderr


def test_keys_that_need_a_restart_are_reported_and_not_applied(tmp_path: Path) -> None:
    with folder_edge(tmp_path) as edge:
        rewrite(edge, "workers = 1", "workers = 2")
        rewrite(edge, ESTREAM, ESTREAM + E2)
        document = post_reload(edge)
        assert document["needs_restart"] == ["edge.workers"]
        assert document["changed"] == ["distributions.E2"]
        assert edge.await_log("config_needs_restart")[0]["keys"] == ["edge.workers"]
        assert json.loads(edge.admin("/healthz"))["workers"] == 1
        assert json.loads(reload(edge, "--json").stdout) == {
            **document,
            "generation": 2,
            "changed": [],
        }
        output = reload(edge).stdout
        assert "Nothing has changed." in output
        assert "Needs a restart, and is as before until then: edge.workers." in output


def test_worker_killed_after_a_reload_restarts_with_the_new_config(
    tmp_path: Path,
) -> None:
    with folder_edge(tmp_path) as edge:
        rewrite(edge, ESTREAM, E2.replace('"E2"', '"E2"\nenabled = true'))
        post_reload(edge)
        edge.await_log("worker_up")
        (first,) = edge.worker_pids()
        os.kill(first, signal.SIGKILL)
        edge.await_log("worker_up", 2)
        assert edge.worker_pids() != [first]
        assert asyncio.run(fetch(edge.http_port, "/film.mp4", host="b.example")).status == 200
        assert post_reload(edge)["workers_pending"] == []


def test_restarted_control_process_reloads(tmp_path: Path) -> None:
    with folder_edge(tmp_path) as edge:
        post_reload(edge)
        edge.await_log("worker_up")
        children = Path(f"/proc/{edge.pid}/task/{edge.pid}/children").read_text().split()
        (control,) = {int(child) for child in children} - set(edge.worker_pids())
        os.kill(control, signal.SIGKILL)
        edge.await_log("process_ended")
        rewrite(edge, ESTREAM, E2)
        for _round in polls():
            result = reload(edge, "--json")
            if result.returncode == 0:
                break
        assert json.loads(result.stdout)["generation"] == 2


async def test_play_and_download_survive_ten_reloads(tmp_path: Path) -> None:
    film = Pattern(3_000_001, seed=5)
    async with ScriptedOrigin() as origin:
        origin.put("film.mp4", film)
        origin.put("film.flv", tags_flv(12))
        origin.hold("film.mp4", at=1_000_000)
        toml = f'[origins.main]\ntype = "http"\nurl = "{origin.url}"\n'
        with run_edge(tmp_path, toml, workers=2, distributions=EWEB + ESTREAM) as edge:
            async with (
                open_viewer(edge.http_port) as viewer,
                open_client(edge.rtmp_port, buffer_ms=1000) as player,
            ):
                await viewer.send_request("/film.mp4", host="a.example")
                assert (await viewer.receive_head()).status == 200
                received = await viewer.receive_body(1_000_000)
                player.play("film")
                await player.until_named("video", "aggregate")
                for number in range(10):
                    # The origin's section changes, too, and distributions are added and removed.
                    rewrite(edge, "[origins.main]", f"# {number}\n[origins.main]")
                    before = f"connections = {number + 99}\n" if number else ""
                    rewrite(
                        edge,
                        f'{before}type = "http"',
                        f'connections = {number + 100}\ntype = "http"',
                    )
                    if number % 2:
                        rewrite(edge, E2, EWEB + ESTREAM)
                    else:
                        rewrite(edge, EWEB + ESTREAM, E2)
                    document = await asyncio.to_thread(post_reload, edge)
                    assert "origins.main" in document["changed"]
                    assert document["workers_pending"] == []
                origin.release("film.mp4")
                received += await viewer.receive_body(2_000_001)
                assert received == film.read(Span(0, 3_000_001))
                assert await status(viewer, "a.example", "/none") == 404
                player.buffer(60_000)
                await player.until_named("NetStream.Play.Stop")
                assert frames(player.messages)[-1].time_ms == 12_000 - 40
