"""RTMP messages: RTMP 1.0 §5.4 (protocol control), §7.1 (types) and §7.1.7 (user control).

Parses the messages that a playing client sends and builds those that this server sends. Audio
and video from a client are ``Unused``, since clients cannot publish here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final, TypeAlias

from streamedge.delivery.rtmp.protocol import amf0, shared_objects
from streamedge.delivery.rtmp.protocol.amf_values import UNDEFINED, AmfValue
from streamedge.delivery.rtmp.protocol.chunks import (
    Message,
    MessageType,
    continuation_header,
    message_header,
)
from streamedge.delivery.rtmp.protocol.errors import ProtocolError
from streamedge.delivery.rtmp.protocol.shared_objects import UseSharedObject
from streamedge.spans import Span

CONTROL_CHUNK_STREAM_ID: Final = 2
COMMAND_CHUNK_STREAM_ID: Final = 3
_CHUNK_STREAM_IDS_BEFORE_STREAMS: Final = 3  # message stream 1 has chunk stream 4

_TRANSACTION_NONE: Final = 0.0  # §7.2.2: commands that get no response


class UserControlEvent(IntEnum):
    """§7.1.7; 31 and 32 are Flash Media Server's and in no specification."""

    STREAM_BEGIN = 0
    STREAM_EOF = 1
    STREAM_DRY = 2
    SET_BUFFER_LENGTH = 3
    STREAM_IS_RECORDED = 4
    PING_REQUEST = 6
    PING_RESPONSE = 7
    BUFFER_EMPTY = 31
    BUFFER_READY = 32


class BandwidthLimit(IntEnum):
    """The limit type of a Set Peer Bandwidth (§5.4.5)."""

    HARD = 0
    SOFT = 1
    DYNAMIC = 2


class StatusLevel(StrEnum):
    """The ``level`` of an information object (§7.2.2)."""

    STATUS = "status"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """The client has received this many bytes, modulo 2^32 (§5.4.3)."""

    sequence_bytes: int


@dataclass(frozen=True, slots=True)
class WindowAcknowledgementSize:
    """The client wants an Acknowledgement after each window of this many bytes (§5.4.4)."""

    size_bytes: int


@dataclass(frozen=True, slots=True)
class SetBufferLength:
    """How much of a stream the client keeps in its buffer (§7.1.7, event 3)."""

    stream_id: int
    buffer_ms: int


@dataclass(frozen=True, slots=True)
class PingRequest:
    """The response has the same time (§7.1.7, event 6)."""

    time_ms: int


@dataclass(frozen=True, slots=True)
class Command:
    """A call of ``name``; ``transaction`` 0 gets no response. ``object`` is {} when null."""

    stream_id: int
    name: str
    transaction: float
    object: dict[str, AmfValue]
    arguments: tuple[AmfValue, ...]

    def argument(self, index: int) -> AmfValue:
        """The argument at ``index``, UNDEFINED when the client sent fewer."""
        return self.arguments[index] if index < len(self.arguments) else UNDEFINED


@dataclass(frozen=True, slots=True)
class Unused:
    """A message that this server does not use or cannot parse."""

    type_id: int


Received: TypeAlias = (
    Acknowledgement
    | WindowAcknowledgementSize
    | SetBufferLength
    | PingRequest
    | Command
    | UseSharedObject
    | Unused
)


def parse(message: Message) -> Received:
    """Parses a client's message.

    Raises ProtocolError for a malformed control message. A command has its readable values; one
    without a name is ``Unused``.
    """
    match message.type_id:
        case MessageType.ACKNOWLEDGEMENT:
            return Acknowledgement(_number(message.payload, "Acknowledgement"))
        case MessageType.WINDOW_ACKNOWLEDGEMENT_SIZE:
            return WindowAcknowledgementSize(
                _number(message.payload, "Window Acknowledgement Size")
            )
        case MessageType.USER_CONTROL:
            return _parse_user_control(message.payload)
        case MessageType.COMMAND:
            return _parse_command(message.type_id, message.stream_id, message.payload)
        case MessageType.COMMAND_AMF3:
            # The first byte is 0 if AMF0 follows; some clients omit it.
            payload = message.payload.removeprefix(b"\0")
            return _parse_command(message.type_id, message.stream_id, payload)
        case MessageType.SHARED_OBJECT | MessageType.SHARED_OBJECT_AMF3:
            request = shared_objects.parse_use(message.type_id, message.payload)
            return request or Unused(message.type_id)
        case _:
            return Unused(message.type_id)


def _number(payload: bytes, name: str) -> int:
    if len(payload) != 4:
        raise ProtocolError(f"{name} of {len(payload)} bytes instead of 4")
    return int.from_bytes(payload)


def _parse_user_control(payload: bytes) -> SetBufferLength | PingRequest | Unused:
    if len(payload) < 2:
        raise ProtocolError(f"user control message of {len(payload)} bytes")
    event, data = int.from_bytes(payload[:2]), payload[2:]
    match event:
        case UserControlEvent.SET_BUFFER_LENGTH:
            if len(data) < 8:
                raise ProtocolError(f"Set Buffer Length of {len(data)} bytes instead of 8")
            return SetBufferLength(int.from_bytes(data[:4]), int.from_bytes(data[4:8]))
        case UserControlEvent.PING_REQUEST:
            if len(data) < 4:
                raise ProtocolError(f"Ping Request of {len(data)} bytes instead of 4")
            return PingRequest(int.from_bytes(data[:4]))
        case _:
            return Unused(MessageType.USER_CONTROL)


