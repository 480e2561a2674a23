"""Journeys: the edge's processes hang, cannot be started, or lose their files."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.http.http_viewer import fetch, open_viewer
from tests.support.patience import PATIENCE_S
from tests.support.process.edge_process import EdgeProcess, pause, run_edge
from tests.support.process.ports import free_ports

DIRECTORY = '[origins.main]\ntype = "directory"\npath = "media"\n'


def make_media(folder: Path) -> None:
    (folder / "media").mkdir(parents=True)
    (folder / "media" / "a.txt").write_text("content")


def get(edge: EdgeProcess, path: str = "/a.txt") -> int:
    return asyncio.run(fetch(edge.http_port, path)).status


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGHUP])
def test_renamed_log_file_is_reopened_by_every_process(
    tmp_path: Path, number: signal.Signals
) -> None:
    make_media(tmp_path)
    with run_edge(tmp_path, DIRECTORY, workers=2) as edge:
        edge.await_log("worker_up", 2)
        (tmp_path / "edge.log").rename(tmp_path / "edge.log.1")
        edge.process.send_signal(number)
        while not (tmp_path / "edge.log").exists():
            pause()
        assert get(edge) == 200
        edge.await_log("response")
        assert edge.stop() == 0
        assert {line["event"] for line in edge.log()} >= {"log_reopened", "edge_down"}
        assert len(edge.log("worker_down")) == 2
    assert "worker_down" not in (tmp_path / "edge.log.1").read_text()


def test_blocked_log_pipe_does_not_stop_the_edge(tmp_path: Path) -> None:
    make_media(tmp_path)
    http_port, admin_port = free_ports(2)
    (tmp_path / "config.toml").write_text(
        f'[edge]\ncache = "cache"\nworkers = 1\n[listen]\nhttp = ["127.0.0.1:{http_port}"]\n'
        f'rtmp = []\nadmin = "127.0.0.1:{admin_port}"\n[limits]\nlog_buffer = "64KiB"\n'
        f'{DIRECTORY}[[distributions]]\nid = "EWEB"\ntype = "web"\norigin = "main"\n'
    )
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "streamedge", "serve"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=writing, stderr=subprocess.DEVNULL)
    os.close(writing)
    try:
        edge = EdgeProcess(tmp_path, http_port, 0, admin_port, process)

        async def send_requests(count: int) -> None:
            while True:
                try:
                    await fetch(http_port, "/a.txt")
                    break
                except ConnectionRefusedError:
                    pause()  # the edge is still starting
            async with open_viewer(http_port) as viewer:
                for _request in range(count):
                    response = await viewer.get("/a.txt", **{"user-agent": "u" * 900})
                    assert response.status == 200

        asyncio.run(
            send_requests(2_500)
        )  # over 2 MB of lines: more than the pipe and the buffer hold
        dropped = b"streamedge_log_lines_dropped_total"
        while not any(
            line.startswith(dropped) and not line.endswith(b" 0.0")
            for line in edge.admin("/metrics").splitlines()
        ):
            pause()
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
        os.close(reading)


# Runs in a worker for requests of "hang": a loop without an await, as a bug may have.
HANG = """
import streamedge.origin.directory.origin as directory
plain = directory.DirectoryOrigin.read
async def read(self, name, *args, **more):
    while name == "hang.txt":
        pass
    return await plain(self, name, *args, **more)
