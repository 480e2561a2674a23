"""A small RTMP client that plays, seeks and pauses, and records every message it receives.

It has the simple handshake (RTMP 1.0 §5.2) and commands, and sends no acknowledgements. It splits
aggregate messages (§7.1.6) itself, so that the edge's code does not check its own output. It reads
only on request, so that a test can be a slow reader.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from streamedge.delivery.rtmp.protocol import amf0
from streamedge.delivery.rtmp.protocol.amf_values import AmfValue
from streamedge.delivery.rtmp.protocol.chunks import ChunkReader, Message, encode_message
from streamedge.delivery.rtmp.protocol.messages import UserControlEvent
from tests.support.patience import PATIENCE_S
from tests.support.process.edge_process import EdgeProcess, pause

HANDSHAKE_BYTES = 1536
MESSAGE_LIMIT_BYTES = (1 << 24) - 1
HUGE_BUFFER_MS = 36_000_000
AUDIO, VIDEO, DATA, COMMAND, AGGREGATE, USER_CONTROL = 8, 9, 18, 20, 22, 4
SET_BUFFER_LENGTH, PING_REQUEST, PING_RESPONSE = 3, 6, 7
MEDIA = (AUDIO, VIDEO, AGGREGATE)
_TAG_HEADER_BYTES = 11
FLASH_VERSION = "WIN 32,0,0,465"  # of a Flash Player


class Frame(NamedTuple):
    """The media of one tag as a viewer receives it."""

    kind: int
    time_ms: int
    body: bytes

    @property
    def is_header(self) -> bool:
        """Whether the tag only configures a decoder (FLV 10.1 §E.4.2, §E.4.3; E-RTMP v2)."""
        if self.kind == VIDEO:
            if self.body[0] & 0x80:
                return self.body[0] & 0x0F == 0
            return self.body[0] & 0x0F == 7 and self.body[1] == 0
        if self.body[0] >> 4 == 9:
            return self.body[0] & 0x0F == 0
        return self.body[0] >> 4 == 10 and self.body[1] == 0

    @property
    def is_keyframe(self) -> bool:
        return self.kind == VIDEO and self.body[0] >> 4 & 0x07 == 1 and not self.is_header


class ClosedError(Exception):
    """The server closed the connection."""


def frames(messages: Iterable[Message], stream_id: int = 1) -> list[Frame]:
    """The media in a stream's messages, with codec headers; aggregates are split."""
    result: list[Frame] = []
    for message in messages:
        if message.stream_id != stream_id:
            continue
        if message.type_id in (AUDIO, VIDEO):
            result.append(Frame(message.type_id, message.timestamp_ms, message.payload))
        elif message.type_id == AGGREGATE:
            result += _split(message)
    return result


def samples(messages: Iterable[Message], stream_id: int = 1) -> list[Frame]:
    """The media without codec headers."""
    return [frame for frame in frames(messages, stream_id) if not frame.is_header]


def _split(message: Message) -> list[Frame]:
    result = []
    at, first_ms = 0, None
    body = message.payload
    while at < len(body):
        size = int.from_bytes(body[at + 1 : at + 4])
        time_ms = int.from_bytes(body[at + 4 : at + 7]) | body[at + 7] << 24
        first_ms = time_ms if first_ms is None else first_ms
        end = at + _TAG_HEADER_BYTES + size
        assert int.from_bytes(body[end : end + 4]) == _TAG_HEADER_BYTES + size
        if body[at] in (AUDIO, VIDEO):
            result.append(
                Frame(
                    body[at],
                    message.timestamp_ms + time_ms - first_ms,
                    body[at + _TAG_HEADER_BYTES : end],
                )
            )
        at = end + 4
    assert at == len(body)
    return result


def message_name(message: Message) -> str:
    """A short name: a status code, a command's name, a control event or a media type."""
    if message.type_id in (COMMAND, DATA):
        values = amf0.decode_all(message.payload)
        information = values[-1]
        if isinstance(information, dict) and isinstance(information.get("code"), str):
            return str(information["code"])
        return str(values[0])
    if message.type_id == USER_CONTROL:
        return UserControlEvent(int.from_bytes(message.payload[:2])).name
    return {AUDIO: "audio", VIDEO: "video", AGGREGATE: "aggregate"}.get(
        message.type_id, f"type {message.type_id}"
    )


