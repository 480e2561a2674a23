"""Journeys: processes are killed, replaced, drained or refused while viewers download."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, closing
from pathlib import Path

import pytest

from streamedge.spans import Span
from tests.support.http.http_viewer import TruncatedError, Viewer, fetch, open_viewer
from tests.support.origins.scripted_origin import Pattern, ScriptedOrigin
from tests.support.patience import PATIENCE_S
from tests.support.process.edge_process import EdgeProcess, pause, run_edge
from tests.support.process.ports import free_ports

FILM_BYTES = 3_000_001
FILM = Pattern(FILM_BYTES, seed=5)
WHOLE = FILM.read(Span(0, FILM_BYTES))
HELD_AT = 1_000_000
VIEWERS = 16


def http_toml(url: str) -> str:
    return f'[origins.main]\ntype = "http"\nurl = "{url}"\n'


def put(origin: ScriptedOrigin) -> None:
    origin.put("film.mp4", FILM)
    origin.put("small", b"small")


def until(condition: Callable[[], bool], subject: str) -> None:
    """Waits until ``condition`` holds because of another process."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError(subject)
        pause()


def is_running(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] not in {"Z", "X"}


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def metric(edge: EdgeProcess, name: str, **labels: str) -> float:
    """A sample of /metrics; 0 without one."""
    page = edge.admin("/metrics").decode()
    label_list = ",".join(f'{label}="{value}"' for label, value in labels.items())
    series = f"{name}{{{label_list}}}" if labels else name
    match = re.search(rf"^{re.escape(series)} (\S+)$", page, re.MULTILINE)
    return 0.0 if match is None else float(match[1])


def until_metric(edge: EdgeProcess, expected: float, name: str, labels: dict[str, str]) -> None:
    """Waits for a metric's value; workers publish metrics once a second."""
    until(lambda: metric(edge, name, **labels) == expected, f"{name} {labels} == {expected}")


def health(edge: EdgeProcess) -> int:
    with closing(socket.create_connection(("127.0.0.1", edge.admin_port))) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return int(connection.recv(65536).split(b" ")[1])


async def viewers_by_worker(edge: EdgeProcess, stack: AsyncExitStack) -> dict[str, list[Viewer]]:
    """Viewers of every worker; the log has the worker of each viewer."""
    viewers: dict[str, Viewer] = {}
    while True:
        for _viewer in range(VIEWERS):
            viewer = await stack.enter_async_context(open_viewer(edge.http_port))
            assert (await viewer.get("/small")).body == b"small"
            viewers[viewer.name] = viewer
        lines = await asyncio.to_thread(edge.await_log, "response", len(viewers))
        groups: dict[str, list[Viewer]] = {}
        for line in lines:
            groups.setdefault(line["process"], []).append(viewers[line["client"]])
        if len(groups) == len(edge.worker_pids()):
            return groups


async def download(viewer: Viewer) -> bytes:
    """The rest of FILM for a viewer that has received HELD_AT bytes of it."""
    return await viewer.receive_body(FILM_BYTES - HELD_AT)


async def begin(viewer: Viewer) -> None:
    """Requests FILM and receives the part that the origin does not hold."""
    await viewer.send_request("/film.mp4")
    assert (await viewer.receive_head()).fields["content-length"] == str(FILM_BYTES)
    assert await viewer.receive_body(HELD_AT) == WHOLE[:HELD_AT]


@pytest.mark.parametrize("killed", [0, 1])
async def test_killed_worker_loses_only_its_own_viewers(tmp_path: Path, killed: int) -> None:
    """One of the two runs the fill; in both cases the film is fetched to its end."""
    async with ScriptedOrigin() as origin, AsyncExitStack() as stack:
        put(origin)
        origin.hold("film.mp4", at=HELD_AT)
        with run_edge(tmp_path, http_toml(origin.url), workers=2) as edge:
            groups = await viewers_by_worker(edge, stack)
            lost = groups.pop(f"worker-{killed}")
            (others,) = groups.values()
            await asyncio.gather(*(begin(viewer) for viewer in (*lost, *others)))
            before = edge.worker_pids()
            os.kill(before[killed], signal.SIGKILL)
            for viewer in lost:
                assert await viewer.receive_rest() == b""
            await asyncio.to_thread(edge.await_log, "worker_up", 3)
            origin.release("film.mp4")
            bodies = await asyncio.gather(*(download(viewer) for viewer in others))
            assert all(body == WHOLE[HELD_AT:] for body in bodies)
            (result,) = edge.log("process_ended")
            assert (result["child"], result["code"]) == (f"worker-{killed}", -signal.SIGKILL)
            assert edge.worker_pids()[killed] != before[killed]
            assert edge.worker_pids()[1 - killed] == before[1 - killed]
            sent = origin.body_bytes_sent
            for _viewer in range(4):
                assert (await fetch(edge.http_port, "/film.mp4")).body == WHOLE
            assert origin.body_bytes_sent == sent  # it is complete
            assert edge.stop() == 0


