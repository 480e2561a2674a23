"""A small RTMP client that plays, seeks and pauses as told, and keeps every message it gets.

Owns the client's half of a connection: simple handshake (RTMP 1.0 §5.2), commands, acknowledgement
of nothing. It splits aggregate messages (§7.1.6) itself, so that what the edge packs is not judged
by the edge's own code. It reads only when asked to, so that a test can be a slow reader.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from streamedge.delivery.rtmp.protocol import amf0
from streamedge.delivery.rtmp.protocol.chunks import ChunkReader, Message, encode_message
from streamedge.delivery.rtmp.protocol.messages import UserControlEvent
from tests.support.edge_process import EdgeProcess, pause

HANDSHAKE_BYTES = 1536
MESSAGE_LIMIT_BYTES = (1 << 24) - 1
PATIENCE_S = 20.0  # a wait that lasts this long has failed
HUGE_BUFFER_MS = 36_000_000
AUDIO, VIDEO, DATA, COMMAND, AGGREGATE, USER_CONTROL = 8, 9, 18, 20, 22, 4
SET_BUFFER_LENGTH, PING_REQUEST, PING_RESPONSE = 3, 6, 7
MEDIA = (AUDIO, VIDEO, AGGREGATE)
_TAG_HEADER_BYTES = 11


class Frame(NamedTuple):
    """One tag's worth of media as a viewer gets it."""

    kind: int
    time_ms: int
    body: bytes

    @property
    def is_header(self) -> bool:
        """Whether it only configures a decoder (FLV 10.1 §E.4.2, §E.4.3; E-RTMP v2)."""
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
    """The media in messages of a stream, aggregates split, codec headers included."""
    found: list[Frame] = []
    for message in messages:
        if message.stream_id != stream_id:
            continue
        if message.type_id in (AUDIO, VIDEO):
            found.append(Frame(message.type_id, message.timestamp_ms, message.payload))
        elif message.type_id == AGGREGATE:
            found += _split(message)
    return found


def samples(messages: Iterable[Message], stream_id: int = 1) -> list[Frame]:
    """The media without codec headers."""
    return [frame for frame in frames(messages, stream_id) if not frame.is_header]


def _split(message: Message) -> list[Frame]:
    found = []
    at, first_ms = 0, None
    body = message.payload
    while at < len(body):
        size = int.from_bytes(body[at + 1 : at + 4])
        time_ms = int.from_bytes(body[at + 4 : at + 7]) | body[at + 7] << 24
        first_ms = time_ms if first_ms is None else first_ms
        end = at + _TAG_HEADER_BYTES + size
        assert int.from_bytes(body[end : end + 4]) == _TAG_HEADER_BYTES + size
        if body[at] in (AUDIO, VIDEO):
            found.append(
                Frame(
                    body[at],
                    message.timestamp_ms + time_ms - first_ms,
                    body[at + _TAG_HEADER_BYTES : end],
                )
            )
        at = end + 4
    assert at == len(body)
    return found


def message_name(message: Message) -> str:
    """A message in a word: a status code, a command's name, a control event or a media type."""
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
    """The last value of a command or data message, which must be an object."""
    value = amf0.decode_all(message.payload)[-1]
    assert isinstance(value, dict)
    return value


