"""The engine: recorded players from first byte to last, every refusal, and a foreign library."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyrtmp import random_byte_array
from pyrtmp.amf.serializers import AMF0Deserializer, AMF0Serializer
from pyrtmp.messages import Chunk
from pyrtmp.messages.handshake import C0, C1, C2
from pyrtmp.session_manager import BitStream, SessionManager

from streamedge.delivery.rtmp.protocol import amf0, messages
from streamedge.delivery.rtmp.protocol.amf_values import UNDEFINED, AmfValue, EcmaArray
from streamedge.delivery.rtmp.protocol.chunks import (
    ChunkReader,
    Message,
    MessageType,
    encode_message,
)
from streamedge.delivery.rtmp.protocol.connection import (
    DEFERRED_MESSAGES_LIMIT,
    OUT_CHUNK_SIZE_BYTES,
    ServerConnection,
)
from streamedge.delivery.rtmp.protocol.errors import ProtocolError
from streamedge.delivery.rtmp.protocol.events import (
    Acknowledged,
    BufferLength,
    CallResult,
    CheckBandwidth,
    CloseStream,
    Connect,
    CreateStream,
    DeleteStream,
    Event,
    GetStreamLength,
    Ignored,
    OptionalCall,
    Pause,
    Play,
    Receive,
    Seek,
    Start,
)
from streamedge.delivery.rtmp.protocol.messages import StatusLevel, UserControlEvent
from streamedge.delivery.rtmp.protocol.states import TRANSITIONS, Cause, State

VECTORS = Path(__file__).parent / "vectors"
RANDOM = bytes(index * 7 % 251 for index in range(1528))
HANDSHAKE = b"\x03" + bytes(1536) + bytes(1536)
LIMIT_BYTES = 65_536


class Client:
    """A client that sends the bytes of a test and parses the engine's responses."""

    def __init__(self, **options: int) -> None:
        self.engine = ServerConnection(random=RANDOM, message_limit_bytes=LIMIT_BYTES, **options)
        self._reader = ChunkReader(message_limit_bytes=1 << 24)
        self.engine.receive_data(HANDSHAKE)
        assert len(self.engine.data_to_send()) == 3073

    def send(self, message: Message) -> list[Event]:
        return self.engine.receive_data(encode_message(message, 128))

    def call(
        self, name: str, *arguments: AmfValue, stream_id: int = 0, transaction: float = 0.0
    ) -> list[Event]:
        return self.send(messages.command(stream_id, name, transaction, None, *arguments))

    def received(self) -> list[Message]:
        return self._reader.receive_data(self.engine.data_to_send())

    def answers(self) -> list[tuple[int, list[AmfValue]]]:
        """Stream id and values of each command and data message received."""
        return [
            (message.stream_id, amf0.decode_all(message.payload))
            for message in self.received()
            if message.type_id in (MessageType.COMMAND, MessageType.DATA)
        ]

    def connect(self, **properties: AmfValue) -> Connect:
        (event,) = self.send(messages.command(0, "connect", 1.0, {"app": "vod", **properties}))
        assert isinstance(event, Connect)
        return event


def connected(**options: int) -> Client:
    """A client with stream 1."""
    client = Client(**options)
    client.engine.accept_connect(client.connect().transaction)
    assert client.call("createStream", transaction=2) == [CreateStream(1)]
    client.received()
    return client


def replay(data: bytes, piece_bytes: int) -> tuple[list[Event], bytes]:
    """Feeds recorded bytes and accepts the connect; returns all events and all sent bytes."""
    engine = ServerConnection(random=RANDOM, message_limit_bytes=LIMIT_BYTES)
    occurred: list[Event] = []
    for start in range(0, len(data), piece_bytes):
        for event in engine.receive_data(data[start : start + piece_bytes]):
            occurred.append(event)
            if isinstance(event, Connect):
                occurred += engine.accept_connect(event.transaction)
    return occurred, engine.data_to_send()


# Recorded clients

