"""RTMPT viewers that do not look at what they receive: a load generator.

``python -m bench.rtmp.rtmpt_viewers PLAN`` prints a ``DiscardingResult``. As a client of RTMPT
does, a viewer posts the next idle when it has received a response. It reads the heads of responses
and lets the kernel discard the bodies.
"""

from __future__ import annotations

import json
import re
import socket
import sys
from dataclasses import asdict

from bench.loads import rtmp_wire as wire
from bench.loads.discarding import (
    DISCARD_BYTES,
    DiscardingResult,
    LostError,
    watch_all,
)
from bench.loads.load import run_load
from bench.loads.viewers_plan import ViewersPlan
from bench.servers.server import LOOPBACK

HEAD_BYTES = 512
"""Read at one time while a head is expected."""
TIMEOUT_S = 15.0
_HEAD = re.compile(rb"HTTP/1\.1 200 .*?\r\nContent-Length: (\d+)\r\n.*?\r\n\r\n", re.DOTALL)
_HEAD_END = b"\r\n\r\n"


def watch(plan: ViewersPlan) -> DiscardingResult:
    """Runs the viewers in a separate process; ``bytes`` are those of bodies."""
    return DiscardingResult(
        **run_load("bench.rtmp.rtmpt_viewers", asdict(plan), limit_s=plan.limit_s)
    )


class _Viewer:
    """One viewer with one session, over one connection."""

    def __init__(self, plan: ViewersPlan, start_ms: int) -> None:
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

        Raises LostError; OSError for a lost connection.
        """
        if self._left_bytes:
            limit = min(self._left_bytes, DISCARD_BYTES)
            count = self.socket.recv_into(discarded, limit, socket.MSG_TRUNC)
            if not count:
                raise LostError
            self._left_bytes -= count
        else:
            self._head += self._receive(HEAD_BYTES)
            match = _HEAD.match(self._head)
            if match is None:
                if _HEAD_END in self._head:
                    raise LostError
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
            raise LostError
        return data


def _watch(plan: ViewersPlan) -> DiscardingResult:
    return watch_all(plan, lambda start_ms: _Viewer(plan, start_ms))


if __name__ == "__main__":
    print(json.dumps(asdict(_watch(ViewersPlan(**json.loads(sys.argv[1]))))))