async def test_killed_edge_continues_its_fills_after_restart(tmp_path: Path) -> None:
    async with ScriptedOrigin() as origin:
        put(origin)
        with run_edge(tmp_path, http_toml(origin.url), workers=2) as edge:
            await fetch(edge.http_port, "/small")
            origin.hold("film.mp4", at=HELD_AT)
            async with open_viewer(edge.http_port) as viewer:
                await begin(viewer)
                os.killpg(edge.pid, signal.SIGKILL)
                with pytest.raises(TruncatedError):
                    await download(viewer)
            edge.process.wait(PATIENCE_S)
        origin.release("film.mp4")
        request_count = len(origin.requests)
        with run_edge(tmp_path, http_toml(origin.url), workers=2) as edge:
            assert (await fetch(edge.http_port, "/small")).cache == "Hit"
            cached = await fetch(edge.http_port, "/film.mp4", range="bytes=0-899999")
            assert cached.body == WHOLE[:900_000]
            assert len(origin.requests) == request_count
            assert (await fetch(edge.http_port, "/film.mp4")).body == WHOLE
            (rest,) = origin.requests[request_count:]
            assert rest.span == Span(HELD_AT, FILM_BYTES)


async def test_workers_end_when_their_supervisor_is_killed(tmp_path: Path) -> None:
    async with ScriptedOrigin() as origin:
        put(origin)
        with run_edge(tmp_path, http_toml(origin.url), workers=2) as edge:
            assert (await fetch(edge.http_port, "/small")).status == 200
            processes = children(edge.pid)
            assert len(processes) == 3
            os.kill(edge.pid, signal.SIGKILL)
            edge.process.wait(PATIENCE_S)
            until(lambda: not any(map(is_running, processes)), "the children to end")
            with pytest.raises(ConnectionRefusedError):
                await fetch(edge.http_port, "/small")


async def test_draining_finishes_running_responses(tmp_path: Path) -> None:
    async with ScriptedOrigin() as origin, AsyncExitStack() as stack:
        put(origin)
        origin.hold("film.mp4", at=HELD_AT)
        with run_edge(tmp_path, http_toml(origin.url), workers=2) as edge:
            viewer = await stack.enter_async_context(open_viewer(edge.http_port))
            await begin(viewer)
            edge.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(edge.await_log, "worker_draining", 2)
            with pytest.raises(ConnectionRefusedError):
                await fetch(edge.http_port, "/small")
            assert edge.process.poll() is None
            origin.release("film.mp4")
            assert await download(viewer) == WHOLE[HELD_AT:]
            assert edge.stop() == 0
            assert edge.log("process_ended") == [], (edge.folder / "stderr").read_text()
            assert edge.log()[-1]["event"] == "edge_down"
            assert "Traceback" not in (edge.folder / "stderr").read_text()


async def test_idle_edge_stops_cleanly(tmp_path: Path) -> None:
    async with ScriptedOrigin() as origin:
        put(origin)
        with run_edge(tmp_path, http_toml(origin.url), workers=2) as edge:
            async with open_viewer(edge.http_port) as viewer:  # connected and idle
                await viewer.get("/small")
                assert edge.stop() == 0
                assert await viewer.receive_rest() == b""
            assert edge.log("process_ended") == [], (edge.folder / "stderr").read_text()
            assert len(edge.log("worker_down")) == 2


