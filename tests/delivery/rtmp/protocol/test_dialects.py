"""What clients send that differs from the specification, each with its source.

The bytes are written by hand from the descriptions in the named reports and programs. Recorded
bytes are in ``vectors``.
"""

from __future__ import annotations

import pytest

from streamedge.delivery.rtmp.protocol import amf0
from streamedge.delivery.rtmp.protocol.amf_values import AmfValue, EcmaArray
from streamedge.delivery.rtmp.protocol.chunks import Message, encode_message
from streamedge.delivery.rtmp.protocol.connection import ServerConnection
from streamedge.delivery.rtmp.protocol.events import (
    Acknowledged,
    Connect,
    CreateStream,
    Event,
    OptionalCall,
    Play,
    Start,
)
from tests.delivery.rtmp.protocol.test_connection import (
    HANDSHAKE,
    LIMIT_BYTES,
    RANDOM,
    Client,
    connected,
)

URL = "rtmp://edge.example.com/vod"
AUDIO, DATA, COMMAND, DATA_AMF3, COMMAND_AMF3 = 8, 18, 20, 15, 17


def command(*values: AmfValue, type_id: int = COMMAND, prefix: bytes = b"") -> Message:
    return Message(type_id, 0, 0, prefix + amf0.encode(*values), 3)


def connected_by(message: Message) -> Connect:
    (event,) = Client().send(message)
    assert isinstance(event, Connect)
    return event


# connect


@pytest.mark.parametrize(
    "properties",
    [
        {"tcUrl": f"'{URL}'"},  # gortmplib strips single quotation marks
        {"tcUrl": f'"{URL}"'},
        {"tcurl": URL},  # gortmplib reads this name as well
        {"tcurl": f"'{URL}'"},
        EcmaArray(tcUrl=URL),  # gortmplib: the command object as an ECMA array
    ],
)
def test_tc_url_of_each_form_is_read(properties: dict[str, AmfValue]) -> None:
    kind = EcmaArray if isinstance(properties, EcmaArray) else dict
    connect = connected_by(command("connect", 1.0, kind(app="vod", **properties)))
    assert (connect.app, connect.tc_url) == ("vod", URL)


@pytest.mark.parametrize(
    ("type_id", "prefix"),
    [
        (COMMAND_AMF3, b"\x00"),  # Flash Player with objectEncoding 3
        (COMMAND_AMF3, b""),  # a player of Wowza's (elixir-media-libs #2)
    ],
)
def test_command_of_amf3_messages_is_read(type_id: int, prefix: bytes) -> None:
    properties: dict[str, AmfValue] = {"app": "vod", "tcUrl": URL, "objectEncoding": 3.0}
    message = command("connect", 1.0, properties, type_id=type_id, prefix=prefix)
    assert connected_by(message).tc_url == URL


def test_command_object_in_amf3_is_read() -> None:
    # E-RTMP v2, objectEncoding 3: an AMF3 value stands behind 11h.
    properties = (
        bytes.fromhex("0a0b01 07617070 0607766f64 0b746355726c") + b"\x06\x37" + URL.encode()
    )
    payload = b"\0" + amf0.encode("connect", 1.0) + b"\x11" + properties + b"\x01"
    connect = connected_by(Message(COMMAND_AMF3, 0, 0, payload, 3))
    assert (connect.app, connect.tc_url) == ("vod", URL)


# Chunks


@pytest.mark.parametrize(
    "header",
    [
        "00 06",  # two bytes, 70: a digital video recorder (nginx-rtmp-module #246)
        "01 06 00",  # three bytes, 70: PTZOptics cameras (mediamtx #4807)
        "01 00 01",  # three bytes, 320
        "00 00",  # two bytes, 64
    ],
)
def test_long_chunk_stream_ids_are_read(header: str) -> None:
    client = connected()
    payload = amf0.encode("createStream", 4.0, None)
    start = (
        bytes.fromhex(header) + bytes(3) + len(payload).to_bytes(3) + bytes((COMMAND,)) + bytes(4)
    )
    assert client.engine.receive_data(start + payload) == [CreateStream(2)]


