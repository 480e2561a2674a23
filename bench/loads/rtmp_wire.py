"""An RTMP viewer's messages as bytes: commands, chunk headers, AMF0.

The client's half of the protocol (RTMP specification 1.0 of 2012), as far as a player needs it. It
shares no code with the edge, because a benchmark with the edge's codec would share its bugs. Pure:
no socket, no clock.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import NamedTuple

HANDSHAKE_BYTES = 1536
DEFAULT_CHUNK_BYTES = 128
SET_CHUNK_SIZE, ACKNOWLEDGEMENT, USER_CONTROL = 1, 3, 4
AUDIO, VIDEO, DATA, COMMAND, AGGREGATE = 8, 9, 18, 20, 22
MEDIA = frozenset({AUDIO, VIDEO, AGGREGATE})
EXTENDED_TIMESTAMP = 0xFFFFFF
ACKNOWLEDGE_EVERY_BYTES = 1_250_000
"""Half of the usual window of 2,500,000 bytes, as ffmpeg does."""

_CLIENT_CHUNK_BYTES = 128
_HEADER_BYTES = (11, 7, 3, 0)  # §5.3.1.2, after the basic header, by fmt
_UINT32 = struct.Struct(">I")
_SET_BUFFER_LENGTH = 3  # §6.2, user control event

AmfValue = float | bool | str | None | Mapping[str, "AmfValue"]


def hello() -> bytes:
    """C0 and a plain C1 (§5.2): version 3, time 0, zeros, filler."""
    return b"\x03" + bytes(8) + (bytes(range(256)) * 6)[: HANDSHAKE_BYTES - 8]


def connect(application: str, port: int) -> bytes:
    """The connect command, transaction 1 (§7.2.1.1)."""
    properties: dict[str, AmfValue] = {
        "app": application,
        "flashVer": "LNX 9,0,124,2",
        "tcUrl": f"rtmp://127.0.0.1:{port}/{application}",
        "fpad": False,
        "capabilities": 15.0,
        "audioCodecs": 4071.0,
        "videoCodecs": 252.0,
        "videoFunction": 1.0,
    }
    return message(COMMAND, amf("connect", 1.0, properties), chunk_stream=3)


def create_stream() -> bytes:
    """The createStream command, transaction 2."""
    return message(COMMAND, amf("createStream", 2.0, None), chunk_stream=3)


def play(stream_id: int, name: str, start_ms: int, buffer_ms: int) -> bytes:
    """play and then SetBufferLength, in ffmpeg's order. Both times are milliseconds."""
    command = amf("play", 0.0, None, name, float(start_ms))
    length = struct.pack(">HII", _SET_BUFFER_LENGTH, stream_id, buffer_ms)
    return message(COMMAND, command, chunk_stream=8, stream_id=stream_id) + message(
        USER_CONTROL, length
    )


def seek(stream_id: int, position_ms: int) -> bytes:
    """The seek command (§7.2.2.7)."""
    command = amf("seek", 0.0, None, float(position_ms))
    return message(COMMAND, command, chunk_stream=8, stream_id=stream_id)


def acknowledgement(received_bytes: int) -> bytes:
    """Sequence number of the bytes received so far (§5.4.3); it wraps at 4 GiB."""
    return message(ACKNOWLEDGEMENT, struct.pack(">I", received_bytes & 0xFFFFFFFF))


def message(kind: int, body: bytes, *, chunk_stream: int = 2, stream_id: int = 0) -> bytes:
    """A whole message at timestamp 0 in chunks of the initial size."""
    head = struct.pack(">B3s3sB", chunk_stream, bytes(3), len(body).to_bytes(3, "big"), kind)
    pieces = [
        body[at : at + _CLIENT_CHUNK_BYTES] for at in range(0, len(body), _CLIENT_CHUNK_BYTES)
    ]
    return head + struct.pack("<I", stream_id) + bytes([0xC0 | chunk_stream]).join(pieces)


class Header(NamedTuple):
    """The header of a message's first chunk, and the values that the next header may inherit.

    ``size`` is its length in bytes, ``continuation`` that of the header of each further chunk.
    """

    size: int
    continuation: int
    chunk_stream: int
    kind: int
    timestamp_ms: int
    delta_ms: int
    length: int
    stream_id: int
    extended: bool