async def test_worker_that_receives_sigterm_is_replaced(tmp_path: Path) -> None:
    async with ScriptedOrigin() as origin:
        put(origin)
        with run_edge(tmp_path, http_toml(origin.url)) as edge:
            await asyncio.to_thread(edge.await_log, "worker_up")
            os.kill(edge.worker_pids()[0], signal.SIGTERM)
            await asyncio.to_thread(edge.await_log, "worker_up", 2)
            assert (await fetch(edge.http_port, "/small")).status == 200
            assert edge.log("process_ended")[0]["code"] == 0


async def test_crash_loop_backs_off_and_is_reported(tmp_path: Path) -> None:
    async with ScriptedOrigin() as origin:
        put(origin)
        with run_edge(tmp_path, http_toml(origin.url)) as edge:
            assert health(edge) == 200
            for death in range(1, 4):
                await asyncio.to_thread(edge.await_log, "worker_up", death)
                os.kill(edge.worker_pids()[0], signal.SIGKILL)
                await asyncio.to_thread(edge.await_log, "process_ended", death)
                if death == 3:  # the back-off is long enough now
                    until(lambda: health(edge) == 503, "/healthz to report 503")
                    waiting = asyncio.ensure_future(fetch(edge.http_port, "/small"))
            await asyncio.to_thread(edge.await_log, "worker_up", 4)
            until(lambda: health(edge) == 200, "/healthz to recover")
            assert (await waiting).body == b"small"  # the connection waited in the listener's queue


async def test_metrics_are_sums_over_workers(tmp_path: Path) -> None:
    async with ScriptedOrigin() as origin, AsyncExitStack() as stack:
        put(origin)
        with run_edge(tmp_path, http_toml(origin.url), workers=2) as edge:
            groups = await viewers_by_worker(edge, stack)
            viewers = [viewer for group in groups.values() for viewer in group]
            for viewer in viewers:
                assert (await viewer.get("/film.mp4")).body == WHOLE
                assert (await viewer.get("/none.mp4")).status == 404
            count = len(viewers)
            origin_bytes = (
                FILM_BYTES + len(b"small") + len(b"no such object\n")
            )  # the 404 is cached, too
            for name, labels, expected in (
                ("streamedge_statuses_total", {"status": "200"}, 2.0 * count),
                ("streamedge_statuses_total", {"status": "404"}, count),
                ("streamedge_errors_total", {"kind": "origin_404"}, count),
                ("streamedge_responses_total", {"cache": "Error"}, count),
                ("streamedge_origin_bytes_total", {"origin": "main"}, origin_bytes),
                ("streamedge_worker_starts_total", {"process": "worker"}, 2),
                ("streamedge_http_connections", {}, count),
            ):
                until_metric(edge, expected, name, labels)
            hits = metric(edge, "streamedge_responses_total", cache="Hit")
            assert hits + metric(edge, "streamedge_responses_total", cache="Miss") == 2 * count
            assert hits >= 2 * count - 4
            assert metric(edge, "streamedge_sent_bytes_total", protocol="http") > count * FILM_BYTES


def test_address_in_use_is_reported(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        (admin,) = free_ports(1)
        (tmp_path / "media").mkdir()
        config = tmp_path / "config.toml"
        config.write_text(
            f'[listen]\nhttp = ["127.0.0.1:{port}"]\nrtmp = []\nadmin = "127.0.0.1:{admin}"\n'
            '[edge]\ncache = "cache"\n[origins.main]\ntype = "directory"\npath = "media"\n'
            '[[distributions]]\nid = "EWEB"\ntype = "web"\norigin = "main"\n'
        )
        command = [sys.executable, "-m", "streamedge", "serve", "--config", str(config)]
        result = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=PATIENCE_S
        )
    assert result.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in result.stderr
    assert "Traceback" not in result.stderr