AS_FFMPEG_PLAYS = [
    CreateStream(1),
    OptionalCall("_checkbw"),
    GetStreamLength(4.0, "mp4:dir/film.mp4"),
    Play(1, "mp4:dir/film.mp4", Start.ANY, None, reset=True),
    BufferLength(1, 3000),
]


@pytest.mark.parametrize(
    ("recording", "app", "four_cc_list", "expected"),
    [
        ("ffmpeg_play.bin", "cfx/st", (), AS_FFMPEG_PLAYS),
        ("ffmpeg_play_enhanced.bin", "cfx/st", ("hvc1", "av01", "vp09"), AS_FFMPEG_PLAYS),
        (
            "rtmpdump_play_from_30_to_60.bin",
            "cfx/st/dir",
            (),
            [
                BufferLength(0, 300),
                CreateStream(1),
                OptionalCall("_checkbw"),
                Play(1, "mp4:film", 30_000, 30_000, reset=True),
                BufferLength(1, 36_000_000),
            ],
        ),
        (
            "rtmpdump_play_signed.bin",
            "cfx/st/dir",
            (),
            [
                BufferLength(0, 300),
                CreateStream(1),
                OptionalCall("_checkbw"),
                Play(1, "mp4:film", 0, None, reset=True),
                BufferLength(1, 36_000_000),
            ],
        ),
        (
            "rtmp2src_play.bin",
            "cfx/st",
            (),
            [
                BufferLength(0, 300),
                CreateStream(1),
                Play(1, "mp4:film.mp4", Start.ANY, None, reset=True),
                BufferLength(1, 30_000),
            ],
        ),
        (
            "rtmpsrc_play.bin",
            "cfx/st",
            (),
            [
                BufferLength(0, 300),
                CreateStream(1),
                OptionalCall("_checkbw"),
                Play(1, "mp4:film.mp4", 0, None, reset=True),
                BufferLength(1, 30_000),
                Acknowledged(252_071),
                DeleteStream(1),
            ],
        ),
        (
            "ffmpeg_publish_refused.bin",
            "cfx/st",
            (),
            [
                OptionalCall("releaseStream"),
                OptionalCall("FCPublish"),
                CreateStream(1),
                OptionalCall("_checkbw"),
                Ignored("publish"),
            ],
        ),
    ],
)
def test_recorded_client_gets_the_expected_events(
    recording: str, app: str, four_cc_list: tuple[str, ...], expected: list[Event]
) -> None:
    data = (VECTORS / recording).read_bytes()
    (connect, *rest), sent = replay(data, len(data))
    assert isinstance(connect, Connect)
    assert (connect.app, connect.four_cc_list) == (app, four_cc_list)
    assert connect.tc_url.startswith("rtmp://127.0.0.1:")
    assert rest == expected
    assert replay(data, 1) == ([connect, *rest], sent)
    assert replay(data + b"\x03\x00", len(data) + 2) == ([connect, *rest], sent)


# connect


def test_connect_is_answered_in_the_order_of_flash_media_server() -> None:
    client = Client()
    assert client.engine.accept_connect(client.connect().transaction) == []
    window, bandwidth, begin, result, checked = client.received()
    assert window.payload == (2_500_000).to_bytes(4)
    assert bandwidth.payload == (2_500_000).to_bytes(4) + b"\x02"
    assert begin.payload == bytes(6)
    assert amf0.decode_all(result.payload) == [
        "_result",
        1.0,
        {"fmsVer": "FMS/3,5,7,7009", "capabilities": 31.0},
        {
            "level": "status",
            "code": "NetConnection.Connect.Success",
            "description": "Connection succeeded.",
            "objectEncoding": 0.0,
        },
    ]
    assert amf0.decode_all(checked.payload) == ["onBWDone", 0.0, None]
    assert client.engine.state is State.CONNECTED


def test_set_chunk_size_comes_before_the_result() -> None:
    client = Client()
    client.engine.accept_connect(client.connect().transaction)
    sent = client.engine.data_to_send()
    announced = sent.index(encode_message(messages.set_chunk_size(OUT_CHUNK_SIZE_BYTES), 128))
    assert announced < sent.index(b"_result")


