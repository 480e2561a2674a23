"""RTMP and RTMPE viewers that do not look at what they receive: a load generator.

``python -m bench.rtmp.rtmpe_viewers PLAN`` prints a ``DiscardingResult``. Both kinds of viewers
send the same commands without reading the responses, and let the kernel discard what comes, so that
they cost the same and need no RC4 for gigabytes. They send no acknowledgements.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import socket
import sys
from dataclasses import asdict, dataclass

from cryptography.hazmat.decrepit.ciphers.algorithms import ARC4
from cryptography.hazmat.primitives.ciphers import Cipher

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(ViewersPlan):
    """As of all such viewers. ``is_encrypted``: RTMPE."""

    is_encrypted: bool


def watch(plan: Plan) -> DiscardingResult:
    """Runs the viewers in a separate process."""
    return DiscardingResult(
        **run_load("bench.rtmp.rtmpe_viewers", asdict(plan), limit_s=plan.limit_s)
    )


class _Viewer:
    """A viewer that has sent its commands; from now on it only receives."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection

    def receive(self, discarded: bytearray) -> tuple[int, int]:
        count = self.socket.recv_into(discarded, DISCARD_BYTES, socket.MSG_TRUNC)
        if not count:
            raise LostError
        return count, 0


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


def _watch(plan: Plan) -> DiscardingResult:
    return watch_all(plan, lambda start_ms: _Viewer(_connect(plan, start_ms)))


if __name__ == "__main__":
    print(json.dumps(asdict(_watch(Plan(**json.loads(sys.argv[1]))))))
