"""Connections that send one request each and then stay idle.

``python -m bench.loads.idle_load PLAN`` prints an ``IdleResult``. Memory is measured while they
are open.
"""

from __future__ import annotations

import json
import re
import select
import socket
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.loads.load import run_load
from bench.machine import pss_bytes, raise_open_files
from bench.servers.server import LOOPBACK, BenchError

LIMIT_S = 60.0
SETTLE_S = 2.0
AT_A_TIME = 200  # below the backlog of any listener
RECEIVE_BYTES = 64 << 10
PAGE_BYTES = 4096  # the unit of sockstat's "mem"


@dataclass(frozen=True, slots=True)
class IdlePlan:
    """At most ``connections``: fewer, if the server refuses further ones.

    A refusal is a status other than 200, or a closed connection.
    """

    port: int
    path: str
    connections: int
    server_pid: int


@dataclass(frozen=True, slots=True)
class IdleResult:
    """Bytes that ``connections`` added.

    ``server_bytes``: of the server's processes (PSS). ``kernel_bytes``: the kernel's, for both ends
    of each connection: slab memory (sockets, files) and socket buffers.
    """

    connections: int
    server_bytes: int
    kernel_bytes: int


def idle(plan: IdlePlan) -> IdleResult:
    """Runs the plan in a separate process, on the load generator's core."""
    return IdleResult(**run_load("bench.loads.idle_load", asdict(plan), limit_s=LIMIT_S))


def kernel_bytes(meminfo: str, sockstat: str) -> int:
    """Slab memory and TCP buffers, from /proc/meminfo and /proc/net/sockstat (proc(5))."""
    slab = re.search(r"^Slab:\s+(\d+) kB", meminfo, re.MULTILINE)
    buffers = re.search(r"^TCP: .* mem (\d+)", sockstat, re.MULTILINE)
    if slab is None or buffers is None:
        raise BenchError("/proc does not show the kernel's memory")
    return int(slab[1]) * 1024 + int(buffers[1]) * PAGE_BYTES


def _memory(server_pid: int) -> tuple[int, int]:
    meminfo = Path("/proc/meminfo").read_text()
    sockstat = Path("/proc/net/sockstat").read_text()
    return pss_bytes(server_pid), kernel_bytes(meminfo, sockstat)


def _idle(plan: IdlePlan) -> IdleResult:
    raise_open_files()
    text = f"GET {plan.path} HTTP/1.1\r\nHost: {LOOPBACK}\r\n\r\n".encode()
    first = _open(plan.port, 1, text)  # puts the object into the cache
    if not first:
        raise BenchError("the first connection was refused")
    first[0].close()
    time.sleep(SETTLE_S)
    server_before, kernel_before = _memory(plan.server_pid)
    opened: list[socket.socket] = []
    is_refused = False
    while len(opened) < plan.connections and not is_refused:
        count = min(AT_A_TIME, plan.connections - len(opened))
        accepted = _open(plan.port, count, text)
        is_refused = len(accepted) < count
        opened += accepted
    time.sleep(SETTLE_S)
    server_after, kernel_after = _memory(plan.server_pid)
    closed = sum(_is_closed(connection) for connection in opened)
    if closed:
        raise BenchError(f"the server closed {closed} of {len(opened)} connections")
    return IdleResult(len(opened), server_after - server_before, kernel_after - kernel_before)


def _open(port: int, count: int, text: bytes) -> list[socket.socket]:
    """Opens ``count`` connections and sends the request on each; returns the accepted ones."""
    opened, accepted = [], []
    for _ in range(count):
        connection = socket.create_connection((LOOPBACK, port), timeout=LIMIT_S)
        connection.send(text)
        opened.append(connection)
    for connection in opened:
        try:
            received = connection.recv(RECEIVE_BYTES)
        except ConnectionError:
            received = b""
        if received.startswith(b"HTTP/1.1 200"):
            accepted.append(connection)
        else:
            connection.close()
    return accepted


def _is_closed(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLIN | select.POLLRDHUP)
    return bool(poll.poll(0))


if __name__ == "__main__":
    print(json.dumps(asdict(_idle(IdlePlan(**json.loads(sys.argv[1]))))))
