"""Viewers in one process that let the kernel discard what they receive: one epoll for all.

The kernel counts the bytes and copies none (MSG_TRUNC, tcp(7)), so one core can receive gigabytes
a second.
"""

from __future__ import annotations

import random
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from bench.loads.viewers_plan import ViewersPlan
from bench.machine import cpu_s, raise_open_files

DISCARD_BYTES = 8 << 20
POLL_S = 0.05


class LostError(Exception):
    """The server closed the connection, or refused a request."""


@dataclass(frozen=True, slots=True)
class DiscardingResult:
    """Of the measured time; ``broken`` viewers were lost at any time. ``requests``: those of
    viewers that send any."""

    bytes: int
    seconds: float
    server_cpu_s: float
    broken: int
    requests: int = 0


class Viewer(Protocol):
    """One viewer; its socket does not block."""

    socket: socket.socket

    def receive(self, discarded: bytearray) -> tuple[int, int]:
        """Reads once; returns the media bytes and the number of new requests.

        Raises LostError; OSError for a lost connection.
        """
        ...


def watch_all(plan: ViewersPlan, begin: Callable[[int], Viewer]) -> DiscardingResult:
    """Runs the viewers. ``begin`` makes one that plays from a position in milliseconds."""
    raise_open_files()
    viewers = _Viewers(plan, begin)
    viewers.run(time.monotonic() + plan.settle_s)
    began_s, server_s = time.monotonic(), cpu_s(plan.server_pid)
    before, requests_before = viewers.bytes, viewers.requests
    viewers.run(began_s + plan.seconds)
    return DiscardingResult(
        viewers.bytes - before,
        time.monotonic() - began_s,
        cpu_s(plan.server_pid) - server_s,
        viewers.broken,
        viewers.requests - requests_before,
    )


class _Viewers:
    """All viewers, one epoll."""

    def __init__(self, plan: ViewersPlan, begin: Callable[[int], Viewer]) -> None:
        source = random.Random(plan.seed)
        self._epoll = select.epoll()
        self._viewers: dict[int, Viewer] = {}
        self._discarded = bytearray(DISCARD_BYTES)  # never written: the kernel only counts
        self.bytes = self.requests = self.broken = 0
        for _ in range(plan.viewers):
            viewer = begin(source.randint(1, plan.latest_start_ms))
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
        except (OSError, LostError):
            self._epoll.unregister(descriptor)
            self._viewers.pop(descriptor).socket.close()
            self.broken += 1
            return
        self.bytes += count
        self.requests += requests