async def test_cache_stays_within_its_size(tmp_path: Path) -> None:
    async with ScriptedOrigin() as origin:
        objects = {f"film-{seed}.mp4": Pattern(8 << 20, seed=seed) for seed in range(14)}
        for name, content in objects.items():
            origin.put(name, content)
        edge_toml = 'cache_size = "64MiB"'
        with run_edge(tmp_path, http_toml(origin.url), edge=edge_toml) as edge:
            for name, content in objects.items():
                response = await fetch(edge.http_port, f"/{name}")
                assert response.body == content.read(Span(0, content.size_bytes))
            until(lambda: disk_bytes(edge.cache) <= 64 << 20, "the cache to shrink")
            evicted = "streamedge_evicted_files_total"
            until(lambda: metric(edge, evicted, kind="extents") >= 6, "evictions to be counted")
            until(
                lambda: metric(edge, "streamedge_cache_bytes") <= 64 << 20, "the metric of the size"
            )
            edge.await_log("evicted")
            # The last object is still cached; the first is fetched again.
            sent = origin.body_bytes_sent
            assert (await fetch(edge.http_port, "/film-13.mp4")).cache == "Hit"
            assert origin.body_bytes_sent == sent
            again = await fetch(edge.http_port, "/film-0.mp4")
            assert again.body == objects["film-0.mp4"].read(Span(0, 8 << 20))
            assert origin.body_bytes_sent == sent + (8 << 20)


def disk_bytes(folder: Path) -> int:
    """Disk space of a folder's files; files that vanish meanwhile count as 0."""
    total = 0
    for path, _folders, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(path, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total


async def test_many_objects_stay_cached_after_a_restart(tmp_path: Path) -> None:
    async with ScriptedOrigin() as origin:
        names = [f"object-{number}" for number in range(300)]
        for name in names:
            origin.put(name, name.encode())

        async def fetch_all(edge: EdgeProcess) -> list[str]:
            async with open_viewer(edge.http_port) as viewer:
                responses = [await viewer.get(f"/{name}") for name in names]
            assert [response.body for response in responses] == [name.encode() for name in names]
            return [response.cache for response in responses]

        with run_edge(tmp_path, http_toml(origin.url)) as edge:
            assert set(await fetch_all(edge)) == {"Miss"}
        with run_edge(tmp_path, http_toml(origin.url)) as edge:
            assert set(await fetch_all(edge)) == {"Hit"}
        assert len(origin.requests) == len(names)


async def test_unusable_cache_folder_serves_from_memory(tmp_path: Path) -> None:
    """A file is in the place of a folder: the edge serves from memory."""
    async with ScriptedOrigin() as origin:
        put(origin)
        (tmp_path / "cache").mkdir()
        (tmp_path / "cache" / "extents").touch()
        with run_edge(tmp_path, http_toml(origin.url)) as edge:
            assert edge.log("cache_folder_refused")
            for _viewer in range(3):
                bodies = await asyncio.gather(
                    *(fetch(edge.http_port, "/film.mp4") for _one in range(4))
                )
                assert all(body.body == WHOLE for body in bodies)
            assert edge.stop() == 0


@pytest.mark.parametrize("is_optional", [False, True])
async def test_unusable_cache_folder_raises_an_alert_unless_it_is_optional(
    tmp_path: Path, *, is_optional: bool
) -> None:
    async with ScriptedOrigin() as origin:
        put(origin)
        (tmp_path / "cache").mkdir()
        (tmp_path / "cache" / "extents").touch()
        edge_toml = f"cache_optional = {str(is_optional).lower()}"
        with run_edge(tmp_path, http_toml(origin.url), edge=edge_toml) as edge:
            assert edge.log("cache_folder_refused")
            health = json.loads(edge.admin("/healthz"))
            assert health["ready"]
            assert ("problems" in health) != is_optional
            usable = edge.metric("streamedge_cache_folder_usable", "worker-0")
            assert usable == (1 if is_optional else 0)
            if not is_optional:
                await_alert(edge, "StreamEdgeNoCacheFolder")


def await_alert(edge: EdgeProcess, name: str) -> None:
    """Waits until /status has an alert."""
    deadline_s = time.monotonic() + PATIENCE_S
    while name not in edge.admin("/status").decode():
        assert time.monotonic() < deadline_s
        pause()


async def test_deleted_cache_folder_serves_from_memory(tmp_path: Path) -> None:
    async with ScriptedOrigin() as origin:
        put(origin)
        with run_edge(tmp_path, http_toml(origin.url)) as edge:
            assert (await fetch(edge.http_port, "/small")).status == 200
            shutil.rmtree(edge.cache)
            assert (await fetch(edge.http_port, "/film.mp4")).body == WHOLE
            assert (await fetch(edge.http_port, "/small")).body == b"small"
            assert edge.log("process_ended") == [], (edge.folder / "stderr").read_text()
            assert await asyncio.to_thread(edge.await_log, "disk_write_failed")