def read_header(
    data: bytearray | bytes, at: int, end: int, previous: Mapping[int, Header]
) -> Header | None:
    """Reads a message's first chunk header at ``data[at:end]`` (§5.3.1); None: incomplete.

    ``previous`` has the latest header of each chunk stream; the caller adds this one. Raises
    ValueError when a header inherits from one that never arrived.
    """
    if at >= end:
        return None
    form, chunk_stream, basic = data[at] >> 6, data[at] & 63, 1
    if chunk_stream < 2:
        basic = 2 + chunk_stream
        if end - at < basic:
            return None
        chunk_stream = 64 + int.from_bytes(data[at + 1 : at + basic], "little")
    size = basic + _HEADER_BYTES[form]
    if end - at < size:
        return None
    # One byte early: a field of three bytes is read as four, which is much faster than a slice.
    time_ms = _UINT32.unpack_from(data, at + basic - 1)[0] & 0xFFFFFF if form < 3 else 0
    before = previous.get(chunk_stream)
    if before is None and form:
        raise ValueError(f"chunk stream {chunk_stream} begins with fmt {form}")
    extended = before.extended if before and form == 3 else time_ms == EXTENDED_TIMESTAMP
    if extended:
        size += 4
        if end - at < size:
            return None
        time_ms = _UINT32.unpack_from(data, at + size - 4)[0]
    delta_ms = 0
    if form < 2:
        length_kind = _UINT32.unpack_from(data, at + basic + 3)[0]
        length, kind = length_kind >> 8, length_kind & 0xFF
    else:
        assert before is not None
        length, kind = before.length, before.kind
    if before is None or form == 0:
        stream_id = int.from_bytes(data[at + basic + 7 : at + basic + 11], "little")
    else:
        stream_id = before.stream_id
        delta_ms = time_ms if form < 3 else before.delta_ms
        time_ms = before.timestamp_ms + delta_ms
    return Header(
        size,
        basic + 4 * extended,
        chunk_stream,
        kind,
        time_ms,
        delta_ms,
        length,
        stream_id,
        extended,
    )


def size_on_the_wire(header: Header, chunk_bytes: int) -> int:
    """Bytes of a message's body, including the headers of its further chunks."""
    if header.length <= chunk_bytes:
        return header.length
    return header.length + (header.length - 1) // chunk_bytes * header.continuation


def body_of(header: Header, wire_bytes: bytes | bytearray, chunk_bytes: int) -> bytes:
    """The body in ``wire_bytes``, which has the size ``size_on_the_wire``."""
    step = chunk_bytes + header.continuation
    return b"".join(wire_bytes[at : at + chunk_bytes] for at in range(0, len(wire_bytes), step))


def is_codec_header(kind: int, start: bytes | bytearray) -> bool:
    """Whether a media body that begins with ``start`` (2 bytes) only configures a decoder.

    AVC and AAC sequence headers (FLV 10.1 §E.4.2, E.4.3) and Enhanced RTMP's SequenceStart.
    """
    if kind == VIDEO:
        if start[0] & 0x80:
            return start[0] & 0x0F == 0
        return start[0] & 0x0F == 7 and start[1] == 0
    return kind == AUDIO and start[0] >> 4 == 10 and start[1] == 0


def amf(*values: AmfValue) -> bytes:
    """Encodes values one after the other in AMF0 (specification of 2007)."""
    return b"".join(_amf_value(value) for value in values)


def _amf_value(value: AmfValue) -> bytes:
    if value is None:
        return b"\x05"
    if isinstance(value, bool):
        return b"\x01" + bytes([value])
    if isinstance(value, str):
        return b"\x02" + _amf_name(value)
    if isinstance(value, Mapping):
        inner = b"".join(_amf_name(name) + _amf_value(item) for name, item in value.items())
        return b"\x03" + inner + b"\x00\x00\x09"
    return b"\x00" + struct.pack(">d", value)


def _amf_name(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack(">H", len(encoded)) + encoded


def read_amf(data: bytes) -> list[AmfValue]:
    """The values of a command's body. Raises ValueError on a type that no command uses here."""
    values: list[AmfValue] = []
    at = 0
    while at < len(data):
        value, at = _read_value(data, at)
        values.append(value)
    return values


def _read_value(data: bytes, at: int) -> tuple[AmfValue, int]:
    marker, at = data[at], at + 1
    if marker == 0x00:
        return struct.unpack_from(">d", data, at)[0], at + 8
    if marker == 0x01:
        return data[at] != 0, at + 1
    if marker == 0x02:
        return _read_name(data, at)
    if marker in (0x03, 0x08):
        return _read_object(data, at + 4 if marker == 0x08 else at)
    if marker in (0x05, 0x06):
        return None, at
    raise ValueError(f"AMF0 type {marker:#x} in a command")


def _read_object(data: bytes, at: int) -> tuple[dict[str, AmfValue], int]:
    properties: dict[str, AmfValue] = {}
    while data[at : at + 3] != b"\x00\x00\x09":
        name, at = _read_name(data, at)
        properties[name], at = _read_value(data, at)
    return properties, at + 3


def _read_name(data: bytes, at: int) -> tuple[str, int]:
    size = int.from_bytes(data[at : at + 2], "big")
    return data[at + 2 : at + 2 + size].decode(), at + 2 + size
