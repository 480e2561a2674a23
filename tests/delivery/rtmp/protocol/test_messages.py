"""Messages: those of recorded clients, those of nginx-rtmp as a server, and malformed ones."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamedge.delivery.rtmp.protocol import amf0, messages
from streamedge.delivery.rtmp.protocol.amf_values import UNDEFINED
from streamedge.delivery.rtmp.protocol.chunks import Message, MessageType, encode_message
from streamedge.delivery.rtmp.protocol.errors import ProtocolError
from streamedge.delivery.rtmp.protocol.messages import (
    Acknowledgement,
    BandwidthLimit,
    Command,
    PingRequest,
    Received,
    SetBufferLength,
    StatusLevel,
    Unused,
    UserControlEvent,
    WindowAcknowledgementSize,
    parse,
)
from streamedge.spans import Span


def message(type_id: int, payload: str, stream_id: int = 0) -> Message:
    return Message(type_id, stream_id, 0, bytes.fromhex(payload), 3)


# Payloads as FFmpeg 5.1.9 and rtmpdump 2.4 send them, or written by hand from the named section.
FFMPEG_CREATE_STREAM = "02000c63726561746553747265616d00400000000000000005"
RECEIVED: list[tuple[Message, Received]] = [
    (message(5, "002625a0"), WindowAcknowledgementSize(2_500_000)),  # FFmpeg
    (message(4, "00030000000100000bb8"), SetBufferLength(1, 3000)),  # FFmpeg
    (message(4, "0003000000000000012c"), SetBufferLength(0, 300)),  # rtmpdump
    (message(3, "0003d090"), Acknowledgement(250_000)),  # §5.4.3
    (message(4, "000600000bb8"), PingRequest(3000)),  # §7.1.7
    (message(4, "000700000bb8"), Unused(4)),
    (message(4, "001f00000001"), Unused(4)),  # Buffer Empty
    (message(4, "ffff"), Unused(4)),
    (message(20, FFMPEG_CREATE_STREAM), Command(0, "createStream", 2.0, {}, ())),
    (message(17, "00" + FFMPEG_CREATE_STREAM), Command(0, "createStream", 2.0, {}, ())),
    (message(20, "020001 61"), Command(0, "a", 0.0, {}, ())),
    (
        message(20, "020005 7061757365 000000000000000000 05 0101 00408f400000000000", 1),
        Command(1, "pause", 0.0, {}, (True, 1000.0)),
    ),
    (message(6, "002625a002"), Unused(6)),
    (message(8, "af00"), Unused(8)),
    (message(9, ""), Unused(9)),
    (message(18, "020001 61"), Unused(18)),
    (message(255, "00"), Unused(255)),
]


@pytest.mark.parametrize(("sent", "received"), RECEIVED)
def test_recorded_messages_are_parsed(sent: Message, received: Received) -> None:
    assert parse(sent) == received


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (message(3, "000000"), "Acknowledgement of 3"),
        (message(5, "0000000000"), "Window Acknowledgement Size of 5"),
        (message(4, "00"), "user control message of 1"),
        (message(4, "000300000001"), "Set Buffer Length of 4"),
        (message(4, "0006"), "Ping Request of 0"),
    ],
)
def test_malformed_control_message_is_refused(sent: Message, error: str) -> None:
    with pytest.raises(ProtocolError, match=error):
        parse(sent)


NUMBER_1 = "003ff0000000000000"


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        (message(20, ""), Unused(20)),
        (message(20, "05"), Unused(20)),
        (message(20, "0200ff 61"), Unused(20)),
        (message(17, ""), Unused(17)),
        (message(17, "0006"), Unused(17)),
        # a transaction that is not a number, or is truncated
        (message(20, "020001 61 05"), Command(0, "a", 0.0, {}, ())),
        (message(20, "020001 61 0101"), Command(0, "a", 0.0, {}, ())),
        (message(20, "020001 61 00"), Command(0, "a", 0.0, {}, ())),
        # AMF0 without the byte before it
        (message(17, FFMPEG_CREATE_STREAM), Command(0, "createStream", 2.0, {}, ())),
        # a reference, a movie clip and an AMF3 string among the arguments, and as a property
        (message(20, f"020001 61 {NUMBER_1} 05 070000 {NUMBER_1}"),
         Command(0, "a", 1.0, {}, (UNDEFINED, 1.0))),
        (message(20, f"020001 61 {NUMBER_1} 05 04 {NUMBER_1}"),
         Command(0, "a", 1.0, {}, (UNDEFINED, 1.0))),
        (message(20, f"020001 61 {NUMBER_1} 05 {NUMBER_1} 110607616263 {NUMBER_1}"),
         Command(0, "a", 1.0, {}, (1.0, "abc", 1.0))),
        (message(20, f"020001 61 {NUMBER_1} 03 0001 62 {NUMBER_1} 0001 63 110607616263 000009 05"),
         Command(0, "a", 1.0, {"b": 1.0, "c": "abc"}, (None,))),
        (message(20, f"020001 61 {NUMBER_1} 03 0001 62 {NUMBER_1} 0001 63 070000 000009 0101"),
         Command(0, "a", 1.0, {"b": 1.0, "c": UNDEFINED}, (True,))),
        (message(20, f"020001 61 {NUMBER_1} 03 0001 62 {NUMBER_1} 0009"),
         Command(0, "a", 1.0, {"b": 1.0}, ())),
    ],
)  # fmt: skip
def test_readable_part_of_a_command_is_parsed(sent: Message, received: Received) -> None:
    assert parse(sent) == received


def test_missing_arguments_are_undefined() -> None:
    command = Command(1, "play", 0.0, {}, ("name",))
    assert (command.argument(0), command.argument(1)) == ("name", UNDEFINED)


# Whole chunks as nginx-rtmp-module 1.2.2 sends them.
@pytest.mark.parametrize(
    ("built", "recorded"),
    [
        (
            messages.window_acknowledgement_size(5_000_000),
            "020000000000040500000000 004c4b40",
        ),
        (
            messages.set_peer_bandwidth(5_000_000, BandwidthLimit.DYNAMIC),
            "020000000000050600000000 004c4b4002",
        ),
        (messages.set_chunk_size(256), "020000000000040100000000 00000100"),
        (
            messages.user_control(UserControlEvent.STREAM_BEGIN, 1),
            "020000000000060400000000 000000000001",
        ),
        (
            messages.user_control(UserControlEvent.STREAM_IS_RECORDED, 1),
            "020000000000060400000000 000400000001",
        ),
        (
            messages.command(0, "_result", 2.0, None, 1.0),
            "0300000000001d1400000000 0200075f726573756c74004000000000000000 05 003ff0000000000000",
        ),
    ],
)
def test_built_messages_equal_recorded_ones(built: Message, recorded: str) -> None:
    assert encode_message(built, 128) == bytes.fromhex(recorded)


def test_acknowledgements_roll_over() -> None:
    assert messages.acknowledgement(0x1_0000_0001).payload == b"\0\0\0\1"


def test_status_is_an_information_object() -> None:
    status = messages.on_status(1, StatusLevel.ERROR, "NetStream.Play.Failed", "No.", details="x")
    assert status.type_id == MessageType.COMMAND
    assert status.stream_id == 1
    assert amf0.decode_all(status.payload) == [
        "onStatus",
        0.0,
        None,
        {"level": "error", "code": "NetStream.Play.Failed", "description": "No.", "details": "x"},
    ]


def test_status_may_be_sent_on_any_stream_id() -> None:
    status = messages.on_status(0xFFFFFFFF, StatusLevel.ERROR, "NetStream.Play.Failed", "No.")
    assert encode_message(status, 128)[8:12] == b"\xff\xff\xff\xff"


def test_media_header_is_the_beginning_of_the_message() -> None:
    body = bytes(70_000)
    for timestamp_ms in (0, 0xFFFFFE, 0xFFFFFF, 0x1_0000_0000):
        header = messages.media_header(1, MessageType.AGGREGATE, timestamp_ms, len(body))
        whole = messages.media(1, MessageType.AGGREGATE, timestamp_ms, body)
        assert header + body == encode_message(whole, 0xFFFFFF)


def test_media_chunks_join_to_the_message() -> None:
    body = bytes(range(256)) * 300
    for timestamp_ms in (0, 0xFFFFFE, 0xFFFFFF, 0x1_0000_0000):
        whole = messages.media(61, MessageType.VIDEO, timestamp_ms, body[7:-5])
        for chunk_size_bytes in (128, 4096, 70_000, 1 << 20):
            span = Span(7, len(body) - 5)
            chunks = messages.media_chunks(
                61, MessageType.VIDEO, timestamp_ms, span, chunk_size_bytes
            )
            sent = b"".join(header + body[part.start : part.end] for header, part in chunks)
            assert sent == encode_message(whole, chunk_size_bytes)


def test_data_and_media_of_a_stream_share_a_chunk_stream() -> None:
    assert messages.data(2, 40, "onMetaData").chunk_stream_id == 5
    assert messages.media(2, MessageType.VIDEO, 40, b"").chunk_stream_id == 5


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 255), st.binary(max_size=60))
def test_any_message_parses_or_raises_protocol_error(type_id: int, payload: bytes) -> None:
    try:
        parse(Message(type_id, 1, 0, payload, 3))
    except ProtocolError:
        return
