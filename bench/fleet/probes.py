"""Requests for cached objects of the edges of a fleet, over connections that stay open."""

from __future__ import annotations

import http.client
import re
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from bench.servers.fleet import Edge
from bench.servers.server import LOOPBACK, BenchError

TIMEOUT_S = 60.0
RECEIVED_BYTES = 1 << 16
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")


class Answer(NamedTuple):
    """A response of an edge."""

    status: int
    body: bytes


class Probe:
    """A viewer of one edge; ``port``: of a link to it."""

    def __init__(self, edge: Edge, port: int = 0) -> None:
        self.edge = edge
        self._socket = socket.create_connection((LOOPBACK, port or edge.http_port), TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, path: str, *, only_if_cached: bool = False) -> None:
        """Sends a GET. ``only_if_cached``: without a valid copy it gets 504, and costs nothing."""
        field = "Cache-Control: only-if-cached\r\n" if only_if_cached else ""
        self._socket.sendall(f"GET {path} HTTP/1.1\r\nHost: {LOOPBACK}\r\n{field}\r\n".encode())

    def receive(self) -> Answer:
        """The next response. Raises BenchError."""
        head, separator, body = b"", b"", b""
        while not separator:
            head += self._read()
            head, separator, body = head.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if length is None:
            raise BenchError(f"{self.edge.name}: a response without a length: {head[:80]!r}")
        while len(body) < int(length[1]):
            body += self._read()
        return Answer(int(head[9:12]), body)

    def close(self) -> None:
        self._socket.close()

    def _read(self) -> bytes:
        try:
            data = self._socket.recv(RECEIVED_BYTES)
        except OSError as error:
            raise BenchError(f"{self.edge.name} does not respond: {error!r}") from error
        if not data:
            raise BenchError(f"{self.edge.name} has closed the connection")
        return data


@contextmanager
def probes(edges: Sequence[Edge]) -> Iterator[list[Probe]]:
    """One viewer of each edge."""
    opened = [Probe(edge) for edge in edges]
    try:
        yield opened
    finally:
        for probe in opened:
            probe.close()


def get_all(viewers: Sequence[Probe], path: str, *, only_if_cached: bool = False) -> list[Answer]:
    """Requests an object on all edges at once."""
    for viewer in viewers:
        viewer.send(path, only_if_cached=only_if_cached)
    return [viewer.receive() for viewer in viewers]


def warm(viewers: Sequence[Probe], path: str) -> None:
    """Makes all edges have a valid copy. Raises BenchError."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while True:
        get_all(viewers, path)
        answers = get_all(viewers, path, only_if_cached=True)
        if all(answer.status == http.client.OK for answer in answers):
            return
        if time.monotonic() > deadline_s:
            raise BenchError(f"not all edges cache {path}: {[one.status for one in answers]}")
