"""HTTP readers: many requests over few connections, or one object over many.

``python -m bench.loads.http_load PLAN`` prints a ``LoadResult`` or a ``CrowdResult``. The kernel
discards bodies (MSG_TRUNC, tcp(7)), so that the reader costs less than any server. The status and
length of every response are checked.
"""

from __future__ import annotations

import json
import random
import re
import select
import socket
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

from bench.loads.load import LoadResult, run_load
from bench.machine import LOAD_CORE, cpu_s, raise_open_files
from bench.servers.server import LOOPBACK, BenchError

HEAD_BYTES = 16 << 10
DISCARD_BYTES = 8 << 20
REQUESTS_PREPARED = 1024
CROWD_LIMIT_S = 60.0
_HEAD_END = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class HitsPlan:
    """For ``seconds``, ``connections`` request random aligned ranges, each one at a time.

    ``trusted``: over HTTPS the server's certificate, a PEM file.
    """

    port: int
    path: str
    object_bytes: int
    range_bytes: int
    connections: int
    seconds: float
    server_pid: int
    trusted: str = ""


@dataclass(frozen=True, slots=True)
class CrowdPlan:
    """``readers`` connect first, then request ``first`` to ``last`` of one object all at once.

    ``last`` -1 requests the complete object, without Range.
    """

    port: int
    path: str
    readers: int
    first: int = 0
    last: int = -1


@dataclass(frozen=True, slots=True)
class CrowdResult:
    """Seconds from the request to the body's first and last byte, one of each per reader."""

    first_byte_s: list[float]
    whole_s: list[float]
    failures: list[str]


def hit(plan: HitsPlan) -> LoadResult:
    """Runs the plan in a separate process, on the load generator's core."""
    return LoadResult(**run_load("bench.loads.http_load", asdict(plan), limit_s=plan.seconds))


def crowd(plan: CrowdPlan, *, core: int | None = LOAD_CORE) -> CrowdResult:
    """Runs the plan in a separate process. Raises BenchError when no reader got a response."""
    result = CrowdResult(
        **run_load("bench.loads.http_load", asdict(plan), limit_s=CROWD_LIMIT_S, core=core)
    )
    if not result.whole_s:
        raise BenchError(f"all {plan.readers} readers failed: {result.failures[0]}")
    return result