def test_enhanced_client_gets_the_forwarded_codecs() -> None:
    client = Client()
    client.engine.accept_connect(client.connect(capsEx=1.0).transaction)
    (_, result), _ = client.answers()
    assert isinstance(result[2], dict)
    assert result[2]["fourCcList"] == ["*"]
    assert result[2]["videoFourCcInfoMap"] == {"*": 4.0}
    assert result[2]["audioFourCcInfoMap"] == {"*": 4.0}
    assert result[2]["capsEx"] == 3.0  # reconnect and multitrack


def test_rejected_connect_gets_an_error() -> None:
    client = Client()
    transaction = client.connect().transaction
    client.call("createStream", transaction=2)
    client.engine.reject_connect(
        transaction, "NetConnection.Connect.InvalidApp", "No such app.", application={"code": 404.0}
    )
    ((_, answer),) = client.answers()
    assert answer[:2] == ["_error", 1.0]
    assert answer[3] == {
        "level": "error",
        "code": "NetConnection.Connect.InvalidApp",
        "description": "No such app.",
        "application": {"code": 404.0},
    }
    assert client.engine.state is State.REJECTED
    assert client.call("createStream", transaction=3) == [Ignored("createStream")]


def test_messages_sent_before_the_connect_response_are_deferred() -> None:
    client = Client()
    transaction = client.connect().transaction
    assert client.call("createStream", transaction=2) == []
    assert client.call("play", "film", stream_id=1) == []
    assert client.received() == []
    assert client.engine.accept_connect(transaction) == [
        CreateStream(1),
        Play(1, "film", Start.ANY, None, reset=True),
    ]


def test_deferred_messages_are_limited() -> None:
    client = Client()
    client.connect()
    for _ in range(DEFERRED_MESSAGES_LIMIT):
        client.call("createStream", transaction=2)
    with pytest.raises(ProtocolError, match="before the response to connect"):
        client.call("createStream", transaction=2)


def test_commands_before_connect_are_refused() -> None:
    client = Client()
    assert client.call("createStream", transaction=1) == [Ignored("createStream")]
    assert client.call("play", "film", stream_id=1) == [Ignored("play")]
    (_, error), (stream_id, status) = client.answers()
    assert error[:2] == ["_error", 1.0]
    assert stream_id == 1
    assert status[3] == {
        "level": "error",
        "code": "NetStream.Play.Failed",
        "description": "Connect to an application first.",
    }
    client.connect()


def test_second_connect_is_refused() -> None:
    client = connected()
    assert client.call("connect", transaction=9) == [Ignored("connect")]
    ((_, answer),) = client.answers()
    assert answer[:2] == ["_error", 9.0]
    assert client.engine.state is State.CONNECTED


def test_only_a_pending_connect_can_be_accepted() -> None:
    for client in (Client(), connected()):
        with pytest.raises(KeyError):
            client.engine.accept_connect(1.0)


# Streams


def test_lowest_free_stream_id_is_used() -> None:
    client = connected(streams_limit=3)
    client.call("createStream", transaction=3)
    client.call("createStream", transaction=4)
    assert client.call("createStream", transaction=5) == [Ignored("createStream")]
    assert client.call("deleteStream", 1.0) == [DeleteStream(1)]
    assert client.call("deleteStream", 1.0) == [Ignored("deleteStream")]
    assert client.call("createStream", transaction=6) == [CreateStream(1)]
    answers = [values for _, values in client.answers()]
    assert [values[:2] for values in answers] == [
        ["_result", 3.0],
        ["_result", 4.0],
        ["_error", 5.0],
        ["_result", 6.0],
    ]
    assert answers[3][3] == 1.0


def test_play_becomes_an_event() -> None:
    occurred = connected().call("play", "film?Expires=1", 1500.0, -1000.0, False, stream_id=1)
    assert occurred == [Play(1, "film?Expires=1", 1500, None, reset=False)]


def test_play_false_closes_the_stream() -> None:
    assert connected().call("play", False, stream_id=1) == [CloseStream(1, is_stop=True)]


