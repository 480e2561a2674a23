"""RTMP and RTMPE viewers that do not look at what they receive: a load generator.

``python -m bench.rtmp.rtmpe_viewers PLAN`` prints a ``Result``. Both kinds of viewers send the
same commands without reading the responses, and let the kernel discard what comes (MSG_TRUNC,
tcp(7)), so that they cost the same and need no RC4 for gigabytes. They send no acknowledgements.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import random
import select
import socket
import sys
import time
from dataclasses import asdict, dataclass

from cryptography.hazmat.decrepit.ciphers.algorithms import ARC4
from cryptography.hazmat.primitives.ciphers import Cipher

from bench.loads import rtmp_wire as wire
from bench.loads.load import run_load
from bench.machine import cpu_s, raise_open_files
from bench.servers.server import LOOPBACK

DISCARD_BYTES = 8 << 20
POLL_S = 0.05
TIMEOUT_S = 15.0
PLAYER = b"Genuine Adobe Flash Player 001"
TAIL = bytes.fromhex("f0eec24a8068bee82e00d0d1029e7e576eec5d2d29806fab93b8e636cfeb31ae")
KEY_BYTES, DIGEST_BYTES = 128, 32
# With zeros in C1's offsets, its key is at the first place and its digest too (second block).
C1_KEY, C1_DIGEST = 8, 776
PRIME = int(
    "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DD"
    "EF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED"
    "EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE65381FFFFFFFFFFFFFFFF",
    16,
)
EXPONENT = 3**150


@dataclass(frozen=True, slots=True)
class Plan:
    """``viewers`` begin at random positions within ``latest_start_ms``; after ``settle_s``,
    ``seconds`` are measured."""

    port: int
    application: str
    name: str
    is_encrypted: bool
    viewers: int
    settle_s: float
    seconds: float
    latest_start_ms: int
    buffer_ms: int
    server_pid: int
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Result:
    """Of the measured time; ``broken`` viewers were lost at any time."""

    bytes: int
    seconds: float
    server_cpu_s: float
    broken: int


def watch(plan: Plan) -> Result:
    """Runs the viewers in a separate process."""
    limit_s = plan.settle_s + plan.seconds
    return Result(**run_load("bench.rtmp.rtmpe_viewers", asdict(plan), limit_s=limit_s))


def _connect(plan: Plan, start_ms: int) -> socket.socket:
    """A viewer that plays from ``start_ms``."""
    connection = socket.create_connection((LOOPBACK, plan.port), TIMEOUT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    commands = (
        wire.connect(plan.application, plan.port)
        + wire.create_stream()
        + wire.play(1, plan.name, start_ms, plan.buffer_ms)
    )
    if plan.is_encrypted:
        connection.sendall(b"\x06" + _c1())
        s1 = _receive(connection, 1 + 2 * wire.HANDSHAKE_BYTES)[1 : 1 + wire.HANDSHAKE_BYTES]
        connection.sendall(_c2(s1) + _encrypt(s1, commands))
    else:
        connection.sendall(wire.hello())
        response = _receive(connection, 1 + 2 * wire.HANDSHAKE_BYTES)
        connection.sendall(response[1 : 1 + wire.HANDSHAKE_BYTES] + commands)
    connection.setblocking(False)
    return connection


def _receive(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        received = connection.recv(count - len(data))
        if not received:
            raise ConnectionError("the server closed the connection")
        data += received
    return data


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, hashlib.sha256)


def _c1() -> bytes:
    """A signed C1 of the second block, with this viewer's public key."""
    key = pow(2, EXPONENT, PRIME).to_bytes(KEY_BYTES)
    packet = bytes((0, 0, 0, 0, 128, 0, 3, 2)) + key
    packet += bytes(wire.HANDSHAKE_BYTES - len(packet))
    before, after = packet[:C1_DIGEST], packet[C1_DIGEST + DIGEST_BYTES :]
    return before + _hmac(PLAYER, before + after) + after


def _c2(s1: bytes) -> bytes:
    place = C1_DIGEST + sum(s1[772:776]) % 728
    digest = s1[place : place + DIGEST_BYTES]
    packet = bytes(wire.HANDSHAKE_BYTES - DIGEST_BYTES)
    return packet + _hmac(_hmac(PLAYER + TAIL, digest), packet)


def _encrypt(s1: bytes, data: bytes) -> bytes:
    place = C1_KEY + sum(s1[768:772]) % 632
    server_key = s1[place : place + KEY_BYTES]
    shared = pow(int.from_bytes(server_key), EXPONENT, PRIME).to_bytes(KEY_BYTES)
    cipher = Cipher(ARC4(_hmac(shared, server_key)[:16]), None).encryptor()
    cipher.update(bytes(wire.HANDSHAKE_BYTES))
    return cipher.update(data)


class _Crowd:
    """All viewers, one epoll."""

    def __init__(self, plan: Plan) -> None:
        source = random.Random(plan.seed)
        self._epoll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._discarded = bytearray(DISCARD_BYTES)  # never written: the kernel only counts
        self.bytes = 0
        self.broken = 0
        for _ in range(plan.viewers):
            connection = _connect(plan, source.randint(1, plan.latest_start_ms))
            self._sockets[connection.fileno()] = connection
            self._epoll.register(connection, select.EPOLLIN)
            self.run(time.monotonic())

    def run(self, until_s: float) -> None:
        """Receives until monotonic time ``until_s``, and at least once."""
        while True:
            for descriptor, _ in self._epoll.poll(0):
                self._discard(descriptor)
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                return
            time.sleep(min(POLL_S, left_s))

    def _discard(self, descriptor: int) -> None:
        connection = self._sockets[descriptor]
        try:
            count = connection.recv_into(self._discarded, DISCARD_BYTES, socket.MSG_TRUNC)
        except OSError:
            count = 0
        self.bytes += count
        if not count:
            self._epoll.unregister(descriptor)
            self._sockets.pop(descriptor).close()
            self.broken += 1


def _watch(plan: Plan) -> Result:
    raise_open_files()
    crowd = _Crowd(plan)
    crowd.run(time.monotonic() + plan.settle_s)
    began_s, server_s, before = time.monotonic(), cpu_s(plan.server_pid), crowd.bytes
    crowd.run(began_s + plan.seconds)
    return Result(
        crowd.bytes - before,
        time.monotonic() - began_s,
        cpu_s(plan.server_pid) - server_s,
        crowd.broken,
    )


if __name__ == "__main__":
    print(json.dumps(asdict(_watch(Plan(**json.loads(sys.argv[1]))))))
