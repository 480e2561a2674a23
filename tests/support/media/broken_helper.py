"""A process in place of the media helper, which misbehaves as the "format" of its source says.

It has the limits and the filter of the real helper. With "idle" it answers
each request with the request itself.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import socket
import sys
import time
from collections.abc import Callable

from streamedge.media.containers.framing import READ_BODY, FrameKind
from streamedge.media.containers.helper_process import Connection, limit_time, run_helper

GROWTH_BYTES = 16 << 20


def hang(connection: Connection) -> None:
    while True:
        pass


def hang_in_c(connection: Connection) -> None:
    """No Python code runs, so no signal handler of Python would."""
    pow(3, 10**9, 10**2000 + 1)
    bytes(range(256)) * (1 << 20)
    sum(1 for _ in iter(int, 1))


def sleep(connection: Connection) -> None:
    time.sleep(10_000)


def grow(connection: Connection) -> None:
    memory: list[bytearray] = []
    while True:
        memory.append(bytearray(GROWTH_BYTES))


def crash(connection: Connection) -> None:
    ctypes.string_at(0)


def abort(connection: Connection) -> None:
    os.abort()


def leave(connection: Connection) -> None:
    os._exit(3)


def read_forever(connection: Connection) -> None:
    while True:
        connection.send(FrameKind.READ, READ_BODY.pack(0, 1 << 16))
        connection.receive()


def read_too_much(connection: Connection) -> None:
    connection.send(FrameKind.READ, READ_BODY.pack(0, 1 << 30))
    connection.receive()


def send_garbage(connection: Connection) -> None:
    connection.send_bytes(b"\xff" * 100)
    connection.receive()


def send_forever(connection: Connection) -> None:
    while True:
        connection.send(FrameKind.PART, bytes(1 << 20))


def send_half(connection: Connection) -> None:
    connection.send_bytes(b"\x05\x00\x00\x10\x00half")
    os._exit(0)


def fail_oddly(connection: Connection) -> None:
    connection.send(FrameKind.FAILED, b'["no", "fault"]')
    connection.receive()


def try_everything(connection: Connection) -> None:
    """Answers with the names of the attempts that did not fail."""
    attempts: dict[str, Callable[[], object]] = {
        "open a file": lambda: os.open("/etc/passwd", os.O_RDONLY),
        "write a file": lambda: os.open("/tmp/helper", os.O_CREAT | os.O_WRONLY),
        "open a socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
        "pair sockets": socket.socketpair,
        "make a pipe": os.pipe,
        "read credentials": lambda: os.environ["AWS_SECRET_ACCESS_KEY"],
        "signal another process": lambda: os.kill(os.getppid(), 0),
        "change another process": lambda: resource.prlimit(1, resource.RLIMIT_CPU),
        "start a process": os.fork,
        "run a program": lambda: os.execv("/bin/true", ["true"]),
        "give itself more memory": lambda: resource.setrlimit(
            resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        ),
        "give itself files": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (9, 9)),
    }
    done = []
    for name, attempt in attempts.items():
        try:
            attempt()
        except (OSError, KeyError, ValueError):
            continue
        done.append(name)
    connection.send(FrameKind.PART, json.dumps(done).encode())
    connection.send(FrameKind.END)


MODES = {
    mode.__name__: mode
    for mode in (
        hang, hang_in_c, sleep, grow, crash, abort, leave, read_forever, read_too_much,
        send_garbage, send_forever, send_half, fail_oddly, try_everything,
    )
}  # fmt: skip


def serve(connection: Connection, time_s: int) -> None:
    _kind, body = connection.receive()
    mode = json.loads(body)["format"]
    while True:
        _kind, body = connection.receive()
        limit_time(time_s)
        if mode == "idle":
            connection.send(FrameKind.PART, body)
            connection.send(FrameKind.END)
        else:
            MODES[mode](connection)


if __name__ == "__main__":
    run_helper(sys.argv[1:], serve)
