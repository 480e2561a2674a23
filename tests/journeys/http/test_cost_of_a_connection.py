"""Journeys: system calls of a new connection, and the memory of idle ones."""

from __future__ import annotations

import asyncio
import re
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.http.http_viewer import open_viewer
from tests.support.process.edge_process import run_edge
from tests.support.process.system_calls import count_calls

BODY = b"x" * 1000
CONNECTIONS = 100
# For each connection with one hit.
COSTS = {
    "accept4": 1,
    "setsockopt": 1,  # TCP_NODELAY
    "getsockname": 2,  # the addresses of the transport and of its socket object
    "getpeername": 1,
    "io_uring_enter": 1,  # the event loop watches the socket, in one of two ways
    "epoll_ctl": 2,  # and no longer
    "read": 2,  # the request, and the end of the connection
    "pread64": 1,
    "writev": 1,  # head and body
    "close": 1,
}
TOLERANCE = 0.3
IDLE_CONNECTIONS = 1500
IDLE_BYTES_MAX = 8192


@pytest.fixture
def origins(tmp_path: Path) -> str:
    """The origin of the edge: a folder with one file."""
    media = tmp_path / "media"
    media.mkdir()
    (media / "a.txt").write_bytes(BODY)
    return '[origins.main]\ntype = "directory"\npath = "../media"\n'


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """As many descriptors as this process may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def pss_bytes(pid: int) -> int:
    """The memory of a process, with its part of the shared pages."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    match = re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)
    assert match is not None
    return int(match[1]) * 1024


async def test_new_connection_costs_few_system_calls(tmp_path: Path, origins: str) -> None:
    with run_edge(tmp_path / "edge", origins) as edge:
        (worker,) = await asyncio.to_thread(edge.worker_pids)
        await asyncio.to_thread(edge.await_log, "modules_imported")

        async def get(cache: str) -> None:
            async with open_viewer(edge.http_port) as viewer:
                response = await viewer.get("/a.txt")
                assert (response.body, response.cache) == (BODY, cache)

        await get("Miss")
        await get("Hit")
        with count_calls(worker, tmp_path / "calls") as calls:
            for _ in range(CONNECTIONS):
                await get("Hit")
    costs = calls.for_each(CONNECTIONS)
    too_many = {name: cost for name, cost in costs.items() if cost > COSTS.get(name, 0) + TOLERANCE}
    assert too_many == {}
    assert costs["accept4"] >= 1  # the calls were counted


@pytest.mark.usefixtures("many_descriptors")
def test_idle_connection_takes_few_bytes(tmp_path: Path, origins: str) -> None:
    request = b"GET /a.txt HTTP/1.1\r\nHost: edge.test\r\n\r\n"
    with run_edge(tmp_path / "edge", origins) as edge, ExitStack() as stack:
        (worker,) = edge.worker_pids()
        edge.await_log("modules_imported")

        def open_idle(count: int) -> None:
            for _ in range(count):
                viewer = socket.create_connection(("127.0.0.1", edge.http_port))
                stack.callback(viewer.close)
                viewer.sendall(request)
                received = b""
                while not received.endswith(BODY):
                    received += viewer.recv(1 << 16)

        open_idle(100)  # what grows once
        before_bytes = pss_bytes(worker)
        open_idle(IDLE_CONNECTIONS)
        assert pss_bytes(worker) - before_bytes <= IDLE_CONNECTIONS * IDLE_BYTES_MAX
