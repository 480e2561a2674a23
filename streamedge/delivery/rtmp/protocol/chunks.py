"""The chunk stream of RTMP 1.0 §5.3: bytes to whole messages, and messages to bytes.

Handles chunk headers, timestamps, and the two messages about chunks, Set Chunk Size and Abort
(§5.4.1, §5.4.2). Other messages are passed on unparsed.

Memory is bounded by the caller's limit: nothing is allocated for a message before its bytes
arrive, and the bytes of all unfinished messages are counted together.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, NamedTuple

from streamedge.delivery.rtmp.protocol.errors import ProtocolError

DEFAULT_CHUNK_SIZE_BYTES: Final = 128  # §5.4.1: applies until Set Chunk Size
CHUNK_SIZE_LIMIT_BYTES: Final = 0x7FFFFFFF
MESSAGE_SIZE_LIMIT_BYTES: Final = 0xFFFFFF  # the length field has 24 bits
CHUNK_STREAMS_LIMIT: Final = 64  # a Flash Player with 16 streams uses fewer
UNFINISHED_MESSAGES_LIMIT: Final = 8
UNFINISHED_FACTOR: Final = 2  # unfinished bytes allowed, in messages of the largest size

_EXTENDED: Final = 0xFFFFFF  # in the 24-bit timestamp field: the time follows as 32 bits
_TIMESTAMP_MASK: Final = 0xFFFFFFFF  # §5.3.1.3: timestamps roll over every 49 days
_MESSAGE_HEADER_SIZES_BYTES: Final = (11, 7, 3, 0)  # for fmt 0 to 3, §5.3.1.2
_CONTINUATION_FORMAT: Final = 3


class MessageType(IntEnum):
    """The message type ids of RTMP 1.0 §5.4 and §7.1."""

    SET_CHUNK_SIZE = 1
    ABORT = 2
    ACKNOWLEDGEMENT = 3
    USER_CONTROL = 4
    WINDOW_ACKNOWLEDGEMENT_SIZE = 5
    SET_PEER_BANDWIDTH = 6
    AUDIO = 8
    VIDEO = 9
    DATA_AMF3 = 15
    SHARED_OBJECT_AMF3 = 16
    COMMAND_AMF3 = 17
    DATA = 18
    SHARED_OBJECT = 19
    COMMAND = 20
    AGGREGATE = 22


_SET_CHUNK_SIZE: Final = int(MessageType.SET_CHUNK_SIZE)  # comparing with the enum costs more
_ABORT: Final = int(MessageType.ABORT)


class Message(NamedTuple):
    """One whole message: ``stream_id`` is the message stream's, ``type_id`` may be any byte."""

    type_id: int
    stream_id: int
    timestamp_ms: int
    payload: bytes
    chunk_stream_id: int


@dataclass(slots=True)
class _ChunkStream:
    """The last header values of a chunk stream, and its unfinished message."""

    timestamp_ms: int = 0
    delta_ms: int = 0
    size_bytes: int = 0
    type_id: int = 0
    stream_id: int = 0
    extended: bytes = b""  # the 4 bytes of the last extended timestamp, if the header had one
    unfinished: bool = False
    payload: bytearray = field(default_factory=bytearray)


class ChunkReaderStats(NamedTuple):
    """The memory of a ChunkReader: ``payload_bytes`` are the bytes of unfinished messages."""

    chunk_streams: int
    unfinished_messages: int
    unfinished_bytes: int  # as counted against the limit
    payload_bytes: int
    buffered_bytes: int