@pytest.mark.parametrize("size", [None, 4096, 134_217_728])
def test_chunk_size_of_each_encoder_is_taken(size: int | None) -> None:
    """FFmpeg and rtmpsink announce none, OBS 4096 (media-fish #5), vdk 128 MiB (vdk #16)."""
    client = connected()
    if size is not None:
        client.send(Message(1, 0, 0, size.to_bytes(4), 2))
    name = "x" * 3000
    message = Message(COMMAND, 1, 0, amf0.encode("play", 0.0, None, name), 8)
    (event,) = client.engine.receive_data(encode_message(message, size or 128))
    assert event == Play(1, name, Start.ANY, None, reset=True)


@pytest.mark.parametrize("repeats", [True, False])
def test_extended_timestamp_may_be_missing_in_continuations(repeats: bool) -> None:
    """Repeated by the specification, not by OBS (PR #10097), RootEncoder (#1179), yasea (#16)."""
    client = connected()
    payload = amf0.encode("play", 0.0, None, "y" * 200)
    time = (0x01_02_03_04).to_bytes(4)
    start = (
        b"\x08\xff\xff\xff" + len(payload).to_bytes(3) + bytes((COMMAND,)) + b"\x01\0\0\0" + time
    )
    parts = [payload[at : at + 128] for at in range(0, len(payload), 128)]
    data = start + (b"\xc8" + (time if repeats else b"")).join(parts)
    (event,) = client.engine.receive_data(data)
    assert event == Play(1, "y" * 200, Start.ANY, None, reset=True)


def test_acknowledgements_go_on_after_4_gib() -> None:
    """Encoders stop near 4 GB unless the numbers wrap (SRS #598, #730)."""
    client = connected()
    for number in (0xFFFF_FFFF, 0, 2_500_000):
        event = client.send(Message(3, 0, 0, number.to_bytes(4), 2))
        assert event == [Acknowledged(number)]


# Publishers, which are refused


def test_fc_publish_with_a_transaction_gets_its_result() -> None:
    """Livestream Studio 6 and hardware encoders wait for it (membrane_rtmp_plugin PR #115)."""
    client = connected()
    assert client.call("FCPublish", "key", transaction=5) == [OptionalCall("FCPublish")]
    assert client.answers() == [(0, ["_result", 5.0, None, None])]


MEDIA_FIRST: list[tuple[str, list[Message]]] = [
    ("Rogue Amoeba: media before metadata (mediamtx #386)", [Message(AUDIO, 1, 0, b"\xaf\0", 4)]),
    (
        "FFmpeg: @setDataFrame",
        [Message(DATA, 1, 0, amf0.encode("@setDataFrame", "onMetaData", EcmaArray()), 4)],
    ),
    (
        "Flash Player: @setDataFrame in AMF3",
        [Message(DATA_AMF3, 1, 0, b"\0" + amf0.encode("@setDataFrame", "onMetaData", {}), 4)],
    ),
    (
        "DJI: no metadata, AAC header first (mediamtx #928), absurd codecs (mediamtx #2393)",
        [Message(AUDIO, 1, 0, b"\xff\xff\xff", 4), Message(9, 1, 0, b"\xf0????\0", 4)],
    ),
    (
        "Panasonic: data in the middle of the stream (mediamtx #577)",
        [Message(AUDIO, 1, 0, b"", 4), Message(DATA, 1, 40, b"\x02\0\x01x", 4)],
    ),
    (
        "OBS: the second audio track as AMF bytes (mediamtx #2986)",
        [Message(DATA, 1, 0, b"\x02\0\x0eadditionalMedia" + bytes(30), 4)],
    ),
]


@pytest.mark.parametrize(("source", "sent"), MEDIA_FIRST)
def test_media_of_a_publisher_do_not_end_the_connection(source: str, sent: list[Message]) -> None:
    client = connected()
    client.call("publish", "key", "live", stream_id=1)
    (_, (name, *_rest)), *_more = client.answers()
    assert name == "onStatus"
    for message in sent:
        assert client.send(message) == [], source
    assert client.received() == []
    assert client.call("createStream", transaction=6) == [CreateStream(2)]


def test_whole_answer_is_one_write() -> None:
    """Wirecast reads no message that is split over segments (go-livepeer #452)."""
    engine = ServerConnection(random=RANDOM, message_limit_bytes=LIMIT_BYTES)
    engine.receive_data(HANDSHAKE)
    engine.data_to_send()
    events: list[Event] = engine.receive_data(
        encode_message(command("connect", 1.0, {"app": "vod", "tcUrl": URL}), 128)
    )
    assert isinstance(events[0], Connect)
    engine.accept_connect(1.0)
    assert b"onBWDone" in engine.data_to_send()
    assert engine.data_to_send() == b""