@pytest.mark.parametrize(
    ("name", "arguments", "stream_id", "code"),
    [
        ("play", ("film",), 2, "NetStream.Play.Failed"),
        ("play2", ({"streamName": "film", "transition": "crossfade"},), 1, "NetStream.Failed"),
        ("play2", ({"transition": "switch"},), 1, "NetStream.Failed"),
        ("play2", ({"streamName": "film", "transition": 7.0},), 1, "NetStream.Failed"),
        ("play2", ("film",), 1, "NetStream.Failed"),
        ("play2", (), 1, "NetStream.Failed"),
        ("play2", ({"streamName": "film"},), 2, "NetStream.Failed"),
        ("play", ("film",), 0, "NetStream.Play.Failed"),
        ("play", ("film",), 0xFFFFFFFF, "NetStream.Play.Failed"),
        ("play", (), 1, "NetStream.Play.Failed"),
        ("play", (0.0,), 1, "NetStream.Play.Failed"),
        ("seek", (0.0,), 2, "NetStream.Seek.Failed"),
        ("pause", (True, 0.0), 2, "NetStream.Failed"),
        ("receiveAudio", (False,), 2, "NetStream.Failed"),
        ("receiveVideo", ("no",), 1, "NetStream.Failed"),
        ("receiveVideo", (), 1, "NetStream.Failed"),
        ("publish", ("film", "live"), 1, "NetStream.Publish.BadName"),
    ],
)
def test_invalid_stream_command_is_refused(
    name: str, arguments: tuple[AmfValue, ...], stream_id: int, code: str
) -> None:
    client = connected()
    assert client.call(name, *arguments, stream_id=stream_id) == [Ignored(name)]
    ((answered_id, values),) = client.answers()
    assert answered_id == stream_id
    assert values[0] == "onStatus"
    assert isinstance(values[3], dict)
    assert (values[3]["level"], values[3]["code"]) == ("error", code)
    assert values[3]["description"]


def test_seek_becomes_an_event() -> None:
    client = connected()
    assert client.call("seek", 1000.7, stream_id=1) == [Seek(1, 1000)]
    assert client.call("seek", -5.0, stream_id=1) == [Seek(1, 0)], "clamped, never refused"
    assert client.call("seek", stream_id=1) == [Seek(1, 0)]


@pytest.mark.parametrize("name", ["pause", "pauseRaw"])
def test_pause_becomes_an_event(name: str) -> None:
    client = connected()

    def pause(*arguments: AmfValue) -> Event:
        (event,) = client.call(name, *arguments, stream_id=1)
        return event

    assert pause(True, 1200.0) == Pause(1, True, 1200)
    assert pause(True, 1200.0) == Pause(1, True, 1200)
    assert pause(0.0, 1300.0) == Pause(1, False, 1300)
    assert pause(None, 5.0) == Pause(1, True, 5), "no flag: the other way round"
    assert pause() == Pause(1, False, 0)
    pause(True, 0.0)
    client.call("play", "next", stream_id=1)
    assert pause(UNDEFINED) == Pause(1, True, 0), "a play ends the pause"


def test_receive_audio_and_video_become_events() -> None:
    client = connected()

    def receive(name: str, flag: AmfValue) -> frozenset[int]:
        (event,) = client.call(name, flag, stream_id=1)
        assert isinstance(event, Receive)
        assert event.stream_id == 1
        return event.left_out

    assert receive("receiveAudio", False) == {8}
    assert receive("receiveVideo", False) == {8, 9}
    assert receive("receiveVideo", False) == {8, 9}
    client.call("play", "next", stream_id=1)
    assert receive("receiveAudio", 1.0) == {9}, "holds over plays"
    assert receive("receiveVideo", True) == set()
    assert receive("receiveVideo", 0.0) == {9}, "no frame a second"
    client.call("deleteStream", 1.0)
    client.call("createStream", transaction=3)
    assert receive("receiveAudio", True) == set()


def test_close_stream_keeps_the_stream() -> None:
    client = connected()
    assert client.call("closeStream", stream_id=1) == [CloseStream(1)]
    assert len(client.call("play", "film", stream_id=1)) == 1


