"""Two loads that wrk does not have: HEAD, and a new TLS connection with a full handshake each time.

``python -m bench.loads.request_load PLAN`` prints a ``LoadResult``. wrk would wait for the
body of a response to HEAD, and resumes TLS sessions.
"""

from __future__ import annotations

import json
import select
import socket
import ssl
import sys
import time
from dataclasses import asdict, dataclass

from bench.loads.load import LoadResult, run_load
from bench.machine import cpu_s
from bench.servers.certificate import NAME
from bench.servers.server import LOOPBACK, BenchError

RECEIVE_BYTES = 64 << 10
_HEAD_END = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class RequestPlan:
    """For ``seconds``, ``connections`` send one request at a time and are kept alive.

    With ``trusted``, the server's certificate (a PEM file), each request has a new TLS connection.
    ``response_bytes``: of a body; HEAD has none.
    """

    port: int
    method: str
    path: str
    status: int
    response_bytes: int
    connections: int
    seconds: float
    server_pid: int
    trusted: str = ""


def request(plan: RequestPlan) -> LoadResult:
    """Runs the plan in a separate process, on the load generator's core."""
    return LoadResult(**run_load("bench.loads.request_load", asdict(plan), limit_s=plan.seconds))


def complete(received: bytes | bytearray, status: int, body_bytes: int) -> bool:
    """Whether a response is complete. Raises BenchError for another status or length."""
    end = received.find(_HEAD_END)
    if end < 0:
        return False
    if not received.startswith(b"HTTP/1.1 %d " % status):
        raise BenchError(f"unexpected response: {bytes(received[:60])!r}")
    missing_bytes = end + len(_HEAD_END) + body_bytes - len(received)
    if missing_bytes < 0:
        raise BenchError(f"{-missing_bytes} bytes more than the response")
    return missing_bytes == 0


def _repeat(plan: RequestPlan) -> int:
    """Sends the request over keep-alive connections; returns the number of responses."""
    text = f"{plan.method} {plan.path} HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode()
    epoll = select.epoll()
    sockets: dict[int, socket.socket] = {}
    parts: dict[int, bytes] = {}
    for _ in range(plan.connections):
        connection = socket.create_connection((LOOPBACK, plan.port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sockets[connection.fileno()] = connection
        epoll.register(connection, select.EPOLLIN)
        connection.send(text)
    done, until_s = 0, time.monotonic() + plan.seconds
    while time.monotonic() < until_s:
        for descriptor, _ in epoll.poll(1.0):
            received = sockets[descriptor].recv(RECEIVE_BYTES)
            if not received:
                raise BenchError("closed before a response")
            received = parts.pop(descriptor, b"") + received
            if complete(received, plan.status, plan.response_bytes):
                done += 1
                sockets[descriptor].send(text)
            else:
                parts[descriptor] = received
    return done


def _reconnect(plan: RequestPlan) -> int:
    """Sends each request over a new TLS connection; returns the number of responses."""
    context = ssl.create_default_context(cafile=plan.trusted)
    text = (
        f"{plan.method} {plan.path} HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n"
    ).encode()
    epoll = select.epoll()
    open_ones: dict[int, tuple[ssl.SSLSocket, bytearray | None]] = {}  # None: before the request

    def connect() -> None:
        plain = socket.create_connection((LOOPBACK, plan.port))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.setblocking(False)
        secure = context.wrap_socket(plain, server_hostname=NAME, do_handshake_on_connect=False)
        open_ones[secure.fileno()] = (secure, None)
        epoll.register(secure, select.EPOLLIN)
        go_on(secure.fileno())

    def go_on(descriptor: int) -> bool:
        """Continues as far as bytes are there; returns whether the response is complete."""
        secure, received = open_ones[descriptor]
        try:
            if received is None:
                secure.do_handshake()
                secure.send(text)
                received = bytearray()
                open_ones[descriptor] = (secure, received)
            while not complete(received, plan.status, plan.response_bytes):
                part = secure.recv(RECEIVE_BYTES)
                if not part:
                    raise BenchError("closed before a response")
                received += part
        except ssl.SSLWantReadError:
            return False
        return True

    for _ in range(plan.connections):
        connect()
    done, until_s = 0, time.monotonic() + plan.seconds
    while time.monotonic() < until_s:
        for descriptor, _ in epoll.poll(1.0):
            if go_on(descriptor):
                done += 1
                open_ones.pop(descriptor)[0].close()
                connect()
    return done


def _load(plan: RequestPlan) -> LoadResult:
    began_s, server_s, load_s = time.monotonic(), cpu_s(plan.server_pid), time.process_time()
    done = _reconnect(plan) if plan.trusted else _repeat(plan)
    if not done:
        raise BenchError("no response")
    return LoadResult(
        requests=done,
        seconds=time.monotonic() - began_s,
        server_cpu_s=cpu_s(plan.server_pid) - server_s,
        load_cpu_s=time.process_time() - load_s,
    )


if __name__ == "__main__":
    print(json.dumps(asdict(_load(RequestPlan(**json.loads(sys.argv[1]))))))