class ChunkReader:
    """Assembles messages from chunks that arrive in pieces of any size.

    ``message_limit_bytes`` is the largest accepted message. ``chunks`` counts the chunks read so
    far, a measure of the cost, because a chunk may have a single byte. After a ProtocolError the
    reader must not be used again.
    """

    def __init__(self, *, message_limit_bytes: int) -> None:
        self._message_limit_bytes = message_limit_bytes
        self._chunk_size_bytes = DEFAULT_CHUNK_SIZE_BYTES
        self._streams: dict[int, _ChunkStream] = {}
        self._buffer = bytearray()
        self._position = 0  # the end of the parsed bytes in the buffer
        self._current: _ChunkStream | None = None  # the chunk whose payload is arriving
        self._current_id = 0
        self._chunk_missing_bytes = 0
        self._unfinished_messages = 0
        self._unfinished_bytes = 0
        self.chunks = 0

    def stats(self) -> ChunkReaderStats:
        """The memory in use now."""
        return ChunkReaderStats(
            len(self._streams),
            self._unfinished_messages,
            self._unfinished_bytes,
            sum(len(stream.payload) for stream in self._streams.values()),
            len(self._buffer),
        )

    @property
    def unread_bytes(self) -> int:
        """Bytes received and not parsed yet, with an incomplete header."""
        return len(self._buffer) - self._position

    def receive_data(self, data: bytes) -> list[Message]:
        """Adds bytes and returns all messages that they complete, in order.

        Raises as ``next_message``.
        """
        self.feed(data)
        messages = []
        while (message := self.next_message()) is not None:
            messages.append(message)
        return messages

    def feed(self, data: bytes) -> None:
        """Adds bytes, to be parsed by ``next_message``."""
        self._buffer += data

    def next_message(self, chunks_max: int = 0) -> Message | None:
        """The next complete message, or None.

        At most ``chunks_max`` chunks are read for it; 0: no limit. Raises ProtocolError for a
        header that repeats a missing one, a message that begins inside another one of its chunk
        stream, an invalid Set Chunk Size or Abort, and anything over a limit.
        """
        message = self._next_message(self.chunks + chunks_max if chunks_max else -1)
        if message is None:
            del self._buffer[: self._position]
            self._position = 0
        return message

    def _next_message(self, chunks_end: int) -> Message | None:
        while True:
            stream = self._current
            if stream is None:
                stream = None if self.chunks == chunks_end else self._begin_chunk()
                if stream is None:
                    return None
            if self._chunk_missing_bytes and not self._read_payload(stream):
                return None
            message = self._end_chunk(stream)
            if message is not None:
                return message

    def _begin_chunk(self) -> _ChunkStream | None:
        """Reads one chunk header; returns its chunk stream, None when it is incomplete."""
        buffer, position = self._buffer, self._position
        if position >= len(buffer):
            return None
        first = buffer[position]
        chunk_format, chunk_stream_id = first >> 6, first & 0x3F
        position += 1
        if chunk_stream_id <= 1:
            id_end = position + 1 + chunk_stream_id
            if len(buffer) < id_end:
                return None
            # The two-byte id's third byte counts 256s: little-endian, like the message stream id.
            chunk_stream_id = 64 + int.from_bytes(buffer[position:id_end], "little")
            position = id_end
        stream = self._streams.get(chunk_stream_id)
        if stream is None or chunk_format != _CONTINUATION_FORMAT or stream.extended:
            after_header = self._read_header(chunk_format, chunk_stream_id, stream, position)
            if after_header is None:
                return None
            position = after_header
            stream = self._streams[chunk_stream_id]
        if not stream.unfinished:
            self._begin_message(stream, chunk_stream_id)
        self._position = position
        self._current = stream
        self._current_id = chunk_stream_id
        self.chunks += 1
        missing_bytes = stream.size_bytes - len(stream.payload)
        self._chunk_missing_bytes = min(missing_bytes, self._chunk_size_bytes)
        return stream

    def _read_header(
        self, chunk_format: int, chunk_stream_id: int, stream: _ChunkStream | None, position: int
    ) -> int | None:
        """Reads the message header; returns the position after it, None when it is incomplete."""
        buffer, start = self._buffer, position
        position += _MESSAGE_HEADER_SIZES_BYTES[chunk_format]
        if len(buffer) < position:
            return None
        self._check_order(chunk_format, chunk_stream_id, stream)
        if stream is not None and chunk_format == _CONTINUATION_FORMAT:
            is_repeated = _repeats_extended_timestamp(buffer, position, stream.extended)
            if is_repeated is None:
                return None
            return position + 4 if is_repeated else position
        field_ms = int.from_bytes(buffer[start : start + 3])
        extended = b""
        if field_ms == _EXTENDED:
            extended = bytes(buffer[position : position + 4])
            if len(extended) < 4:
                return None
            position += 4
            field_ms = int.from_bytes(extended)
        if stream is None:
            stream = self._open_stream(chunk_stream_id)
        stream.extended = extended
        self._apply_header(stream, chunk_format, buffer[start + 3 : start + 11], field_ms)
        return position

    def _check_order(
        self, chunk_format: int, chunk_stream_id: int, stream: _ChunkStream | None
    ) -> None:
        # librtmp opens chunk stream 2 with fmt 1, as if it followed a message on stream 0 at time
        # 0; fmt 2 and 3 do not have a length.
        if stream is None and chunk_format > 1:
            raise ProtocolError(
                f"chunk stream {chunk_stream_id} begins with fmt {chunk_format}, "
                "which repeats a header that was never sent"
            )
        if stream is not None and stream.unfinished and chunk_format != _CONTINUATION_FORMAT:
            raise ProtocolError(
                f"chunk stream {chunk_stream_id} begins a message inside another one"
            )

    def _open_stream(self, chunk_stream_id: int) -> _ChunkStream:
        if len(self._streams) >= CHUNK_STREAMS_LIMIT:
            raise ProtocolError(f"more than {CHUNK_STREAMS_LIMIT} chunk streams")
        stream = _ChunkStream()
        self._streams[chunk_stream_id] = stream
        return stream

    def _apply_header(
        self, stream: _ChunkStream, chunk_format: int, rest: bytes | bytearray, field_ms: int
    ) -> None:
        """Applies a header of fmt 0, 1 or 2; ``rest`` begins after its time."""
        if chunk_format <= 1:
            stream.size_bytes = int.from_bytes(rest[:3])
            stream.type_id = rest[3]
        if chunk_format == 0:
            # The one little-endian field of RTMP (§5.3.1.2.1).
            stream.stream_id = int.from_bytes(rest[4:8], "little")
            stream.timestamp_ms = 0
        # §5.3.1.2.4: the delta of a fmt 3 message directly after fmt 0 is the timestamp itself.
        stream.delta_ms = field_ms

    def _begin_message(self, stream: _ChunkStream, chunk_stream_id: int) -> None:
        if stream.size_bytes > self._message_limit_bytes:
            raise ProtocolError(
                f"message of {stream.size_bytes} bytes on chunk stream {chunk_stream_id}, "
                f"more than {self._message_limit_bytes}"
            )
        if self._unfinished_messages >= UNFINISHED_MESSAGES_LIMIT:
            raise ProtocolError(f"more than {UNFINISHED_MESSAGES_LIMIT} unfinished messages")
        stream.timestamp_ms = (stream.timestamp_ms + stream.delta_ms) & _TIMESTAMP_MASK
        stream.unfinished = True
        self._unfinished_messages += 1

    def _read_payload(self, stream: _ChunkStream) -> bool:
        """Reads the available payload of the current chunk; returns whether it is complete."""
        piece = self._buffer[self._position : self._position + self._chunk_missing_bytes]
        size_bytes = len(piece)
        stream.payload += piece
        self._position += size_bytes
        self._chunk_missing_bytes -= size_bytes
        self._unfinished_bytes += size_bytes
        if self._unfinished_bytes > UNFINISHED_FACTOR * self._message_limit_bytes:
            raise ProtocolError(
                f"unfinished messages of {self._unfinished_bytes} bytes together, "
                f"more than {UNFINISHED_FACTOR * self._message_limit_bytes}"
            )
        return not self._chunk_missing_bytes

    def _end_chunk(self, stream: _ChunkStream) -> Message | None:
        self._current = None
        if len(stream.payload) < stream.size_bytes:
            return None
        message = Message(
            stream.type_id,
            stream.stream_id,
            stream.timestamp_ms,
            bytes(stream.payload),
            self._current_id,
        )
        self._drop_unfinished(stream)
        if message.type_id == _SET_CHUNK_SIZE:
            self._chunk_size_bytes = _parse_chunk_size(message.payload)
            return None
        if message.type_id == _ABORT:
            self._abort(message.payload)
            return None
        return message

    def _abort(self, payload: bytes) -> None:
        if len(payload) != 4:
            raise ProtocolError(f"Abort of {len(payload)} bytes instead of 4")
        stream = self._streams.get(int.from_bytes(payload))
        if stream is not None and stream.unfinished:
            self._drop_unfinished(stream)

    def _drop_unfinished(self, stream: _ChunkStream) -> None:
        self._unfinished_messages -= 1
        self._unfinished_bytes -= len(stream.payload)
        stream.unfinished = False
        if stream.payload:
            stream.payload = bytearray()