# Calls and control messages


@pytest.mark.parametrize(
    "name",
    [
        "releaseStream",
        "FCPublish",
        "FCUnpublish",
        "_checkbw",
        "set_playlist",
    ],
)
def test_optional_calls_get_a_result(name: str) -> None:
    client = connected()
    assert client.call(name, "film", transaction=7) == [OptionalCall(name)]
    assert client.answers() == [(0, ["_result", 7.0, None, None])]
    client.call(name, "film")
    assert client.answers() == []


@pytest.mark.parametrize(
    ("name", "code"),
    [("FCSubscribe", "NetStream.Play.Start"), ("FCUnsubscribe", "NetStream.Play.Stop")],
)
def test_subscription_gets_a_call_and_a_result(name: str, code: str) -> None:
    client = connected()
    assert client.call(name, "film", transaction=7) == [OptionalCall(name)]
    (_, values), (_, result) = client.answers()
    assert values[0] == f"on{name}"
    assert isinstance(values[3], dict)
    assert values[3]["code"] == code
    assert result == ["_result", 7.0, None, None]
    client.call(name, "film")
    assert len(client.answers()) == 1


@pytest.mark.parametrize("name", ["getStreamLength", "no such\ncommand", ""])
def test_unknown_call_gets_an_error(name: str) -> None:
    client = connected()
    assert client.call(name, transaction=7) == [Ignored(name)]
    ((_, values),) = client.answers()
    assert values[:2] == ["_error", 7.0]
    assert isinstance(values[3], dict)
    assert values[3]["code"] == "NetConnection.Call.Failed"
    assert client.call(name) == [Ignored(name)]
    assert client.answers() == [], "transaction 0 wants no answer"


@pytest.mark.parametrize("name", ["_result", "_error", "onStatus"])
def test_result_and_error_commands_get_no_response(name: str) -> None:
    client = connected()
    expected = [] if name == "onStatus" else [CallResult(7.0)]
    assert client.call(name, transaction=7) == expected
    assert client.received() == []


def test_check_of_the_bandwidth_is_an_event_with_a_result() -> None:
    client = connected()
    assert client.call("checkBandwidth", transaction=4) == [CheckBandwidth()]
    assert len(client.answers()) == 1


def test_get_stream_length_becomes_an_event() -> None:
    client = connected()
    assert client.call("getStreamLength", "film", transaction=4) == [GetStreamLength(4.0, "film")]
    client.engine.call_result(4.0, 12.5)
    client.engine.call_error(5.0, "Not found.")
    client.engine.call_result(0.0, 12.5)
    (_, result), (_, error) = client.answers()
    assert result == ["_result", 4.0, None, 12.5]
    assert error[:3] == ["_error", 5.0, None]


def test_control_messages_become_events() -> None:
    client = connected()
    assert client.send(messages.acknowledgement(250_000)) == [Acknowledged(250_000)]
    buffer_length = bytes.fromhex("0003 00000001 00007530")
    assert client.send(Message(4, 0, 0, buffer_length, 2)) == [BufferLength(1, 30_000)]
    assert client.send(Message(8, 1, 0, b"\xaf\x00", 6)) == []
    assert client.send(messages.user_control(UserControlEvent.PING_REQUEST, 99)) == []
    (pong,) = client.received()
    assert pong.payload == bytes.fromhex("0007 00000063")


def test_acknowledgements_follow_the_clients_window() -> None:
    client = connected()
    padding = Message(8, 1, 0, bytes(900), 6)
    client.send(padding)
    assert client.received() == [], "not before the client requests them"
    client.send(messages.window_acknowledgement_size(2000))
    counts = []
    for _ in range(6):
        client.send(padding)
        counts += [int.from_bytes(message.payload) for message in client.received()]
    padding_bytes = len(encode_message(padding, 128))
    assert len(counts) >= 2
    assert all(
        later - earlier == 3 * padding_bytes for earlier, later in itertools.pairwise(counts)
    )


# Messages on a stream


