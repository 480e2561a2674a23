"""One RTMP viewer that parses all messages: for first frames, seeks and complete plays.

It reads a blocking connection and reassembles messages. ``rtmp_viewers`` has many viewers.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bench.loads import rtmp_wire as wire
from bench.servers.server import LOOPBACK, BenchError

BUFFER_MS = 3_000
WHOLE_TITLE_MS = 36_000_000
"""A client buffer so large that the whole title is sent at line rate, as for rtmpdump."""

_RECEIVE_BYTES = 256 << 10
_FLV_TAG_HEADER_BYTES = 11
_STREAM_EOF = 1  # §7.1.7, user control event


@dataclass(frozen=True, slots=True)
class Message:
    """A complete message. ``arrived_s`` is the monotonic time of its last byte."""

    kind: int
    timestamp_ms: int
    body: bytes
    arrived_s: float

    @property
    def status(self) -> str:
        """The code of an onStatus, "" for other messages."""
        if self.kind != wire.COMMAND:
            return ""
        values = wire.read_amf(self.body)
        information = values[3] if values[0] == "onStatus" and len(values) > 3 else None
        return str(information.get("code", "")) if isinstance(information, dict) else ""

    @property
    def ends_stream(self) -> bool:
        """Whether this is the event StreamEOF."""
        return self.kind == wire.USER_CONTROL and self.body[:2] == _STREAM_EOF.to_bytes(2, "big")

    @property
    def has_video_frame(self) -> bool:
        """Whether it has a coded picture, as a message or in an aggregate's tags."""
        if self.kind == wire.VIDEO:
            return len(self.body) > 2 and not wire.is_codec_header(wire.VIDEO, self.body)
        if self.kind != wire.AGGREGATE:
            return False
        at = 0
        while at + _FLV_TAG_HEADER_BYTES + 2 < len(self.body):
            size = int.from_bytes(self.body[at + 1 : at + 4], "big")
            start = self.body[at + _FLV_TAG_HEADER_BYTES : at + _FLV_TAG_HEADER_BYTES + 2]
            if self.body[at] == wire.VIDEO and not wire.is_codec_header(wire.VIDEO, start):
                return True
            at += _FLV_TAG_HEADER_BYTES + size + 4
        return False


class Viewer:
    """A connection after play; ``messages`` reads it. A timeout raises BenchError."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._data = bytearray()
        self._headers: dict[int, wire.Header] = {}
        self._chunk_bytes = wire.DEFAULT_CHUNK_BYTES
        self._received_bytes = 0
        self._acknowledged_bytes = 0

    def send(self, data: bytes) -> None:
        """Sends raw bytes."""
        self._socket.sendall(data)

    def read_bytes(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        while len(self._data) < count:
            self._receive()
        data = bytes(self._data[:count])
        del self._data[:count]
        return data

    def messages(self, *, until_s: float) -> Iterator[Message]:
        """Yields messages when complete. Raises BenchError at monotonic time ``until_s``."""
        while True:
            header = wire.read_header(self._data, 0, len(self._data), self._headers)
            if header is None:
                self._receive(until_s)
                continue
            self._headers[header.chunk_stream] = header
            end = header.size + wire.size_on_the_wire(header, self._chunk_bytes)
            while len(self._data) < end:
                self._receive(until_s)
            body = wire.body_of(header, self._data[header.size : end], self._chunk_bytes)
            del self._data[:end]
            if header.kind == wire.SET_CHUNK_SIZE:
                self._chunk_bytes = int.from_bytes(body, "big")
            yield Message(header.kind, header.timestamp_ms, body, time.monotonic())

    def _receive(self, until_s: float | None = None) -> None:
        if until_s is not None:
            self._socket.settimeout(max(0.001, until_s - time.monotonic()))
        try:
            data = self._socket.recv(_RECEIVE_BYTES)
        except TimeoutError as error:
            raise BenchError("nothing more came in time") from error
        except OSError as error:
            raise BenchError(f"connection lost: {error}") from error
        if not data:
            raise BenchError("the server closed the connection")
        self._data += data
        self._received_bytes += len(data)
        if self._received_bytes - self._acknowledged_bytes >= wire.ACKNOWLEDGE_EVERY_BYTES:
            self._acknowledged_bytes = self._received_bytes
            self.send(wire.acknowledgement(self._received_bytes))


@contextmanager
def playing(
    port: int, application: str, name: str, *, buffer_ms: int = BUFFER_MS, timeout_s: float = 15.0
) -> Iterator[Viewer]:
    """Connects and plays ``name`` from its start. Raises BenchError when refused or too slow."""
    until_s = time.monotonic() + timeout_s
    try:
        connection = socket.create_connection((LOOPBACK, port), timeout_s)
    except OSError as error:
        raise BenchError(f"no RTMP connection: {error}") from error
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        viewer = Viewer(connection)
        viewer.send(wire.hello())
        response = viewer.read_bytes(1 + 2 * wire.HANDSHAKE_BYTES)
        viewer.send(response[1 : 1 + wire.HANDSHAKE_BYTES] + wire.connect(application, port))
        _result(viewer, until_s)
        viewer.send(wire.create_stream())
        stream_id = int(_result(viewer, until_s))
        viewer.send(wire.play(stream_id, name, -2000, buffer_ms))
        yield viewer


def play_whole(port: int, application: str, name: str, *, timeout_s: float = 120.0) -> int:
    """Plays a title to its end at line rate, which warms a cache; returns its media bytes."""
    until_s = time.monotonic() + timeout_s
    media_bytes = 0
    with playing(port, application, name, buffer_ms=WHOLE_TITLE_MS) as viewer:
        for message in viewer.messages(until_s=until_s):
            if message.kind in wire.MEDIA:
                media_bytes += len(message.body)
            if message.ends_stream or message.status == "NetStream.Play.Stop":
                break
            raise_if_refused(message)
    return media_bytes


def raise_if_refused(message: Message) -> None:
    """Raises BenchError for an onStatus that refuses the title."""
    if message.status in ("NetStream.Play.StreamNotFound", "NetStream.Play.Failed"):
        raise BenchError(message.status)


def _result(viewer: Viewer, until_s: float) -> float:
    """The number in the next _result, 0 without one."""
    for message in viewer.messages(until_s=until_s):
        if message.kind != wire.COMMAND:
            continue
        values = wire.read_amf(message.body)
        if values[0] == "_error":
            raise BenchError(f"refused: {values[-1]}")
        if values[0] == "_result":
            return values[-1] if isinstance(values[-1], float) else 0.0
    raise AssertionError("messages never ends by itself")