def _repeats_extended_timestamp(buffer: bytearray, position: int, extended: bytes) -> bool | None:
    """Whether the last extended timestamp is repeated at ``position``; None: more bytes are needed.

    §5.3.1.3 repeats it on fmt 3, older librtmp publishers omit it, and only the bytes show which.
    """
    if not extended:
        return False
    present = buffer[position : position + 4]
    if present == extended:
        return True
    return None if extended.startswith(present) else False


def _parse_chunk_size(payload: bytes) -> int:
    size_bytes = int.from_bytes(payload)
    if len(payload) != 4 or not 1 <= size_bytes <= CHUNK_SIZE_LIMIT_BYTES:
        raise ProtocolError(f"Set Chunk Size to {payload[:8].hex() or 'nothing'}")
    return size_bytes


def message_header(
    chunk_stream_id: int, type_id: int, stream_id: int, timestamp_ms: int, size_bytes: int
) -> bytes:
    """The fmt 0 header of a message: 12 bytes, or up to 18 for large ids and times.

    ``timestamp_ms`` is sent modulo 2^32; ``size_bytes`` is at most MESSAGE_SIZE_LIMIT_BYTES, else
    OverflowError. Only fmt 0 is ever written: deltas would save 8 bytes and tie the messages of one
    viewer together.
    """
    timestamp_ms &= _TIMESTAMP_MASK
    return b"".join(
        (
            _basic_header(0, chunk_stream_id),
            min(timestamp_ms, _EXTENDED).to_bytes(3),
            size_bytes.to_bytes(3),
            bytes((type_id,)),
            stream_id.to_bytes(4, "little"),
            _extended_timestamp(timestamp_ms),
        )
    )


