"""Thousands of RTMP viewers in one process: the load generator of the RTMP benchmarks.

``python -m bench.rtmp.rtmp_viewers PLAN`` prints a ``Result``. It reads headers and lets the kernel
discard bodies (MSG_TRUNC, tcp(7)), so that one core can receive gigabytes per second. Therefore it
assumes that the chunks of a message are contiguous; a viewer whose headers cannot be parsed is
closed and counts as broken. ``media_clock`` decides which viewers are late.
"""

from __future__ import annotations

import json
import random
import select
import socket
import sys
import time
from dataclasses import asdict, dataclass
from enum import Enum, auto

from bench.loads import rtmp_wire as wire
from bench.loads.load import run_load
from bench.loads.media_clock import MediaClock
from bench.loads.viewers_plan import ViewersPlan
from bench.machine import cpu_s, pss_bytes, raise_open_files
from bench.servers.server import LOOPBACK

DISCARD_FROM_BYTES = 16 << 10
"""The kernel discards a rest of a body of at least this size; less is cheaper to copy."""
DISCARD_BYTES = 8 << 20
RECEIVE_BYTES = 64 << 10
READ_EVERY_S = 0.005
"""The interval of reads. A wake-up for each send() of a chunk would cost the load generator too
much. With 50 ms the unread bytes of 5,000 viewers exceed tcp_mem; then the kernel shrinks all
windows, and all viewers are late whatever the server does."""
PEEK_BYTES = 2
"""Enough to distinguish a codec configuration from a frame."""

_KNOWN_KINDS = frozenset({2, 3, 4, 5, 6, wire.DATA, wire.COMMAND})


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(ViewersPlan):
    """As of all viewers, which arrive at ``ramp_per_s``; the last one is followed by
    ``settle_s``."""

    ramp_per_s: float


@dataclass(frozen=True, slots=True)
class Result:
    """``bytes`` to ``load_cpu_s`` cover the measured time; late, broken and lags the whole run."""

    viewers: int
    late: int
    broken: int
    worst_lag_s: float
    median_lag_s: float
    bytes: int
    seconds: float
    server_cpu_s: float
    load_cpu_s: float
    idle_pss_bytes: int
    loaded_pss_bytes: int


def watch(plan: Plan) -> Result:
    """Runs the viewers in a separate process."""
    limit_s = plan.viewers / plan.ramp_per_s + plan.limit_s
    return Result(**run_load("bench.rtmp.rtmp_viewers", asdict(plan), limit_s=limit_s))


class _State(Enum):
    HANDSHAKE = auto()
    CONNECT = auto()
    CREATE_STREAM = auto()
    PLAY = auto()


class _LostError(Exception):
    """A viewer's data is invalid, it was refused, or its connection is lost."""