def information(message: Message) -> dict[str, Any]:
    """The information object: the last value of a command or data message."""
    value = amf0.decode_all(message.payload)[-1]
    assert isinstance(value, dict)
    return value


class RtmpClient:
    """A client made by ``open_client``; ``messages`` holds all messages received so far."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.messages: list[Message] = []
        self._unread: list[Message] = []
        self._reader = reader
        self._writer = writer
        self._chunks = ChunkReader(message_limit_bytes=MESSAGE_LIMIT_BYTES)
        self._transaction = 1.0
        self._encrypt: Callable[[bytes], bytes] | None = None
        self._decrypt: Callable[[bytes], bytes] | None = None
        host, port = writer.get_extra_info("sockname")
        self._address = f"{host}:{port}"

    @property
    def address(self) -> str:
        """The client's address in the edge's log."""
        return self._address

    @property
    def lost(self) -> bool:
        """Whether the connection has been lost."""
        return self._writer.is_closing()

    # Sending

    def send(self, data: bytes) -> None:
        """Sends raw bytes."""
        self._writer.write(data if self._encrypt is None else self._encrypt(data))

    def encrypt_with(
        self, encrypt: Callable[[bytes], bytes], decrypt: Callable[[bytes], bytes]
    ) -> None:
        """Encrypts what is sent from now on, and decrypts what is received."""
        self._encrypt, self._decrypt = encrypt, decrypt

    def command(
        self, name: str, *values: AmfValue, stream_id: int = 0, transaction: float = 0.0
    ) -> None:
        payload = amf0.encode(name, transaction, *values)
        self.send(encode_message(Message(COMMAND, stream_id, 0, payload, 3), 128))

    def control(self, event: int, *values: int) -> None:
        payload = struct.pack(f">H{len(values)}I", event, *values)
        self.send(encode_message(Message(USER_CONTROL, 0, 0, payload, 2), 128))

    def buffer(self, buffer_ms: int, stream_id: int = 1) -> None:
        """SetBufferLength."""
        self.control(SET_BUFFER_LENGTH, stream_id, buffer_ms)

    def play(self, name: str, *arguments: AmfValue, stream_id: int = 1) -> None:
        """Sends play; ``arguments`` are start, duration and reset."""
        self.command("play", None, name, *arguments, stream_id=stream_id)

    def play2(self, name: str, transition: str, *, stream_id: int = 1, **options: AmfValue) -> None:
        """Sends play2; ``options`` are those of NetStreamPlayOptions."""
        values: dict[str, AmfValue] = {
            "streamName": name, "transition": transition, "start": -2.0, "len": -1.0, **options
        }  # fmt: skip
        self.command("play2", None, values, stream_id=stream_id)

    def seek(self, time_ms: float, stream_id: int = 1) -> None:
        self.command("seek", None, float(time_ms), stream_id=stream_id)

    def pause(self, paused: bool, time_ms: float, stream_id: int = 1) -> None:
        self.command("pause", None, paused, float(time_ms), stream_id=stream_id)

    async def call(self, name: str, *values: AmfValue) -> AmfValue:
        """Calls a command and returns its _result. Raises KeyError with the code of an _error."""
        self._transaction += 1
        self.command(name, None, *values, transaction=self._transaction)

        def is_response(message: Message) -> bool:
            if message.type_id != COMMAND:
                return False
            values = amf0.decode_all(message.payload)
            return values[0] in ("_result", "_error") and values[1] == self._transaction

        response = amf0.decode_all((await self.until(is_response))[-1].payload)
        if response[0] == "_error":
            assert isinstance(response[-1], dict)
            raise KeyError(response[-1]["code"])
        return response[-1]

    async def create_stream(self) -> int:
        stream_id = await self.call("createStream")
        assert isinstance(stream_id, float)
        return int(stream_id)

    # Receiving

    async def until(self, condition: Callable[[Message], bool]) -> list[Message]:
        """Reads until ``condition`` holds for a message; returns all messages of this call.

        Raises ClosedError, and TimeoutError after PATIENCE_S.
        """
        start = len(self.messages)
        async with asyncio.timeout(PATIENCE_S):
            while True:
                message = await self._next()
                self.messages.append(message)
                if condition(message):
                    return self.messages[start:]

    async def until_named(self, *words: str) -> list[Message]:
        """Reads until a message has one of these names (``message_name``)."""
        return await self.until(lambda message: message_name(message) in words)

    async def read_pending(self) -> list[Message]:
        """Reads all responses to what was sent before.

        It pings twice, because the edge may answer a ping before the command just ahead of it.
        """
        messages = await self._ping() + await self._ping()
        return [message for message in messages if message_name(message) != "PING_RESPONSE"]

    async def _ping(self) -> list[Message]:
        self._transaction += 1
        stamp = int(self._transaction)
        self.control(PING_REQUEST, stamp)
        response = struct.pack(">HI", PING_RESPONSE, stamp)
        return await self.until(lambda message: message.payload == response)

    async def closed(self) -> None:
        """Reads until the server has closed."""
        try:
            await self.until(lambda message: False)
        except ClosedError:
            return

    async def _next(self) -> Message:
        while not self._unread:
            try:
                data = await self._reader.read(1 << 16)
            except ConnectionError as exc:
                raise ClosedError from exc
            if not data:
                raise ClosedError
            if self._decrypt is not None:
                data = self._decrypt(data)
            self._unread += self._chunks.receive_data(data)
        return self._unread.pop(0)

    async def handshake(self) -> None:
        random_bytes = bytes(8) + bytes(range(256)) * 6
        self.send(b"\x03" + random_bytes[:HANDSHAKE_BYTES])
        response = await self._reader.readexactly(1 + 2 * HANDSHAKE_BYTES)
        self.send(response[1 : 1 + HANDSHAKE_BYTES])

    async def connect(self, app: str, **properties: AmfValue) -> dict[str, Any]:
        """Sends connect; returns the information object. Raises KeyError with its code."""
        properties = {"flashVer": FLASH_VERSION, **properties}
        self.command("connect", {"app": app, **properties}, transaction=1.0)
        messages = await self.until_named(
            "NetConnection.Connect.Success",
            "NetConnection.Connect.InvalidApp",
            "NetConnection.Connect.Rejected",
        )
        status = information(messages[-1])
        if status["code"] != "NetConnection.Connect.Success":
            raise KeyError(status["code"], status.get("application"))
        return status


def await_line(edge: EdgeProcess, event: str, client: RtmpClient) -> dict[str, Any]:
    """Waits for a log line of ``event`` about a client; returns the newest."""
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        for line in reversed(edge.log(event)):
            if line["client"] == client.address:
                return dict(line)
        pause()
    raise TimeoutError(f"no line {event!r} of {client.address}")


def metric(edge: EdgeProcess, name: str) -> float:
    """A metric's value, 0 when it has none yet."""
    for line in edge.admin("/metrics").decode().splitlines():
        line_name, _, value = line.rpartition(" ")
        if line_name == name:
            return float(value)
    return 0.0


def await_metrics(edge: EdgeProcess, expected: dict[str, float]) -> None:
    """Waits until metrics have these values; workers publish them every second."""
    deadline_s = time.monotonic() + PATIENCE_S
    while {name: metric(edge, name) for name in expected} != expected:
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{ {name: metric(edge, name) for name in expected} }")
        pause()


@asynccontextmanager
async def open_raw_client(port: int, host: str = "127.0.0.1") -> AsyncIterator[RtmpClient]:
    """A client after the handshake."""
    reader, writer = await asyncio.open_connection(host, port)
    client = RtmpClient(reader, writer)
    try:
        await client.handshake()
        yield client
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)


@asynccontextmanager
async def open_client(
    port: int, app: str = "cfx/st", *, buffer_ms: int | None = HUGE_BUFFER_MS, **more: AmfValue
) -> AsyncIterator[RtmpClient]:
    """A client with stream 1; by default its buffer is so large that all media come at once."""
    async with open_raw_client(port) as client:
        await client.connect(app, **{"tcUrl": f"rtmp://127.0.0.1:{port}/{app}", **more})
        assert await client.create_stream() == 1
        if buffer_ms is not None:
            client.buffer(buffer_ms)
        yield client