directory.DirectoryOrigin.read = read
"""


def hang_a_worker(edge: EdgeProcess) -> socket.socket:
    """Sends a request that hangs the worker that serves it."""
    viewer = socket.create_connection(("127.0.0.1", edge.http_port))
    viewer.sendall(b"GET /hang.txt HTTP/1.1\r\nHost: edge.test\r\n\r\n")
    return viewer


def health(edge: EdgeProcess) -> dict[str, Any]:
    """The status and document of /healthz."""
    try:
        return {"status": 200, **json.loads(edge.admin("/healthz"))}
    except urllib.error.HTTPError as exc:
        with exc:
            return {"status": exc.code, **json.load(exc)}


def test_worker_that_hangs_is_replaced_and_its_stack_is_in_the_log(tmp_path: Path) -> None:
    make_media(tmp_path)
    (tmp_path / "media" / "hang.txt").write_text("content")
    with run_edge(tmp_path, DIRECTORY, prelude=HANG) as edge:
        (pid,) = edge.worker_pids()
        with hang_a_worker(edge):
            while health(edge)["status"] == 200:
                pause()
            assert "worker-0 has not run its event loop" in health(edge)["problems"][0]
            (hung,) = edge.await_log("process_hung")
            assert hung["pid"] == pid
            (ended,) = edge.await_log("process_ended")
            assert (ended["pid"], ended["reason"]) == (pid, "hung")
            assert any("in read" in line for line in ended["stack"])
        edge.await_log("worker_up", 2)
        assert get(edge) == 200
        assert health(edge)["status"] == 200
        expected = b'streamedge_process_ends_total{process="worker-0",reason="hung"} 1.0'
        assert expected in edge.admin("/metrics")


def test_processes_that_are_stopped_are_replaced(tmp_path: Path) -> None:
    make_media(tmp_path)
    with run_edge(tmp_path, DIRECTORY) as edge:
        (pid,) = edge.worker_pids()
        children = Path(f"/proc/{edge.pid}/task/{edge.pid}/children").read_text().split()
        for child in children:
            os.kill(int(child), signal.SIGSTOP)
        ended = edge.await_log("process_ended", 2)
        assert {line["child"]: line["code"] for line in ended} == {
            "worker-0": -signal.SIGKILL,
            "control": -signal.SIGKILL,
        }
        assert pid in {line["pid"] for line in ended}
        edge.await_log("worker_up", 2)
        assert get(edge) == 200
        while True:
            try:
                assert health(edge)["status"] == 200
                break
            except OSError:
                pause()


def test_edge_with_a_hung_worker_stops_soon(tmp_path: Path) -> None:
    make_media(tmp_path)
    (tmp_path / "media" / "hang.txt").write_text("content")
    with run_edge(tmp_path, DIRECTORY, prelude=HANG) as edge, hang_a_worker(edge):
        while health(edge)["status"] == 200:
            pause()
        edge.process.send_signal(signal.SIGTERM)
        assert edge.process.wait(PATIENCE_S) == 0
        assert edge.log("process_ended")[0]["stack"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_second_signal_ends_the_edge_without_waiting_for_viewers(
    tmp_path: Path, number: signal.Signals
) -> None:
    make_media(tmp_path)
    (tmp_path / "media" / "large").write_bytes(bytes(50 << 20))
    with run_edge(tmp_path, DIRECTORY) as edge, socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", edge.http_port))
        slow.sendall(b"GET /large HTTP/1.1\r\nHost: edge.test\r\n\r\n")
        slow.recv(1000)
        edge.process.send_signal(signal.SIGTERM)
        edge.await_log("worker_draining")
        assert edge.process.poll() is None
        edge.process.send_signal(number)
        assert edge.process.wait(PATIENCE_S) == 0
        assert edge.log("edge_drain_aborted")
        assert edge.log("process_ended") == []
        assert edge.log()[-1]["event"] == "edge_down"


def test_failed_fork_is_retried_while_other_workers_serve(tmp_path: Path) -> None:
    make_media(tmp_path)
    refuse = f"""
import errno, os
plain = os.fork
def fork():
    if os.path.exists({str(tmp_path / "refuse")!r}):
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
    return plain()