class _Viewer:
    """One viewer's connection and parser."""

    __slots__ = (
        "_acknowledge_at",
        "_chunk_bytes",
        "_has_started",
        "_headers",
        "_is_media",
        "_latest_ms",
        "_pending",
        "_plan",
        "_skip_bytes",
        "_start_ms",
        "_state",
        "clock",
        "received_bytes",
        "socket",
    )

    def __init__(self, plan: Plan, start_ms: int, now: float) -> None:
        self._plan = plan
        self._start_ms = start_ms
        self._state = _State.HANDSHAKE
        self._headers: dict[int, wire.Header] = {}
        self._chunk_bytes = wire.DEFAULT_CHUNK_BYTES
        self._is_media = False  # the latest message
        self._has_started = False
        self._latest_ms = -1  # timestamp of the latest media message of this read
        self._pending = b""
        self._skip_bytes = 0  # of the latest message, still to come
        self._acknowledge_at = wire.ACKNOWLEDGE_EVERY_BYTES
        self.clock = MediaClock(plan.buffer_ms / 1000, now)
        self.received_bytes = 0
        self.socket = socket.create_connection((LOOPBACK, plan.port))
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.send(wire.hello())

    def receive(self, data: bytearray, view: memoryview, discarded: bytearray, now: float) -> bool:
        """Reads once from the socket into buffers that all viewers share; True: more is ready.

        Raises _LostError; OSError for a lost connection.
        """
        if self._skip_bytes >= DISCARD_FROM_BYTES:
            limit = min(self._skip_bytes, DISCARD_BYTES)
            count = self.socket.recv_into(discarded, limit, socket.MSG_TRUNC)
            self._skip_bytes -= count
            if not self._skip_bytes and self._is_media:
                self.clock.completed(now)
        else:
            pending = len(self._pending)
            data[:pending] = self._pending
            limit = len(data) - pending
            count = self.socket.recv_into(view[pending:])
            self._feed(data, pending + count, now)
        if not count:
            raise _LostError("the server closed the connection")
        self.received_bytes += count
        if self.received_bytes >= self._acknowledge_at:
            self._acknowledge_at += wire.ACKNOWLEDGE_EVERY_BYTES
            self.socket.send(wire.acknowledgement(self.received_bytes))
        return count == limit

    def _feed(self, data: bytearray, end: int, now: float) -> None:
        """Parses ``data[:end]``, which begins with the pending bytes."""
        at = 0
        self._pending = b""
        while at < end:
            if self._skip_bytes:
                step = min(self._skip_bytes, end - at)
                self._skip_bytes -= step
                if not self._skip_bytes and self._is_media:
                    self.clock.completed(now)
            elif self._state is _State.HANDSHAKE:
                step = self._read_handshake(data, at, end)
            else:
                step = self._read_header(data, at, end, now)
            if not step:
                self._pending = bytes(data[at:end])
                break
            at += step
        if self._latest_ms >= 0:
            self.clock.began(self._latest_ms, now)
            self._latest_ms = -1

    def _read_handshake(self, data: bytearray, at: int, end: int) -> int:
        size = 1 + 2 * wire.HANDSHAKE_BYTES
        if end - at < size:
            return 0
        self._state = _State.CONNECT
        response = bytes(data[at + 1 : at + 1 + wire.HANDSHAKE_BYTES])
        self.socket.send(response + wire.connect(self._plan.application, self._plan.port))
        return size

    def _read_header(self, data: bytearray, at: int, end: int, now: float) -> int:
        """Parses a header and the needed part of the body; 0: more bytes are needed."""
        try:
            header = wire.read_header(data, at, end, self._headers)
        except ValueError as error:
            raise _LostError(str(error)) from error
        if header is None:
            return 0
        rest = wire.size_on_the_wire(header, self._chunk_bytes)
        parsed_bytes = self._bytes_to_parse(header, rest)
        body = at + header.size
        if end < body + parsed_bytes:
            return 0
        self._headers[header.chunk_stream] = header
        self._skip_bytes = rest - parsed_bytes
        self._is_media = header.kind in wire.MEDIA
        if self._is_media:
            self._media_began(header, data[body : body + parsed_bytes], now)
        elif parsed_bytes:
            self._on_command(
                header, wire.body_of(header, data[body : body + rest], self._chunk_bytes)
            )
        elif header.kind not in _KNOWN_KINDS:
            raise _LostError(f"message type {header.kind}")
        return header.size + parsed_bytes

    def _bytes_to_parse(self, header: wire.Header, rest: int) -> int:
        """How many bytes of the body to parse; of media, those that decide if the clock starts."""
        if self._has_started:
            return rest if header.kind == wire.SET_CHUNK_SIZE else 0
        if header.kind in wire.MEDIA:
            return min(rest, PEEK_BYTES) if header.kind != wire.AGGREGATE else 0
        return rest if header.kind in (wire.SET_CHUNK_SIZE, wire.COMMAND) else 0

    def _media_began(self, header: wire.Header, start: bytearray, now: float) -> None:
        """Updates the clock for the first message of a read; ``_feed`` does it for the last."""
        if not self._has_started:
            if len(start) == PEEK_BYTES and wire.is_codec_header(header.kind, start):
                return
            self._has_started = True
        if self._latest_ms < 0:
            self.clock.began(header.timestamp_ms, now)
        self._latest_ms = header.timestamp_ms

    def _on_command(self, header: wire.Header, body: bytes) -> None:
        """Handles the server's messages before the media."""
        if header.kind == wire.SET_CHUNK_SIZE:
            self._chunk_bytes = int.from_bytes(body, "big")
            return
        if b"NetStream.Play.StreamNotFound" in body or b"NetStream.Play.Failed" in body:
            raise _LostError("the server refused to play")
        name, _, *values = wire.read_amf(body)
        if name == "_error":
            raise _LostError("the server refused a command")
        if name != "_result":
            return
        if self._state is _State.CONNECT:
            self._state = _State.CREATE_STREAM
            self.socket.send(wire.create_stream())
        elif self._state is _State.CREATE_STREAM:
            self._state = _State.PLAY
            stream_id = int(values[-1]) if isinstance(values[-1], float) else 1
            self.socket.send(
                wire.play(stream_id, self._plan.name, self._start_ms, self._plan.buffer_ms)
            )