class RtmpClient:
    """Connected by ``open_client``; ``messages`` is all that has been received so far."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.messages: list[Message] = []
        self._unread: list[Message] = []
        self._reader = reader
        self._writer = writer
        self._chunks = ChunkReader(message_limit_bytes=MESSAGE_LIMIT_BYTES)
        self._transaction = 1.0
        host, port = writer.get_extra_info("sockname")
        self._address = f"{host}:{port}"

    @property
    def address(self) -> str:
        """What the edge's log calls it."""
        return self._address

    @property
    def lost(self) -> bool:
        """Whether the connection is known to be gone."""
        return self._writer.is_closing()

    # Saying

    def send(self, data: bytes) -> None:
        """Bytes as they are."""
        self._writer.write(data)

    def command(
        self, name: str, *values: amf0.AmfValue, stream_id: int = 0, transaction: float = 0.0
    ) -> None:
        payload = amf0.encode(name, transaction, *values)
        self.send(encode_message(Message(COMMAND, stream_id, 0, payload, 3), 128))

    def control(self, event: int, *values: int) -> None:
        payload = struct.pack(f">H{len(values)}I", event, *values)
        self.send(encode_message(Message(USER_CONTROL, 0, 0, payload, 2), 128))

    def buffer(self, buffer_ms: int, stream_id: int = 1) -> None:
        """SetBufferLength."""
        self.control(SET_BUFFER_LENGTH, stream_id, buffer_ms)

    def play(self, name: str, *arguments: amf0.AmfValue, stream_id: int = 1) -> None:
        """play with start, duration and reset as far as given."""
        self.command("play", None, name, *arguments, stream_id=stream_id)

    def seek(self, time_ms: float, stream_id: int = 1) -> None:
        self.command("seek", None, float(time_ms), stream_id=stream_id)

    def pause(self, paused: bool, time_ms: float, stream_id: int = 1) -> None:
        self.command("pause", None, paused, float(time_ms), stream_id=stream_id)

    async def call(self, name: str, *values: amf0.AmfValue) -> amf0.AmfValue:
        """A call's _result; KeyError with the code of an _error."""
        self._transaction += 1
        self.command(name, None, *values, transaction=self._transaction)

        def is_answer(message: Message) -> bool:
            if message.type_id != COMMAND:
                return False
            said = amf0.decode_all(message.payload)
            return said[0] in ("_result", "_error") and said[1] == self._transaction

        answer = amf0.decode_all((await self.until(is_answer))[-1].payload)
        if answer[0] == "_error":
            assert isinstance(answer[-1], dict)
            raise KeyError(answer[-1]["code"])
        return answer[-1]

    async def create_stream(self) -> int:
        stream_id = await self.call("createStream")
        assert isinstance(stream_id, float)
        return int(stream_id)

    # Hearing

    async def until(self, condition: Callable[[Message], bool]) -> list[Message]:
        """Reads up to the next message of a kind; all since the last call, that one included.

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
        """As ``until``: a message that ``message_name`` gives one of these words."""
        return await self.until(lambda message: message_name(message) in words)

    async def read_pending(self) -> list[Message]:
        """Everything that the server had to say to all that was sent before.

        Two pings one after the other: the edge may answer a ping before what came just ahead of it.
        """
        said = await self._pinged() + await self._pinged()
        return [message for message in said if message_name(message) != "PING_RESPONSE"]

    async def _pinged(self) -> list[Message]:
        self._transaction += 1
        stamp = int(self._transaction)
        self.control(PING_REQUEST, stamp)
        answer = struct.pack(">HI", PING_RESPONSE, stamp)
        return await self.until(lambda message: message.payload == answer)

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
            self._unread += self._chunks.receive_data(data)
        return self._unread.pop(0)

    async def handshake(self) -> None:
        hello = bytes(8) + bytes(range(256)) * 6
        self.send(b"\x03" + hello[:HANDSHAKE_BYTES])
        answer = await self._reader.readexactly(1 + 2 * HANDSHAKE_BYTES)
        self.send(answer[1 : 1 + HANDSHAKE_BYTES])

    async def connect(self, app: str, **properties: amf0.AmfValue) -> dict[str, Any]:
        """connect; the answer's information. Raises KeyError with the code when rejected."""
        self.command("connect", {"app": app, **properties}, transaction=1.0)
        said = await self.until_named(
            "NetConnection.Connect.Success",
            "NetConnection.Connect.InvalidApp",
            "NetConnection.Connect.Rejected",
        )
        told = information(said[-1])
        if told["code"] != "NetConnection.Connect.Success":
            raise KeyError(told["code"], told.get("application"))
        return told


def await_line(edge: EdgeProcess, event: str, client: RtmpClient) -> dict[str, Any]:
    """The newest log line of a kind about a client, once there is one."""
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
        said, _, value = line.rpartition(" ")
        if said == name:
            return float(value)
    return 0.0


def await_metrics(edge: EdgeProcess, wanted: dict[str, float]) -> None:
    """Until metrics have these values; they are handed over each second."""
    deadline_s = time.monotonic() + PATIENCE_S
    while {name: metric(edge, name) for name in wanted} != wanted:
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{ {name: metric(edge, name) for name in wanted} }")
        pause()


@asynccontextmanager
async def open_raw_client(port: int) -> AsyncIterator[RtmpClient]:
    """A client after the handshake."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    client = RtmpClient(reader, writer)
    try:
        await client.handshake()
        yield client
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)


@asynccontextmanager
async def open_client(
    port: int, app: str = "cfx/st", *, buffer_ms: int | None = HUGE_BUFFER_MS, **more: amf0.AmfValue
) -> AsyncIterator[RtmpClient]:
    """A client with stream 1, whose buffer takes everything at once unless told otherwise."""
    async with open_raw_client(port) as client:
        await client.connect(app, **{"tcUrl": f"rtmp://127.0.0.1:{port}/{app}", **more})
        assert await client.create_stream() == 1
        if buffer_ms is not None:
            client.buffer(buffer_ms)
        yield client