def continuation_header(chunk_stream_id: int, timestamp_ms: int) -> bytes:
    """The fmt 3 header of each further chunk of a message with this timestamp.

    FFmpeg reads an extended timestamp again on every one of them, as §5.3.1.3 says.
    """
    return _basic_header(_CONTINUATION_FORMAT, chunk_stream_id) + _extended_timestamp(
        timestamp_ms & _TIMESTAMP_MASK
    )


def encode_message(message: Message, chunk_size_bytes: int) -> bytes:
    """The message as chunks of at most ``chunk_size_bytes`` of payload, fmt 0 and then fmt 3.

    Raises OverflowError over MESSAGE_SIZE_LIMIT_BYTES.
    """
    payload = memoryview(message.payload)
    header = message_header(
        message.chunk_stream_id,
        message.type_id,
        message.stream_id,
        message.timestamp_ms,
        len(payload),
    )
    pieces: list[bytes | memoryview] = [header, payload[:chunk_size_bytes]]
    if len(payload) > chunk_size_bytes:
        continuation = continuation_header(message.chunk_stream_id, message.timestamp_ms)
        for start in range(chunk_size_bytes, len(payload), chunk_size_bytes):
            pieces += (continuation, payload[start : start + chunk_size_bytes])
    return b"".join(pieces)


def _basic_header(chunk_format: int, chunk_stream_id: int) -> bytes:
    if chunk_stream_id < 64:
        return bytes((chunk_format << 6 | chunk_stream_id,))
    if chunk_stream_id < 64 + 256:
        return bytes((chunk_format << 6, chunk_stream_id - 64))
    return bytes((chunk_format << 6 | 1,)) + (chunk_stream_id - 64).to_bytes(2, "little")


def _extended_timestamp(timestamp_ms: int) -> bytes:
    return timestamp_ms.to_bytes(4) if timestamp_ms >= _EXTENDED else b""