def test_stream_messages_are_written() -> None:
    client = connected()
    engine = client.engine
    engine.stream_is_recorded(1)
    engine.stream_begin(1)
    engine.stream_status(1, StatusLevel.STATUS, "NetStream.Play.Start", "Playing.", details="f")
    engine.sample_access(1)
    engine.data_start(1)
    engine.metadata(1, 40, EcmaArray(duration=10.0))
    engine.media_message(1, MessageType.VIDEO, 40, bytes(70_000))
    engine.play_status(
        1, 10_000, "NetStream.Play.Complete", "All requested media were sent.",
        duration=10.0, bytes=70_000,
    )  # fmt: skip
    engine.stream_eof(1)
    sent = client.received()
    assert [(m.type_id, m.stream_id, m.timestamp_ms) for m in sent] == [
        (4, 0, 0),
        (4, 0, 0),
        (20, 1, 0),
        (18, 1, 0),
        (18, 1, 0),
        (18, 1, 40),
        (9, 1, 40),
        (18, 1, 10_000),
        (4, 0, 0),
    ]
    assert [sent[index].payload.hex() for index in (0, 1, 8)] == [
        "000400000001",
        "000000000001",
        "000100000001",
    ]
    values = [amf0.decode_all(sent[index].payload) for index in (3, 4, 5, 7)]
    assert values[0] == ["|RtmpSampleAccess", False, False]
    assert values[1] == ["onStatus", {"code": "NetStream.Data.Start"}]
    assert type(values[2][1]) is EcmaArray
    assert values[3] == [
        "onPlayStatus",
        {
            "level": "status",
            "code": "NetStream.Play.Complete",
            "description": "All requested media were sent.",
            "duration": 10.0,
            "bytes": 70_000.0,
        },
    ]


def test_separately_sent_body_fits_between_messages() -> None:
    client = connected()
    reader = ChunkReader(message_limit_bytes=1 << 24)
    reader.receive_data(encode_message(messages.set_chunk_size(OUT_CHUNK_SIZE_BYTES), 128))
    body = bytes(300_000)
    client.engine.stream_begin(1)
    sent = client.engine.data_to_send()
    sent += messages.media_header(1, MessageType.AGGREGATE, 0x1000000, len(body)) + body
    client.engine.stream_eof(1)
    sent += client.engine.data_to_send()
    assert [len(message.payload) for message in reader.receive_data(sent)] == [6, 300_000, 6]


# Failure


def test_failed_connection_stays_failed() -> None:
    client = connected()
    with pytest.raises(ProtocolError, match="never sent"):
        client.engine.receive_data(b"\xff")
    assert client.engine.state is State.FAILED
    with pytest.raises(ProtocolError, match="failed before"):
        client.engine.receive_data(b"")


def test_http_request_fails_the_handshake_at_once() -> None:
    engine = ServerConnection(random=RANDOM, message_limit_bytes=LIMIT_BYTES)
    with pytest.raises(ProtocolError, match="not RTMP"):
        engine.receive_data(b"GET / HTTP/1.1\r\n\r\n")
    assert engine.state is State.FAILED
    assert engine.data_to_send() == b""


def test_every_state_but_failed_can_fail() -> None:
    failing = {state for state, cause in TRANSITIONS if cause is Cause.PROTOCOL_BROKEN}
    assert failing == set(State) - {State.FAILED}


arguments = st.lists(
    st.none()
    | st.booleans()
    | st.floats()
    | st.sampled_from(["film", "", "\n", UNDEFINED, -2.0, 1.0, {"app": "vod"}]),
    max_size=5,
)
commands = st.builds(
    lambda name, stream_id, transaction, values: encode_message(
        Message(20, stream_id, 0, amf0.encode(name, transaction, *values), 3), 128
    ),
    st.sampled_from(
        [
            "connect",
            "createStream",
            "play",
            "pause",
            "seek",
            "receiveVideo",
            "deleteStream",
            "publish",
            "FCSubscribe",
        ]
    ),
    st.sampled_from([0, 1, 2, 0xFFFFFFFF]),
    st.floats(),
    arguments,
)
control = st.builds(
    lambda type_id, payload: encode_message(Message(type_id, 0, 0, payload, 2), 128),
    st.integers(1, 22),
    st.binary(max_size=12),
)