def _connect(port: int) -> socket.socket:
    connection = socket.create_connection((LOOPBACK, port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _request(path: str, first: int, last: int) -> bytes:
    span = f"Range: bytes={first}-{last}\r\n" if last >= 0 else ""
    return f"GET {path} HTTP/1.1\r\nHost: {LOOPBACK}\r\n{span}\r\n".encode()


def _hit(plan: HitsPlan) -> LoadResult:
    chosen = random.Random(1)
    count = plan.object_bytes // plan.range_bytes
    requests = []
    for _ in range(REQUESTS_PREPARED):
        first = chosen.randrange(count) * plan.range_bytes
        requests.append(_request(plan.path, first, first + plan.range_bytes - 1))
    epoll = select.epoll()
    sockets: dict[int, socket.socket] = {}
    remaining: dict[int, int] = {}  # of the body; 0: the next bytes are a head
    head = bytearray(HEAD_BYTES)
    discarded = bytearray(DISCARD_BYTES)
    done, sent = 0, 0
    for _ in range(plan.connections):
        connection = _connect(plan.port)
        sockets[connection.fileno()] = connection
        remaining[connection.fileno()] = 0
        epoll.register(connection, select.EPOLLIN)
        connection.send(requests[sent])
        sent += 1
    began_s, server_s, load_s = time.monotonic(), cpu_s(plan.server_pid), time.process_time()
    while (now := time.monotonic()) < began_s + plan.seconds:
        for descriptor, _ in epoll.poll(1.0):
            connection = sockets[descriptor]
            rest = remaining[descriptor]
            if rest:
                limit = min(rest, DISCARD_BYTES)
                received = connection.recv_into(discarded, limit, socket.MSG_TRUNC)
                rest -= received
            else:
                received = connection.recv_into(head)
                end = head.find(_HEAD_END, 0, received)
                if end < 0 or not head.startswith(b"HTTP/1.1 206"):
                    raise BenchError(f"unexpected response: {bytes(head[: min(received, 60)])!r}")
                rest = plan.range_bytes - (received - end - len(_HEAD_END))
            if not received:
                raise BenchError(f"closed {rest} bytes early")
            remaining[descriptor] = rest
            if not rest:
                done += 1
                connection.send(requests[sent % REQUESTS_PREPARED])
                sent += 1
    return LoadResult(
        requests=done,
        seconds=now - began_s,
        server_cpu_s=cpu_s(plan.server_pid) - server_s,
        load_cpu_s=time.process_time() - load_s,
    )


@dataclass(slots=True)
class _Reader:
    socket: socket.socket
    head: bytes = b""
    request_s: float = 0.0
    first_byte_s: float = 0.0
    remaining: int = -1  # -1: the head is incomplete


class _BadResponseError(Exception):
    """A reader received a wrong or incomplete response."""


def _gather(plan: CrowdPlan) -> CrowdResult:
    raise_open_files()
    readers: dict[int, _Reader] = {}
    epoll = select.epoll()
    for _ in range(plan.readers):
        reader = _Reader(_connect(plan.port))
        readers[reader.socket.fileno()] = reader
        epoll.register(reader.socket, select.EPOLLIN)
    for reader in readers.values():
        reader.request_s = time.monotonic()
        reader.socket.send(_request(plan.path, plan.first, plan.last))
    discarded = bytearray(DISCARD_BYTES)
    result = CrowdResult([], [], [])
    until_s = time.monotonic() + CROWD_LIMIT_S
    while readers and time.monotonic() < until_s:
        for descriptor, _ in epoll.poll(1.0):
            reader = readers[descriptor]
            try:
                _read(reader, discarded)
            except (_BadResponseError, OSError) as error:
                result.failures.append(str(error))
            else:
                if reader.remaining:
                    continue
                result.first_byte_s.append(reader.first_byte_s - reader.request_s)
                result.whole_s.append(time.monotonic() - reader.request_s)
            epoll.unregister(descriptor)
            del readers[descriptor]
            reader.socket.close()
    result.failures.extend(f"not complete in {CROWD_LIMIT_S:.0f} s" for _ in readers)
    return result


def _read(reader: _Reader, discarded: bytearray) -> None:
    """Reads once from the socket. Raises _BadResponseError; OSError for a lost connection."""
    if reader.remaining > 0:
        limit = min(reader.remaining, DISCARD_BYTES)
        count = reader.socket.recv_into(discarded, limit, socket.MSG_TRUNC)
        if not count:
            raise _BadResponseError(f"closed {reader.remaining} bytes early")
        reader.first_byte_s = reader.first_byte_s or time.monotonic()
        reader.remaining -= count
        return
    data = reader.socket.recv(HEAD_BYTES)
    if not data:
        raise _BadResponseError("closed before a response")
    reader.head += data
    head, separator, body = reader.head.partition(_HEAD_END)
    if not separator:
        return
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    if length is None or not head.startswith((b"HTTP/1.1 200", b"HTTP/1.1 206")):
        raise _BadResponseError(head.partition(b"\r\n")[0].decode("latin-1"))
    if body:
        reader.first_byte_s = time.monotonic()
    reader.remaining = int(length[1]) - len(body)


def _main(plan: dict[str, Any]) -> LoadResult | CrowdResult:
    return _hit(HitsPlan(**plan)) if "range_bytes" in plan else _gather(CrowdPlan(**plan))


if __name__ == "__main__":
    print(json.dumps(asdict(_main(json.loads(sys.argv[1])))))
