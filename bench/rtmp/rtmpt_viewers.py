"""RTMPT viewers that do not look at what they receive: a load generator.

``python -m bench.rtmp.rtmpt_viewers PLAN`` prints a ``Result``. As a client of RTMPT does, a viewer
posts the next idle when it has received a response. It reads the heads of responses and lets the
kernel discard the bodies (MSG_TRUNC, tcp(7)).
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

from bench.loads import rtmp_wire as wire
from bench.loads.load import run_load
from bench.machine import cpu_s, raise_open_files
from bench.rtmp import rtmpe_viewers
from bench.servers.server import LOOPBACK

DISCARD_BYTES = 8 << 20
HEAD_BYTES = 512
"""Read at one time while a head is expected."""
POLL_S = 0.05
TIMEOUT_S = 15.0
_HEAD = re.compile(rb"HTTP/1\.1 200 .*?\r\nContent-Length: (\d+)\r\n.*?\r\n\r\n", re.DOTALL)
_HEAD_END = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Plan:
    """``viewers`` begin at random positions within ``latest_start_ms``; after ``settle_s``,
    ``seconds`` are measured."""

    port: int
    application: str
    name: str
    viewers: int
    settle_s: float
    seconds: float
    latest_start_ms: int
    buffer_ms: int
    server_pid: int
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Result(rtmpe_viewers.Result):
    """As of the other viewers; ``bytes`` are those of bodies."""

    requests: int


def watch(plan: Plan) -> Result:
    """Runs the viewers in a separate process."""
    limit_s = plan.settle_s + plan.seconds
    return Result(**run_load("bench.rtmp.rtmpt_viewers", asdict(plan), limit_s=limit_s))


class _LostError(Exception):
    """The server closed the connection, or refused a request."""


class _Viewer:
    """One viewer with one session, over one connection."""

    def __init__(self, plan: Plan, start_ms: int) -> None:
        self.socket = socket.create_connection((LOOPBACK, plan.port), TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._head = b""  # of the next response, so far
        self._left_bytes = 0  # of the latest response's body
        self._number = 0
        self._post("/open/1", b"\0")
        self._session = self._body().decode().strip()
        self._send(wire.hello())
        handshake = self._body()[1:]
        while len(handshake) < 1 + 2 * wire.HANDSHAKE_BYTES:
            self._idle()
            handshake += self._body()[1:]
        self._send(
            handshake[1 : 1 + wire.HANDSHAKE_BYTES]
            + wire.connect(plan.application, plan.port)
            + wire.create_stream()
            + wire.play(1, plan.name, start_ms, plan.buffer_ms)
        )
        self.socket.setblocking(False)

    def receive(self, discarded: bytearray) -> tuple[int, int]:
        """Reads once; returns the bytes of bodies and the number of new requests.

        Raises _LostError; OSError for a lost connection.
        """
        if self._left_bytes:
            limit = min(self._left_bytes, DISCARD_BYTES)
            count = self.socket.recv_into(discarded, limit, socket.MSG_TRUNC)
            if not count:
                raise _LostError
            self._left_bytes -= count
        else:
            self._head += self._receive(HEAD_BYTES)
            match = _HEAD.match(self._head)
            if match is None:
                if _HEAD_END in self._head:
                    raise _LostError
                return 0, 0
            count = len(self._head) - match.end()
            self._left_bytes = int(match[1]) - count
            self._head = b""
        if self._left_bytes:
            return count, 0
        self._idle()
        return count, 1

    def _send(self, data: bytes) -> None:
        self._number += 1
        self._post(f"/send/{self._session}/{self._number - 1}", data)

    def _idle(self) -> None:
        self._number += 1
        self._post(f"/idle/{self._session}/{self._number - 1}", b"\0")

    def _post(self, target: str, body: bytes) -> None:
        head = (
            f"POST {target} HTTP/1.1\r\nHost: {LOOPBACK}\r\nUser-Agent: Shockwave Flash\r\n"
            "Connection: Keep-Alive\r\nCache-Control: no-cache\r\n"
            f"Content-Type: application/x-fcs\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self.socket.sendall(head.encode() + body)

    def _body(self) -> bytes:
        """The body of a response, while the socket blocks."""
        data = b""
        while (match := _HEAD.match(data)) is None or len(data) < match.end() + int(match[1]):
            data += self._receive(1 << 16)
        return data[match.end() :]

    def _receive(self, count: int) -> bytes:
        data = self.socket.recv(count)
        if not data:
            raise _LostError
        return data


class _Crowd:
    """All viewers, one epoll."""

    def __init__(self, plan: Plan) -> None:
        source = random.Random(plan.seed)
        self._epoll = select.epoll()
        self._viewers: dict[int, _Viewer] = {}
        self._discarded = bytearray(DISCARD_BYTES)  # never written: the kernel only counts
        self.bytes = self.requests = self.broken = 0
        for _ in range(plan.viewers):
            viewer = _Viewer(plan, source.randint(1, plan.latest_start_ms))
            self._viewers[viewer.socket.fileno()] = viewer
            self._epoll.register(viewer.socket, select.EPOLLIN)
            self.run(time.monotonic())

    def run(self, until_s: float) -> None:
        """Receives until monotonic time ``until_s``, and at least once."""
        while True:
            for descriptor, _ in self._epoll.poll(0):
                self._receive(descriptor)
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                return
            time.sleep(min(POLL_S, left_s))

    def _receive(self, descriptor: int) -> None:
        try:
            count, requests = self._viewers[descriptor].receive(self._discarded)
        except (OSError, _LostError):
            self._epoll.unregister(descriptor)
            self._viewers.pop(descriptor).socket.close()
            self.broken += 1
            return
        self.bytes += count
        self.requests += requests


def _watch(plan: Plan) -> Result:
    raise_open_files()
    crowd = _Crowd(plan)
    crowd.run(time.monotonic() + plan.settle_s)
    began_s, server_s = time.monotonic(), cpu_s(plan.server_pid)
    before, requests_before = crowd.bytes, crowd.requests
    crowd.run(began_s + plan.seconds)
    return Result(
        crowd.bytes - before,
        time.monotonic() - began_s,
        cpu_s(plan.server_pid) - server_s,
        crowd.broken,
        crowd.requests - requests_before,
    )


if __name__ == "__main__":
    print(json.dumps(asdict(_watch(Plan(**json.loads(sys.argv[1]))))))