def _parse_command(type_id: int, stream_id: int, payload: bytes) -> Command | Unused:
    values = amf0.decode_readable(payload)
    name = values[0] if values else None
    if not isinstance(name, str):
        return Unused(type_id)
    transaction = values[1] if len(values) > 1 else _TRANSACTION_NONE
    properties = values[2] if len(values) > 2 else None
    return Command(
        stream_id=stream_id,
        name=name,
        transaction=transaction if isinstance(transaction, float) else _TRANSACTION_NONE,
        object=properties if isinstance(properties, dict) else {},
        arguments=tuple(values[3:]),
    )


def set_chunk_size(size_bytes: int) -> Message:
    """Announces the largest chunk that follows (§5.4.1)."""
    return _control(MessageType.SET_CHUNK_SIZE, size_bytes.to_bytes(4))


def acknowledgement(sequence_bytes: int) -> Message:
    """Bytes received so far, modulo 2^32 (§5.4.3)."""
    return _control(MessageType.ACKNOWLEDGEMENT, (sequence_bytes & 0xFFFFFFFF).to_bytes(4))


def window_acknowledgement_size(size_bytes: int) -> Message:
    """Requests an Acknowledgement after each ``size_bytes`` (§5.4.4)."""
    return _control(MessageType.WINDOW_ACKNOWLEDGEMENT_SIZE, size_bytes.to_bytes(4))


def set_peer_bandwidth(size_bytes: int, limit: BandwidthLimit) -> Message:
    """Sets how many bytes the client may leave unacknowledged (§5.4.5)."""
    payload = size_bytes.to_bytes(4) + bytes((limit,))
    return _control(MessageType.SET_PEER_BANDWIDTH, payload)


def user_control(event: UserControlEvent, value: int) -> Message:
    """``value`` is a stream id, or for the pings a time in milliseconds (§7.1.7)."""
    payload = event.to_bytes(2) + (value & 0xFFFFFFFF).to_bytes(4)
    return _control(MessageType.USER_CONTROL, payload)


def _control(type_id: MessageType, payload: bytes) -> Message:
    return Message(
        type_id=type_id,
        stream_id=0,
        timestamp_ms=0,
        payload=payload,
        chunk_stream_id=CONTROL_CHUNK_STREAM_ID,
    )


def command(stream_id: int, name: str, transaction: float, *values: AmfValue) -> Message:
    """A command message in AMF0; ``values`` begin with the command object. Raises AmfError.

    ``stream_id`` may be one that the client made up, so the chunk stream does not depend on it.
    """
    return Message(
        type_id=MessageType.COMMAND,
        stream_id=stream_id,
        timestamp_ms=0,
        payload=amf0.encode(name, transaction, *values),
        chunk_stream_id=COMMAND_CHUNK_STREAM_ID,
    )


def on_status(
    stream_id: int, level: StatusLevel, code: str, description: str, **extra: AmfValue
) -> Message:
    """The result of a command on a stream (§7.2.2)."""
    information = status_information(level, code, description, **extra)
    return command(stream_id, "onStatus", _TRANSACTION_NONE, None, information)


def status_information(
    level: StatusLevel, code: str, description: str, **extra: AmfValue
) -> dict[str, AmfValue]:
    """The information object of onStatus, ``_result`` and ``_error``."""
    return {"level": level.value, "code": code, "description": description, **extra}


def data(stream_id: int, timestamp_ms: int, *values: AmfValue) -> Message:
    """A data message in AMF0 (§7.1.2). Raises AmfError."""
    return Message(
        type_id=MessageType.DATA,
        stream_id=stream_id,
        timestamp_ms=timestamp_ms,
        payload=amf0.encode(*values),
        chunk_stream_id=stream_chunk_stream_id(stream_id),
    )


def media(stream_id: int, type_id: MessageType, timestamp_ms: int, payload: bytes) -> Message:
    """An audio, video or aggregate message, whose body is that of FLV tags (§7.1.4 to §7.1.6)."""
    return Message(
        type_id=type_id,
        stream_id=stream_id,
        timestamp_ms=timestamp_ms,
        payload=payload,
        chunk_stream_id=stream_chunk_stream_id(stream_id),
    )


def media_header(stream_id: int, type_id: MessageType, timestamp_ms: int, size_bytes: int) -> bytes:
    """The header of a ``media`` message, for a body of ``size_bytes`` that is sent separately.

    The body must fit in one chunk; ``media_chunks`` splits a larger one. Raises OverflowError for a
    size beyond 24 bits.
    """
    return message_header(
        stream_chunk_stream_id(stream_id), type_id, stream_id, timestamp_ms, size_bytes
    )


def media_chunks(
    stream_id: int, type_id: MessageType, timestamp_ms: int, body: Span, chunk_size_bytes: int
) -> Iterator[tuple[bytes, Span]]:
    """A ``media`` message as chunks: the header of each, and its part of ``body`` (§5.3.1).

    Raises OverflowError for a body beyond 24 bits.
    """
    header = media_header(stream_id, type_id, timestamp_ms, body.size)
    for start in range(body.start, body.end, chunk_size_bytes):
        yield header, Span(start, min(start + chunk_size_bytes, body.end))
        header = continuation_header(stream_chunk_stream_id(stream_id), timestamp_ms)


def stream_chunk_stream_id(stream_id: int) -> int:
    """The chunk stream of a stream's data and media; they share one, which keeps their order."""
    return _CHUNK_STREAM_IDS_BEFORE_STREAMS + stream_id
