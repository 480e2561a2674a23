"""Starts and stops a server under test, and waits until it is ready.

``peers`` and ``edge`` have the configurations. Signals go only to processes that were started here,
by their process group.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from bench.machine import pinned
from tests.support.process.ports import free_ports

LOOPBACK = "127.0.0.1"
START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 10.0
READY_POLL_S = 0.005
LOG_TAIL_CHARACTERS = 300

T = TypeVar("T")


class BenchError(Exception):
    """A measurement failed; the message is the reason, in one line."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running server. ``pid`` leads its process group; a port is 0 if it is not served."""

    name: str
    pid: int
    http_port: int = 0
    rtmp_port: int = 0
    https_port: int = 0
    admin_port: int = 0


@dataclass(frozen=True, slots=True)
class Failure:
    """The cell of a figure that could not be measured."""

    reason: str


Value = float | str | Failure
"""The value of a cell in the table."""

Start = Callable[[], AbstractContextManager[Server]]


def measure_each(
    starts: Mapping[str, Start], measure: Callable[[Server], T]
) -> dict[str, T | Failure]:
    """Starts the servers one after the other, each alone, and measures each.

    A server that does not start or cannot be measured has a ``Failure``; the others continue.
    """
    results: dict[str, T | Failure] = {}
    for name, start in starts.items():
        try:
            with start() as server:
                results[name] = measure(server)
        except BenchError as error:
            results[name] = Failure(str(error))
    return results


def pick(results: Mapping[str, T | Failure], read: Callable[[T], float | str]) -> dict[str, Value]:
    """One figure of every server's result; a ``Failure`` stays a ``Failure``."""
    return {
        name: result if isinstance(result, Failure) else read(result)
        for name, result in results.items()
    }


def free_port() -> int:
    """A TCP port of the loopback that was free a moment ago, and that no client will get."""
    (port,) = free_ports(1)
    return port


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for one server's files, removed at the end."""
    with tempfile.TemporaryDirectory(
        prefix="streamedge-bench-", ignore_cleanup_errors=True
    ) as name:
        yield Path(name)


@contextmanager
def process(
    command: list[str], *, log: Path, ready: Callable[[], bool], core: int | None
) -> Iterator[int]:
    """Runs ``command`` on ``core`` until the block ends; yields its pid once ``ready`` is true.

    Its output goes to ``log``. Raises BenchError when it ends, or is not ready in time.
    """
    with log.open("wb") as output, pinned(core):
        child = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not ready():
            if child.poll() is not None:
                raise BenchError(f"{command[0]} ended at its start: {_tail(log)}")
            if time.monotonic() > deadline_s:
                raise BenchError(f"{command[0]} not ready in {START_TIMEOUT_S:.0f} s: {_tail(log)}")
            time.sleep(READY_POLL_S)
        yield child.pid
    finally:
        _stop(child)


def accepts(port: int) -> bool:
    """Whether a process listens on ``port`` of the loopback address."""
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) == 0


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Sends SIGTERM to the leader, then SIGKILL to the rest of its process group."""
    child.terminate()
    try:
        child.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # the usual case: the whole group ended with its leader


def _tail(log: Path) -> str:
    text = " ".join(log.read_text(errors="replace").split())
    return text[-LOG_TAIL_CHARACTERS:] or "without output"
