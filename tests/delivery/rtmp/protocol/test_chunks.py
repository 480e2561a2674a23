"""Chunks: the specification's examples, recorded peers, every header form, limits, round trips."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamedge.delivery.rtmp.protocol.chunks import (
    CHUNK_STREAMS_LIMIT,
    MESSAGE_SIZE_LIMIT_BYTES,
    UNFINISHED_FACTOR,
    UNFINISHED_MESSAGES_LIMIT,
    ChunkReader,
    Message,
    encode_message,
    message_header,
)
from streamedge.delivery.rtmp.protocol.errors import ProtocolError

VECTORS = Path(__file__).parent / "vectors"
LIMIT_BYTES = 65_536
Read: TypeAlias = Callable[[bytes], list[Message]]
LONGEST_HEADER_BYTES = 3 + 11 + 4


def new_reader(message_limit_bytes: int = LIMIT_BYTES) -> ChunkReader:
    return ChunkReader(message_limit_bytes=message_limit_bytes)


def read_whole(data: bytes) -> list[Message]:
    return new_reader().receive_data(data)


def read_bytewise(data: bytes) -> list[Message]:
    reader = new_reader()
    return [message for byte in data for message in reader.receive_data(bytes((byte,)))]


def flv_tags(name: str) -> list[tuple[int, int, bytes]]:
    """Type, time and body of each audio and video tag (FLV specification 10.1, annex E.3)."""
    data = (VECTORS / name).read_bytes()
    position, tags = 13, []
    while position < len(data):
        size = int.from_bytes(data[position + 1 : position + 4])
        time_ms = data[position + 7] << 24 | int.from_bytes(data[position + 4 : position + 7])
        tags.append((data[position], time_ms, data[position + 11 : position + 11 + size]))
        position += 11 + size + 4
    return [tag for tag in tags if tag[0] in (8, 9)]


PAYLOAD_A, PAYLOAD_B, PAYLOAD_C, PAYLOAD_D = (bytes((letter,)) * 32 for letter in b"ABCD")

# RTMP 1.0 §5.3.2.1: four audio messages of stream 12345, 20 ms apart, sent as fmt 0, 2, 3, 3.
SPECIFICATION_EXAMPLE_1 = (
    bytes.fromhex("03 0003e8 000020 08 39300000")
    + PAYLOAD_A
    + bytes.fromhex("83 000014")
    + PAYLOAD_B
    + b"\xc3"
    + PAYLOAD_C
    + b"\xc3"
    + PAYLOAD_D
)
# §5.3.2.2: one video message of 307 bytes on stream 12346, as chunks of 128, 128 and 51.
VIDEO = bytes(range(256)) + bytes(51)
SPECIFICATION_EXAMPLE_2 = (
    bytes.fromhex("04 0003e8 000133 09 3a300000")
    + VIDEO[:128]
    + b"\xc4"
    + VIDEO[128:256]
    + b"\xc4"
    + VIDEO[256:]
)
EXAMPLES = [
    (
        SPECIFICATION_EXAMPLE_1,
        [
            Message(8, 12345, 1000, PAYLOAD_A, 3),
            Message(8, 12345, 1020, PAYLOAD_B, 3),
            Message(8, 12345, 1040, PAYLOAD_C, 3),
            Message(8, 12345, 1060, PAYLOAD_D, 3),
        ],
    ),
    (SPECIFICATION_EXAMPLE_2, [Message(9, 12346, 1000, VIDEO, 4)]),
]


@pytest.mark.parametrize("read", [read_whole, read_bytewise])
@pytest.mark.parametrize(("data", "messages"), EXAMPLES)
def test_examples_of_the_specification_are_read(
    read: Read, data: bytes, messages: list[Message]
) -> None:
    assert read(data) == messages
    assert read(data + b"\x05\x00\x00") == messages, "a header under way changes nothing"


def test_second_example_of_the_specification_is_written() -> None:
    assert encode_message(Message(9, 12346, 1000, VIDEO, 4), 128) == SPECIFICATION_EXAMPLE_2


@pytest.mark.parametrize("read", [read_whole, read_bytewise])
@pytest.mark.parametrize(
    ("chunks", "flv"),
    [
        ("nginx_play_chunks.bin", "nginx_play.flv"),
        ("ffmpeg_publish_chunks.bin", "ffmpeg_publish.flv"),  # times cross 0xFFFFFF
    ],
)
def test_recorded_media_equal_the_file(read: Read, chunks: str, flv: str) -> None:
    messages = read((VECTORS / chunks).read_bytes())
    tags = [(m.type_id, m.timestamp_ms, m.payload) for m in messages if m.type_id in (8, 9)]
    assert tags == flv_tags(flv)
    assert {m.stream_id for m in messages} == {0, 1}, "little-endian, or 1 would be 0x1000000"


@pytest.mark.parametrize(
    ("chunk_stream_id", "basic_header"),
    [
        (2, "02"),
        (63, "3f"),
        (64, "0000"),  # §5.3.1.1: two bytes from 64
        (319, "00ff"),
        (320, "010001"),  # three bytes: the third counts 256s
        (365, "012d01"),
        (65_599, "01ffff"),
    ],
)
def test_chunk_stream_ids_of_all_forms_are_read(chunk_stream_id: int, basic_header: str) -> None:
    data = bytes.fromhex(basic_header) + bytes.fromhex("000000 000001 14 00000000 2a")
    message = Message(0x14, 0, 0, b"\x2a", chunk_stream_id)
    assert encode_message(message, 128) == data
    assert read_whole(data) == read_bytewise(data) == [message]


def test_longer_form_of_a_low_chunk_stream_id_is_read() -> None:
    assert read_whole(bytes.fromhex("010000 000000 000000 14 00000000"))[0].chunk_stream_id == 64


@pytest.mark.parametrize(
    ("timestamp_ms", "fields"),
    [
        (0xFFFFFE, ("fffffe", "")),
        (0xFFFFFF, ("ffffff", "00ffffff")),
        (0x1000000, ("ffffff", "01000000")),
        (0xFFFFFFFF, ("ffffff", "ffffffff")),
    ],
)
def test_extended_timestamps_are_written_and_read(
    timestamp_ms: int, fields: tuple[str, str]
) -> None:
    header = message_header(5, 9, 1, timestamp_ms, 3)
    assert header == bytes.fromhex(f"05 {fields[0]} 000003 09 01000000 {fields[1]}")
    message = Message(9, 1, timestamp_ms, b"abc", 5)
    assert read_whole(header + b"abc") == read_bytewise(header + b"abc") == [message]


def test_written_timestamps_roll_over() -> None:
    assert message_header(5, 9, 1, 0x1_0000_0005, 3) == message_header(5, 9, 1, 5, 3)


def test_size_beyond_24_bits_cannot_be_written() -> None:
    message_header(5, 9, 1, 0, MESSAGE_SIZE_LIMIT_BYTES)
    with pytest.raises(OverflowError):
        message_header(5, 9, 1, 0, MESSAGE_SIZE_LIMIT_BYTES + 1)


EXTENDED = bytes.fromhex("01312d00")


@pytest.mark.parametrize("read", [read_whole, read_bytewise])
@pytest.mark.parametrize(
    ("repetition", "payload"),
    [
        (EXTENDED, VIDEO[:200]),  # §5.3.1.3
        (b"", VIDEO[:200]),  # librtmp publishers before 2024
        (b"", VIDEO[:128] + EXTENDED[:3] + VIDEO[1:70]),  # begins like a repetition
        (b"", VIDEO[:128] + b"\x02"),  # fewer than 4 bytes remain, and they differ
    ],
)
def test_continuations_with_and_without_extended_timestamp_are_read(
    read: Read, repetition: bytes, payload: bytes
) -> None:
    header = bytes.fromhex("05 ffffff") + len(payload).to_bytes(3) + bytes.fromhex("09 01000000")
    data = header + EXTENDED + payload[:128] + b"\xc5" + repetition + payload[128:]
    following = message_header(5, 8, 1, 7, 1) + b"!"
    assert read(data + following) == [
        Message(9, 1, 20_000_000, payload, 5),
        Message(8, 1, 7, b"!", 5),
    ]


def test_timestamp_deltas_are_added() -> None:
    data = bytes.fromhex(
        "06 000064 000001 08 01000000 61"  # fmt 0: time 100
        "46 00000a 000001 09 62"  # fmt 1: 10 later, another type
        "86 000005 63"  # fmt 2: 5 later
        "c6 64"  # fmt 3: 5 later again
        "46 ffffff 000001 08 01000000 65"  # fmt 1: 2^24 later
        "c6 01000000 66"  # fmt 3: and again, the delta repeated
        "86 ffffff ffffff88 67"  # fmt 2: back by 120, as deltas are modulo 2^32
        "06 00000a 000001 08 01000000 68"  # fmt 0: time 10
        "c6 69"  # §5.3.1.2.4: the time of fmt 0 is the delta of fmt 3
    )
    times = [100, 110, 115, 120, 120 + (1 << 24), 120 + (1 << 25), 1 << 25, 10, 20]
    for messages in (read_whole(data), read_bytewise(data)):
        assert [m.timestamp_ms for m in messages] == times
        assert b"".join(m.payload for m in messages) == b"abcdefghi"
        assert [m.type_id for m in messages] == [8, 9, 9, 9, 8, 8, 8, 8, 8]


def test_librtmp_opens_the_control_chunk_stream_with_fmt_1() -> None:
    """Recorded from rtmpdump 2.4: its first Set Buffer Length, before any fmt 0 on that stream."""
    data = bytes.fromhex("42 000000 00000a 04 000300000000 0000012c")
    assert read_whole(data) == [Message(4, 0, 0, bytes.fromhex("0003000000000000012c"), 2)]


@pytest.mark.parametrize("first", ["86 000005 61", "c6 61"])
def test_chunk_stream_cannot_begin_without_a_length(first: str) -> None:
    with pytest.raises(ProtocolError, match="never sent"):
        read_whole(bytes.fromhex(first))


@pytest.mark.parametrize("inside", ["04 000000 000001 14 00000000", "44 000000 000001 14"])
def test_message_inside_another_of_its_chunk_stream_is_refused(inside: str) -> None:
    with pytest.raises(ProtocolError, match="inside another"):
        read_whole(SPECIFICATION_EXAMPLE_2[:140] + bytes.fromhex(inside))


def control(type_id: int, payload: str) -> bytes:
    return encode_message(Message(type_id, 0, 0, bytes.fromhex(payload), 2), 128)


def test_messages_of_chunk_streams_interleave() -> None:
    data = SPECIFICATION_EXAMPLE_2[:140] + SPECIFICATION_EXAMPLE_1 + SPECIFICATION_EXAMPLE_2[140:]
    assert [m.chunk_stream_id for m in read_whole(data)] == [3, 3, 3, 3, 4]
    assert read_whole(data) == read_bytewise(data)


@pytest.mark.parametrize("size_bytes", [1, 4096, 0xFFFFFF, 0x7FFFFFFF])
def test_set_chunk_size_applies_from_the_next_chunk(size_bytes: int) -> None:
    message = Message(9, 1, 0, VIDEO, 5)
    data = control(1, size_bytes.to_bytes(4).hex()) + encode_message(message, size_bytes)
    assert read_whole(data) == read_bytewise(data) == [message]


def test_set_chunk_size_between_the_chunks_of_a_message_applies() -> None:
    data = SPECIFICATION_EXAMPLE_2[:140] + control(1, "00001000") + b"\xc4" + VIDEO[128:]
    assert read_whole(data) == [Message(9, 12346, 1000, VIDEO, 4)]


@pytest.mark.parametrize(
    "payload", ["00000000", "80000000", "ffffffff", "", "000080", "0000000080"]
)
def test_invalid_chunk_size_is_refused(payload: str) -> None:
    with pytest.raises(ProtocolError, match="Set Chunk Size"):
        read_whole(control(1, payload))


def test_abort_drops_the_unfinished_message() -> None:
    reader = new_reader()
    reader.receive_data(SPECIFICATION_EXAMPLE_2[:140] + control(2, "00000004"))
    assert reader.stats().unfinished_bytes == reader.stats().unfinished_messages == 0
    assert reader.receive_data(SPECIFICATION_EXAMPLE_2) == [Message(9, 12346, 1000, VIDEO, 4)]


@pytest.mark.parametrize("chunk_stream_id", ["00000009", "00000003", "ffffffff"])
def test_abort_without_an_unfinished_message_has_no_effect(chunk_stream_id: str) -> None:
    data = SPECIFICATION_EXAMPLE_1 + control(2, chunk_stream_id) + SPECIFICATION_EXAMPLE_2
    assert len(read_whole(data)) == 5


def test_malformed_abort_is_refused() -> None:
    with pytest.raises(ProtocolError, match="Abort of 3"):
        read_whole(control(2, "000004"))


def test_message_over_the_limit_is_refused_at_its_header() -> None:
    largest = Message(9, 1, 0, bytes(LIMIT_BYTES), 5)
    assert read_whole(encode_message(largest, 128)) == [largest]
    with pytest.raises(ProtocolError, match=f"message of {LIMIT_BYTES + 1} bytes"):
        read_whole(message_header(5, 9, 1, 0, LIMIT_BYTES + 1))


def test_chunk_streams_are_limited() -> None:
    data = b"".join(message_header(2 + n, 9, 1, 0, 0) for n in range(CHUNK_STREAMS_LIMIT))
    reader = new_reader()
    assert len(reader.receive_data(data)) == CHUNK_STREAMS_LIMIT
    with pytest.raises(ProtocolError, match="chunk streams"):
        reader.receive_data(message_header(2 + CHUNK_STREAMS_LIMIT, 9, 1, 0, 0))


def test_unfinished_messages_are_limited() -> None:
    begun = [message_header(3 + n, 9, 1, 0, 129) + bytes(128) for n in range(9)]
    reader = new_reader()
    assert reader.receive_data(b"".join(begun[:UNFINISHED_MESSAGES_LIMIT])) == []
    with pytest.raises(ProtocolError, match="unfinished messages"):
        reader.receive_data(begun[UNFINISHED_MESSAGES_LIMIT])


def test_unfinished_bytes_are_limited_together() -> None:
    reader = new_reader(message_limit_bytes=1000)
    reader.receive_data(control(1, "000003e7"))
    for chunk_stream_id in (5, 6):
        reader.receive_data(message_header(chunk_stream_id, 9, 1, 0, 1000) + bytes(999))
    with pytest.raises(ProtocolError, match="together"):
        reader.receive_data(message_header(7, 9, 1, 0, 1000) + bytes(999))


def test_large_message_is_read_byte_by_byte() -> None:
    message = Message(9, 1, 0, bytes(range(256)) * 256, 5)
    data = control(1, "7fffffff") + encode_message(message, 0x7FFFFFFF)
    assert read_bytewise(data) == [message]


def test_empty_message_is_complete_with_its_header() -> None:
    assert read_bytewise(message_header(5, 9, 1, 40, 0)) == [Message(9, 1, 40, b"", 5)]


def chunks_of(message: Message, chunk_size_bytes: int) -> list[bytes]:
    """The separate chunks of a message, with a short chunk stream id."""
    extended = message.timestamp_ms.to_bytes(4) if message.timestamp_ms >= 0xFFFFFF else b""
    pieces = [
        message.payload[start : start + chunk_size_bytes]
        for start in range(0, len(message.payload), chunk_size_bytes)
    ] or [b""]
    header = b"".join(
        (
            bytes((message.chunk_stream_id,)),
            min(message.timestamp_ms, 0xFFFFFF).to_bytes(3),
            len(message.payload).to_bytes(3),
            bytes((message.type_id,)),
            message.stream_id.to_bytes(4, "little"),
        )
    )
    continuation = bytes((0xC0 | message.chunk_stream_id,))
    return [
        (header if index == 0 else continuation) + extended + piece
        for index, piece in enumerate(pieces)
    ]


@settings(deadline=None)
@given(data=st.data(), chunk_size_bytes=st.integers(1, 300))
def test_interleaved_messages_survive_a_round_trip(
    data: st.DataObject, chunk_size_bytes: int
) -> None:
    queues: list[list[tuple[bytes, Message | None]]] = []
    for chunk_stream_id in range(3, 3 + data.draw(st.integers(1, 5))):
        queue: list[tuple[bytes, Message | None]] = []
        for _ in range(data.draw(st.integers(1, 3))):
            message = Message(
                type_id=data.draw(st.sampled_from([4, 8, 9, 18, 20, 22])),
                stream_id=data.draw(st.integers(0, 0xFFFFFFFF)),
                timestamp_ms=data.draw(st.integers(0, 0xFFFFFFFF)),
                payload=data.draw(st.binary(max_size=600)),
                chunk_stream_id=chunk_stream_id,
            )
            chunks = chunks_of(message, chunk_size_bytes)
            assert b"".join(chunks) == encode_message(message, chunk_size_bytes)
            queue += [(chunk, None) for chunk in chunks[:-1]]
            queue.append((chunks[-1], message))
        queues.append(queue)

    sent, expected = control(1, chunk_size_bytes.to_bytes(4).hex()), []
    while queues:
        queue = data.draw(st.sampled_from(queues))
        chunk, message_ended = queue.pop(0)
        sent += chunk
        if message_ended is not None:
            expected.append(message_ended)
        queues = [remaining for remaining in queues if remaining]

    assert read_whole(sent) == expected
    cut = data.draw(st.integers(0, len(sent)))
    reader = new_reader()
    assert reader.receive_data(sent[:cut]) + reader.receive_data(sent[cut:]) == expected


headers = st.builds(
    lambda form, stream, time, size, type_id: (
        bytes((form << 6 | stream,)) + time + size.to_bytes(3) + bytes((type_id,)) + bytes(4)
    ),
    st.integers(0, 3),
    st.integers(0, 6),
    st.sampled_from([b"\0\0\0", b"\0\0\x01", b"\xff\xff\xff"]),
    st.integers(0, 1200),
    st.sampled_from([1, 2, 4, 8, 20]),
)


@settings(deadline=None, max_examples=300)
@given(st.lists(headers | st.binary(max_size=40) | st.just(bytes(128)), max_size=40))
def test_any_bytes_are_read_or_refused_in_bounded_memory(pieces: list[bytes]) -> None:
    reader = new_reader(message_limit_bytes=1000)
    for piece in pieces:
        try:
            messages = reader.receive_data(piece)
        except ProtocolError:
            return
        assert all(len(message.payload) <= 1000 for message in messages)
        stats = reader.stats()
        assert stats.payload_bytes == stats.unfinished_bytes <= UNFINISHED_FACTOR * 1000
        assert stats.buffered_bytes < LONGEST_HEADER_BYTES
        assert stats.chunk_streams <= CHUNK_STREAMS_LIMIT