@settings(deadline=None, max_examples=300)
@given(st.lists(commands | control | st.binary(max_size=40), max_size=30), st.booleans())
def test_any_bytes_after_the_handshake_are_read_or_refused(
    pieces: list[bytes], accept: bool
) -> None:
    engine = ServerConnection(random=RANDOM, message_limit_bytes=2000, streams_limit=3)
    engine.receive_data(HANDSHAKE)
    for piece in pieces:
        try:
            occurred = engine.receive_data(piece)
        except ProtocolError as exc:
            error = str(exc)
            break
        for event in occurred:
            if isinstance(event, Connect) and accept:
                engine.accept_connect(event.transaction)
        assert len(engine.data_to_send()) <= 6000 + 40 * len(piece)
        stats = engine.stats()
        assert stats.streams <= 3
        assert stats.deferred <= DEFERRED_MESSAGES_LIMIT
        assert stats.reader.unfinished_bytes <= 4000
    else:
        return
    assert "\n" not in error
    assert len(error) < 200
    assert engine.state is State.FAILED


# A foreign library as the client


class Wire:
    """The writer of pyrtmp's session: every write goes to the engine, which returns responses."""

    def __init__(self, engine: ServerConnection, answers: asyncio.StreamReader) -> None:
        self._engine = engine
        self._answers = answers
        self.occurred: list[Event] = []

    def write(self, data: bytes) -> None:
        for event in self._engine.receive_data(data):
            self.occurred.append(event)
            if isinstance(event, Connect):
                self._engine.accept_connect(event.transaction)
        self._answers.feed_data(self._engine.data_to_send())

    async def drain(self) -> None:
        pass


def pyrtmp_command(*values: Any) -> Chunk:
    payload = BitStream()
    for value in values:
        AMF0Serializer.create_object(payload, value)
    return Chunk(
        chunk_type=0,
        chunk_id=3,
        timestamp=0,
        msg_length=len(payload.bytes),
        msg_type_id=20,
        msg_stream_id=0,
        payload=payload.bytes,
    )


async def test_pyrtmp_connects_and_creates_a_stream() -> None:
    answers = asyncio.StreamReader()
    engine = ServerConnection(random=RANDOM, message_limit_bytes=LIMIT_BYTES)
    wire = Wire(engine, answers)
    session = SessionManager(reader=answers, writer=wire)

    c1 = C1(time=0, zero=0, random=random_byte_array(1528))
    wire.write(C0(protocol_version=3).to_bytes() + c1.to_bytes())
    assert (await C0.from_stream(session.fifo_reader)).protocol_version == 3
    s1 = await C1.from_stream(session.fifo_reader)
    assert s1.random == RANDOM
    assert (await C2.from_stream(session.fifo_reader)).random == c1.random
    wire.write(C2(time1=s1.time, time2=0, random=s1.random).to_bytes())

    session.write_chunk_to_stream(
        pyrtmp_command("connect", 1, {"app": "vod", "tcUrl": "rtmp://edge.example/vod"})
    )
    session.write_chunk_to_stream(pyrtmp_command("createStream", 2, None))
    received: list[tuple[int, list[Any]]] = []
    async for chunk in session.read_chunks_from_stream():
        if chunk.msg_type_id == MessageType.SET_CHUNK_SIZE:
            session.reader_chunk_size = int.from_bytes(chunk.payload)
        payload, values = BitStream(chunk.payload), []
        if chunk.msg_type_id == MessageType.COMMAND:
            values = [AMF0Deserializer.from_stream(payload) for _ in range(3)]
        received.append((chunk.msg_type_id, values))
        if values[:2] == ["_result", 2]:
            break

    assert [type_id for type_id, _ in received] == [5, 6, 1, 4, 20, 20, 20]
    assert received[4][1] == ["_result", 1, {"fmsVer": "FMS/3,5,7,7009", "capabilities": 31}]
    assert [type(event) for event in wire.occurred] == [Connect, CreateStream]