os.fork = fork
"""
    with run_edge(tmp_path, DIRECTORY, workers=2, prelude=refuse) as edge:
        edge.await_log("worker_up", 2)
        (tmp_path / "refuse").touch()
        os.kill(edge.worker_pids()[0], signal.SIGKILL)
        edge.await_log("process_not_started", 2)
        assert health(edge)["workers"] == 1
        (tmp_path / "refuse").unlink()
        edge.await_log("worker_up", 3)
        while health(edge)["status"] != 200:
            pause()


def test_background_service_continues_after_a_failure(tmp_path: Path) -> None:
    make_media(tmp_path)
    fail = f"""
import os
import streamedge.ops.metrics as metrics
plain = metrics.Counts.flush
def flush(self):
    try:
        os.unlink({str(tmp_path / "fail")!r})
    except FileNotFoundError:
        return plain(self)
    raise RuntimeError("injected")
metrics.Counts.flush = flush
"""
    with run_edge(tmp_path, DIRECTORY, prelude=fail) as edge:
        (tmp_path / "fail").touch()
        (line,) = edge.await_log("service_failed")
        assert (line["service"], line["error"]) == ("metrics", "RuntimeError('injected')")
        assert get(edge) == 200
        counted = b'streamedge_statuses_total{status="200"} 1.0'
        while counted not in edge.admin("/metrics"):
            pause()


# The cache folder


def serve_once(folder: Path, toml: str) -> subprocess.CompletedProcess[str]:
    """Starts an edge that must refuse to start."""
    folder.mkdir(exist_ok=True)
    (folder / "config.toml").write_text(toml)
    command = [sys.executable, "-m", "streamedge", "serve"]
    return subprocess.run(
        command, cwd=folder, check=False, capture_output=True, text=True, timeout=PATIENCE_S
    )


def test_second_edge_on_one_cache_folder_is_refused_without_effect(tmp_path: Path) -> None:
    make_media(tmp_path)
    with run_edge(tmp_path, DIRECTORY) as edge:
        assert get(edge) == 200
        half_made = edge.cache / "new" / "under-way"
        half_made.touch()
        http, admin = free_ports(2)
        toml = (
            f'[edge]\ncache = "{edge.cache}"\n[listen]\nhttp = ["127.0.0.1:{http}"]\nrtmp = []\n'
            f'admin = "127.0.0.1:{admin}"\n[origins.main]\ntype = "directory"\n'
            f'path = "{tmp_path / "media"}"\n'
            '[[distributions]]\nid = "EWEB"\ntype = "web"\norigin = "main"\n'
        )
        refused = serve_once(tmp_path / "second", toml)
        assert refused.returncode == 1
        assert f"another edge (process {edge.pid}) uses the cache folder" in refused.stderr
        assert "Traceback" not in refused.stderr
        assert half_made.exists()
        assert not json.loads((edge.cache / "era").read_text())["clean"]
        assert get(edge) == 200


def test_edge_can_be_restarted_at_once_after_its_supervisor_was_killed(tmp_path: Path) -> None:
    make_media(tmp_path)
    with run_edge(tmp_path, DIRECTORY) as edge, socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        (tmp_path / "media" / "large").write_bytes(bytes(50 << 20))
        slow.connect(("127.0.0.1", edge.http_port))
        slow.sendall(b"GET /large HTTP/1.1\r\nHost: edge.test\r\n\r\n")
        slow.recv(1000)
        edge.process.kill()
        edge.process.wait()
        edge.await_log("worker_draining")  # it still serves the slow viewer
        with run_edge(tmp_path, DIRECTORY, ports=(edge.http_port, edge.rtmp_port)) as again:
            assert get(again) == 200


def test_edge_whose_folder_is_removed_stops_cleanly(tmp_path: Path) -> None:
    make_media(tmp_path)
    with run_edge(tmp_path, DIRECTORY) as edge:
        assert get(edge) == 200
        edge.cache.rename(tmp_path / "gone")
        assert get(edge) == 200
        while "problems" not in health(edge):
            pause()
        assert "cannot use the cache folder" in health(edge)["problems"][0]
        assert health(edge)["status"] == 200
        assert edge.stop() == 0
        assert edge.log("cache_folder_not_closed")
        assert edge.log()[-1]["event"] == "edge_down"
        assert "Traceback" not in (tmp_path / "stderr").read_text()


@pytest.mark.parametrize("name", ["era", "usage", "changes"])
@pytest.mark.parametrize("content", [b"", b"\xff" * (4 << 20)])
def test_damaged_file_of_the_folder_is_repaired_at_the_start(
    tmp_path: Path, name: str, content: bytes
) -> None:
    make_media(tmp_path)
    with run_edge(tmp_path, DIRECTORY) as edge:
        assert get(edge) == 200
    (tmp_path / "cache" / name).write_bytes(content)
    with run_edge(tmp_path, DIRECTORY) as edge:
        assert get(edge) == 200
        assert get(edge) == 200
        assert health(edge) == {"status": 200, "edge": "local", "ready": True, "workers": 1}
        repaired = edge.log("cache_folder_repaired")
        assert bool(repaired) is (name == "era" or bool(content))
        assert edge.log("disk_write_failed") == []


def test_files_of_the_edge_are_private_with_any_umask(tmp_path: Path) -> None:
    make_media(tmp_path)
    before = os.umask(0o000)
    try:
        writes = (
            '[[distributions]]\nid = "EWEB"\ntype = "web"\norigin = "main"\nwrite = "back"\n'
            'methods = ["GET", "HEAD", "PUT"]\n'
        )
        with run_edge(tmp_path, DIRECTORY, distributions=writes) as edge:
            assert get(edge) == 200

            async def put() -> int:
                async with open_viewer(edge.http_port) as viewer:
                    await viewer.send_request("/dir/b.txt", "PUT", content_length="7")
                    await viewer.send(b"content")
                    return (await viewer.receive("PUT")).status

            assert asyncio.run(put()) in {200, 201, 204}
            while not (tmp_path / "media" / "dir" / "b.txt").exists():
                pause()
            for path in edge.cache.rglob("*"):
                assert path.stat().st_mode & 0o077 == 0, path
            assert (tmp_path / "edge.log").stat().st_mode & 0o777 == 0o640
            # Others may use an origin's folder, too.
            assert (tmp_path / "media" / "dir").stat().st_mode & 0o777 == 0o755
            assert (tmp_path / "media" / "dir" / "b.txt").stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(before)


def test_port_chosen_by_the_kernel_is_reported(tmp_path: Path) -> None:
    make_media(tmp_path)
    with run_edge(tmp_path, DIRECTORY, workers=2, ports=(0, 0)) as edge:
        (line,) = edge.log("edge_starting")
        (address,) = line["http"]
        for _worker in range(8):
            assert asyncio.run(fetch(int(address.rpartition(":")[2]), "/a.txt")).status == 200


def test_idle_connections_leave_descriptors_for_files(tmp_path: Path) -> None:
    make_media(tmp_path)
    for number in range(40):
        (tmp_path / "media" / f"{number}.txt").write_text("content")
    shrink = "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))"
    with run_edge(tmp_path, DIRECTORY, prelude=shrink) as edge, ExitStack() as stack:
        (line,) = edge.log("descriptors_limited")
        assert line["limit"] == 256
        assert line["needed"] > 20_000  # one for each connection, and those of files
        idle = []
        for _viewer in range(300):
            idle.append(socket.create_connection(("127.0.0.1", edge.http_port)))
            stack.callback(idle[-1].close)
        statuses = Counter[bytes]()
        for number in range(40):
            with contextlib.suppress(OSError):
                idle[number].sendall(b"GET /%d.txt HTTP/1.1\r\nHost: edge.test\r\n\r\n" % number)
                statuses[idle[number].recv(100)[9:12]] += 1
        assert statuses == {b"200": 40}
        edge.await_log("connections_refused")
        while b'streamedge_errors_total{kind="http_descriptors"}' not in edge.admin("/metrics"):
            pause()
