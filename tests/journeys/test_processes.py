"""The edge's processes on bad days: they hang, cannot be started, or lose what they stand on."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from edge_process import EdgeProcess, free_ports, pause, run_edge
from http_viewer import fetch, viewer_of

DIRECTORY = '[origins.main]\ntype = "directory"\npath = "media"\n'


def make_media(folder: Path) -> None:
    (folder / "media").mkdir(parents=True)
    (folder / "media" / "a.txt").write_text("content")


def get(edge: EdgeProcess, path: str = "/a.txt") -> int:
    return asyncio.run(fetch(edge.http_port, path)).status


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGHUP])
def test_renamed_log_file_is_opened_anew_by_every_process(
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


def test_log_into_a_pipe_that_nobody_reads_stops_nothing(tmp_path: Path) -> None:
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

        async def ask(count: int) -> None:
            while True:
                try:
                    await fetch(http_port, "/a.txt")
                    break
                except ConnectionRefusedError:
                    pause()  # the edge has just been started
            async with viewer_of(http_port) as viewer:
                for _request in range(count):
                    response = await viewer.get("/a.txt", **{"user-agent": "u" * 900})
                    assert response.status == 200

        asyncio.run(ask(2_500))  # over 2 MB of lines: more than the pipe and the buffer hold
        dropped = b"streamedge_log_lines_dropped_total"
        while not any(
            line.startswith(dropped) and not line.endswith(b" 0.0")
            for line in edge.admin("/metrics").splitlines()
        ):
            pause()
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        os.close(reading)