class _Crowd:
    """All viewers, one epoll."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._epoll = select.epoll()
        self._viewers: dict[int, _Viewer] = {}
        self._random = random.Random(plan.seed)
        self._data = bytearray(RECEIVE_BYTES)
        self._view = memoryview(self._data)
        self._discarded = bytearray(DISCARD_BYTES)  # never written: the kernel only counts
        self._lost_bytes = 0
        self.broken = 0

    def arrive(self, now: float) -> None:
        """Starts another viewer."""
        start_ms = self._random.randint(1, self._plan.latest_start_ms)
        try:
            viewer = _Viewer(self._plan, start_ms, now)
        except OSError:
            self.broken += 1
            return
        self._viewers[viewer.socket.fileno()] = viewer
        self._epoll.register(viewer.socket, select.EPOLLIN)

    def run(self, until_s: float) -> None:
        """Receives until monotonic time ``until_s``."""
        while (now := time.monotonic()) < until_s:
            for descriptor, _ in self._epoll.poll(0, self._plan.viewers):
                viewer = self._viewers[descriptor]
                try:
                    while viewer.receive(self._data, self._view, self._discarded, time.monotonic()):
                        pass
                except BlockingIOError:
                    continue
                except (_LostError, OSError) as error:
                    self._lose(descriptor, error)
            next_s = min(now + READ_EVERY_S, until_s)
            time.sleep(max(0.0, next_s - time.monotonic()))

    def lags_s(self, now: float) -> list[float]:
        """The largest lag of each connected viewer."""
        return [viewer.clock.lag_s(now) for viewer in self._viewers.values()]

    def received_bytes(self) -> int:
        return self._lost_bytes + sum(one.received_bytes for one in self._viewers.values())

    def _lose(self, descriptor: int, error: Exception) -> None:
        viewer = self._viewers.pop(descriptor)
        viewer.socket.close()
        self._lost_bytes += viewer.received_bytes
        self.broken += 1
        if self.broken == 1:  # only the first; there may be thousands
            print(f"viewer lost: {error}", file=sys.stderr)


def _watch(plan: Plan) -> Result:
    raise_open_files()
    idle_pss_bytes = pss_bytes(plan.server_pid)
    crowd = _Crowd(plan)
    began_s = time.monotonic()
    for count in range(plan.viewers):
        crowd.run(began_s + count / plan.ramp_per_s)
        crowd.arrive(time.monotonic())
    crowd.run(time.monotonic() + plan.settle_s)
    measured_s, server_s, load_s = time.monotonic(), cpu_s(plan.server_pid), time.process_time()
    before = crowd.received_bytes()
    crowd.run(measured_s + plan.seconds)
    now = time.monotonic()
    server_cpu_s, load_cpu_s = cpu_s(plan.server_pid) - server_s, time.process_time() - load_s
    lags_s = sorted(crowd.lags_s(now)) or [now - began_s]
    return Result(
        viewers=plan.viewers,
        late=sum(lag > 0 for lag in lags_s),
        broken=crowd.broken,
        worst_lag_s=lags_s[-1],
        median_lag_s=lags_s[len(lags_s) // 2],
        bytes=crowd.received_bytes() - before,
        seconds=now - measured_s,
        server_cpu_s=server_cpu_s,
        load_cpu_s=load_cpu_s,
        idle_pss_bytes=idle_pss_bytes,
        loaded_pss_bytes=pss_bytes(plan.server_pid),
    )


if __name__ == "__main__":
    print(json.dumps(asdict(_watch(Plan(**json.loads(sys.argv[1]))))))
