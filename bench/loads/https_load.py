"""HTTPS readers: many requests for ranges over few keep-alive connections.

``python -m bench.loads.https_load PLAN`` prints a ``LoadResult``. Decryption costs a client what
encryption costs a server, so a reader on one core would limit the server that it measures. So
only the first response of each connection is decrypted. Of the others only the record headers are
read (RFC 8446 §5.2), which give the length. All response heads have nearly the same length.
"""

from __future__ import annotations

import json
import random
import select
import socket
import ssl
import sys
import time
from dataclasses import asdict

from bench.loads.http_load import HitsPlan
from bench.loads.load import LoadResult, run_load
from bench.machine import cpu_s
from bench.servers.certificate import NAME
from bench.servers.server import LOOPBACK, BenchError

RECEIVE_BYTES = 512 << 10
FIRST_POSITION = 100_000_000  # from here on, positions have nine digits
HEAD_TOLERANCE_BYTES = 8  # an Age grows by a digit
RECORD_HEADER_BYTES = 5
RECORD_OVERHEAD_BYTES = 17  # content type and tag, for the ciphers of TLS 1.3
_HEAD_END = b"\r\n\r\n"


def secure_hit(plan: HitsPlan) -> LoadResult:
    """Runs the plan in a separate process, on the load generator's core."""
    return LoadResult(**run_load("bench.loads.https_load", asdict(plan), limit_s=plan.seconds))


class _Reader:
    """One connection. Only its first response is decrypted."""

    def __init__(self, context: ssl.SSLContext, plan: HitsPlan) -> None:
        self.socket = socket.create_connection((LOOPBACK, plan.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._plan = plan
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._ssl = context.wrap_bio(self._incoming, self._outgoing, server_hostname=NAME)
        self._response_bytes = 0  # approximate, from the first response
        self._partial = b""  # of a record's header
        self._skip_bytes = 0  # of a record's content
        self._missing_bytes = 0  # of the response, without the records' overhead

    def handshake(self) -> None:
        while True:
            try:
                self._ssl.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._fetch()
        self._flush()

    def request(self, first: int) -> None:
        last = first + self._plan.range_bytes - 1
        self._ssl.write(
            f"GET {self._plan.path} HTTP/1.1\r\nHost: {NAME}\r\n"
            f"Range: bytes={first}-{last}\r\n\r\n".encode()
        )
        self._flush()
        self._missing_bytes = self._response_bytes - HEAD_TOLERANCE_BYTES

    def read_first_response(self) -> None:
        """Reads and checks a complete response."""
        received = bytearray()
        expected_bytes = sys.maxsize
        while len(received) < expected_bytes:
            try:
                received += self._ssl.read(RECEIVE_BYTES)
            except ssl.SSLWantReadError:
                self._fetch()
            end = received.find(_HEAD_END, 0, RECEIVE_BYTES)
            if end >= 0:
                expected_bytes = end + len(_HEAD_END) + self._plan.range_bytes
        if not received.startswith(b"HTTP/1.1 206") or len(received) != expected_bytes:
            raise BenchError(f"unexpected response: {bytes(received[:60])!r}")
        self._response_bytes = expected_bytes

    def count(self, buffer: memoryview) -> bool:
        """Receives once; returns whether the response is complete."""
        start = len(self._partial)
        buffer[:start] = self._partial
        received = self.socket.recv_into(buffer[start:], RECEIVE_BYTES)
        if not received:
            raise BenchError(f"closed {self._missing_bytes} bytes early")
        end, at = start + received, self._skip_bytes
        while at + RECORD_HEADER_BYTES <= end:
            record_bytes = buffer[at + 3] << 8 | buffer[at + 4]
            self._missing_bytes -= record_bytes - RECORD_OVERHEAD_BYTES
            at += RECORD_HEADER_BYTES + record_bytes
        self._partial = bytes(buffer[at:end]) if at < end else b""
        self._skip_bytes = max(0, at - end)
        if self._missing_bytes > 0 or at != end:
            return False
        if self._missing_bytes < -2 * HEAD_TOLERANCE_BYTES:
            raise BenchError(f"a response {-self._missing_bytes} bytes longer than the first")
        return True

    def _fetch(self) -> None:
        self._flush()
        data = self.socket.recv(RECEIVE_BYTES)
        if not data:
            raise BenchError("closed before a response")
        self._incoming.write(data)

    def _flush(self) -> None:
        self.socket.sendall(self._outgoing.read())


def _hit(plan: HitsPlan) -> LoadResult:
    chosen = random.Random(1)
    count = (plan.object_bytes - FIRST_POSITION) // plan.range_bytes
    context = ssl.create_default_context(cafile=plan.trusted)
    context.minimum_version = ssl.TLSVersion.TLSv1_3

    def first() -> int:
        return FIRST_POSITION + chosen.randrange(count) * plan.range_bytes

    epoll = select.epoll()
    readers: dict[int, _Reader] = {}
    for _ in range(plan.connections):
        reader = _Reader(context, plan)
        reader.handshake()
        reader.request(first())
        reader.read_first_response()
        readers[reader.socket.fileno()] = reader
        epoll.register(reader.socket, select.EPOLLIN)
    buffer = memoryview(bytearray(RECEIVE_BYTES + RECORD_HEADER_BYTES))
    for reader in readers.values():
        reader.request(first())
    done = 0
    began_s, server_s, load_s = time.monotonic(), cpu_s(plan.server_pid), time.process_time()
    while (now := time.monotonic()) < began_s + plan.seconds:
        for descriptor, _ in epoll.poll(1.0):
            reader = readers[descriptor]
            if reader.count(buffer):
                done += 1
                reader.request(first())
    return LoadResult(
        requests=done,
        seconds=now - began_s,
        server_cpu_s=cpu_s(plan.server_pid) - server_s,
        load_cpu_s=time.process_time() - load_s,
    )


if __name__ == "__main__":
    print(json.dumps(asdict(_hit(HitsPlan(**json.loads(sys.argv[1]))))))
