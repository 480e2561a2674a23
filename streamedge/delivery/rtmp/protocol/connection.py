"""One RTMP client's connection as a pure machine: bytes in, events and bytes out.

Handles the handshake, connect, streams, and all responses that do not depend on media. Does no I/O
and reads no clock: the caller feeds it, acts on its events, calls its methods and sends
``data_to_send``. Output is queued until it is fetched, so the caller should stop reading while it
cannot write. The transitions are in ``states``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from streamedge.delivery.rtmp.protocol import events, messages, shared_objects
from streamedge.delivery.rtmp.protocol.amf_values import AmfValue, EcmaArray
from streamedge.delivery.rtmp.protocol.chunks import (
    DEFAULT_CHUNK_SIZE_BYTES,
    ChunkReader,
    ChunkReaderStats,
    Message,
    MessageType,
    encode_message,
)
from streamedge.delivery.rtmp.protocol.errors import ProtocolError
from streamedge.delivery.rtmp.protocol.events import Event, Transition
from streamedge.delivery.rtmp.protocol.handshake import ServerHandshake
from streamedge.delivery.rtmp.protocol.messages import (
    BandwidthLimit,
    Command,
    Received,
    StatusLevel,
    UserControlEvent,
)
from streamedge.delivery.rtmp.protocol.shared_objects import UseSharedObject
from streamedge.delivery.rtmp.protocol.states import TRANSITIONS, Cause, State

# A run of media fits, so its body can be sent as it is in the file. nginx-rtmp refuses more than
# 10 MiB, and allocates as much for each chunk stream.
OUT_CHUNK_SIZE_BYTES: Final = 1 << 20
STREAMS_LIMIT: Final = 16
DEFERRED_MESSAGES_LIMIT: Final = 16  # received before connect is answered

WINDOW_SIZE_BYTES: Final = 2_500_000  # Flash Media Server's value, which clients expect
_SERVER_VERSION: Final = "FMS/3,5,7,7009"
_CAPABILITIES: Final = 31.0
_CAN_FORWARD: Final = 4.0  # E-RTMP v2, FourCcInfoMask

# Optional calls of publishers and subscribers, and replies to onBWDone: an empty result is enough.
_OPTIONAL_CALLS: Final = frozenset(
    {
        "releaseStream",
        "FCPublish",
        "FCUnpublish",
        "FCSubscribe",
        "FCUnsubscribe",
        "_checkbw",
        "checkBandwidth",
        "set_playlist",  # of rtmpdump, for servers that want it
    }
)
# Some Flash players repeat FCSubscribe until they get its call, and only then play. Akamai's
# ActionScript classes read the codes.
_SUBSCRIPTIONS: Final = {
    "FCSubscribe": ("onFCSubscribe", "NetStream.Play.Start", "Subscribed."),
    "FCUnsubscribe": ("onFCUnsubscribe", "NetStream.Play.Stop", "Unsubscribed."),
}
# The status code of a refused stream command; all other commands get an _error.
_STREAM_FAILURES: Final = {
    "play": "NetStream.Play.Failed",
    "play2": "NetStream.Failed",
    "seek": "NetStream.Seek.Failed",
    "pause": "NetStream.Failed",
    "pauseRaw": "NetStream.Failed",
    "receiveAudio": "NetStream.Failed",
    "receiveVideo": "NetStream.Failed",
    "publish": "NetStream.Publish.BadName",
}
_STREAM_COMMANDS: Final = frozenset({*_STREAM_FAILURES, "closeStream"})
_RESPONSES: Final = frozenset({"_result", "_error", "onStatus"})


class ServerConnectionStats(NamedTuple):
    """``streams`` are open, ``deferred`` messages wait for the response to connect."""

    streams: int
    deferred: int
    reader: ChunkReaderStats


@dataclass(slots=True)
class _Stream:
    paused: bool = False
    left_out: frozenset[int] = frozenset()  # media types that the client does not receive


class ServerConnection:
    """The server's side of one client.

    ``random``: 1528 unpredictable bytes for the handshake; None: it was made before, encrypted.
    ``message_limit_bytes``: the largest accepted message.
    ``streams_limit``: most streams open at a time.
    """

    def __init__(
        self,
        *,
        random: bytes | None,
        message_limit_bytes: int,
        streams_limit: int = STREAMS_LIMIT,
    ) -> None:
        self._handshake = None if random is None else ServerHandshake(random)
        self._reader = ChunkReader(message_limit_bytes=message_limit_bytes)
        self._streams_limit = streams_limit
        self._state = State.HANDSHAKE
        self._streams: dict[int, _Stream] = {}
        self._enhanced = False
        self._deferred: list[Received] = []
        self._out = bytearray()
        self._out_chunk_size_bytes = DEFAULT_CHUNK_SIZE_BYTES
        self._received_bytes = 0  # after the handshake, as clients count
        self._acknowledged_bytes = 0
        self.window_size_bytes = WINDOW_SIZE_BYTES
        """The client acknowledges after each of these, or after a part of it."""
        self._window_bytes = 0  # 0 until the client requests Acknowledgements
        self.is_behind = False
        if self._handshake is None:
            self._move(Cause.HANDSHAKE_DONE)

    @property
    def state(self) -> State:
        """The state of the connection."""
        return self._state

    def stats(self) -> ServerConnectionStats:
        """The memory in use now."""
        return ServerConnectionStats(len(self._streams), len(self._deferred), self._reader.stats())

    @property
    def chunks(self) -> int:
        """Chunks parsed so far: a measure of the cost of this client."""
        return self._reader.chunks

    @property
    def has_data_to_send(self) -> bool:
        return bool(self._out)

    def receive_data(self, data: bytes, chunks_max: int = 0) -> list[Event]:
        """Parses data of the client, in pieces of any size, and returns its requests.

        With ``chunks_max`` it parses at most that many chunks, and stops after the first event;
        ``is_behind`` is then True if ``receive_data(b"", …)`` may return more. Raises ProtocolError
        when the client breaks the protocol or exceeds a limit. The connection must then be closed;
        ``data_to_send`` may still return earlier responses.
        """
        if self._state is State.FAILED:
            raise ProtocolError("the connection has failed before")
        try:
            return self._receive(data, chunks_max)
        except ProtocolError:
            self._move(Cause.PROTOCOL_BROKEN)
            raise

    def data_to_send(self) -> bytes:
        """The output since the last call; send it in order, before anything else."""
        data = bytes(self._out)
        self._out.clear()
        return data

    # Responses to events

    def accept_connect(
        self, transaction: float, *, description: str = "Connection succeeded."
    ) -> list[Event]:
        """Accepts the client, with the messages of Flash Media Server in its order.

        Returns the events of messages that the client sent before this response. Most clients wait
        for it.
        """
        self._move(Cause.CONNECT_ACCEPTED)
        self._send(messages.window_acknowledgement_size(self.window_size_bytes))
        self._send(messages.set_peer_bandwidth(self.window_size_bytes, BandwidthLimit.DYNAMIC))
        self._send(messages.set_chunk_size(OUT_CHUNK_SIZE_BYTES))
        self._out_chunk_size_bytes = OUT_CHUNK_SIZE_BYTES
        self.stream_begin(0)
        information = messages.status_information(
            StatusLevel.STATUS, "NetConnection.Connect.Success", description, objectEncoding=0.0
        )
        self._send(messages.command(0, "_result", transaction, self._properties(), information))
        self._send(messages.command(0, "onBWDone", 0.0, None))
        deferred, self._deferred = self._deferred, []
        return self._handle_all(deferred)

    def reject_connect(
        self,
        transaction: float,
        code: str,
        description: str,
        *,
        application: AmfValue = None,
    ) -> None:
        """Rejects the client; the caller closes the connection once this is sent.

        ``code``: NetConnection.Connect.Rejected, .InvalidApp or .Failed. ``application``: the
        ``info.application`` of Flash, a text or an object such as a redirect.
        """
        self._move(Cause.CONNECT_REJECTED)
        self._deferred.clear()
        extra = {} if application is None else {"application": application}
        information = messages.status_information(StatusLevel.ERROR, code, description, **extra)
        self._send(messages.command(0, "_error", transaction, self._properties(), information))

    def request_reconnect(self, description: str, tc_url: str = "") -> None:
        """Asks the client to connect to ``tc_url``, or to another server behind its own tcUrl.

        E-RTMP v2, "Reconnect Request"; only for clients that announced CAN_RECONNECT. The
        connection goes on until the client closes it.
        """
        code = "NetConnection.Connect.ReconnectRequest"
        extra = {"tcUrl": tc_url} if tc_url else {}
        self._send(messages.on_status(0, StatusLevel.STATUS, code, description, **extra))

    def redirect_connect(self, connect: events.Connect, tc_url: str, description: str) -> None:
        """Rejects the client with another server's tcUrl; the caller closes the connection.

        ``ex`` is what Flash Media Server sends. A client with CAN_RECONNECT gets the request of
        E-RTMP v2 before it, for those that know only that one.
        """
        if connect.can_reconnect:
            self.request_reconnect(description, tc_url)
        self._move(Cause.CONNECT_REJECTED)
        self._deferred.clear()
        information = messages.status_information(
            StatusLevel.ERROR,
            "NetConnection.Connect.Rejected",
            description,
            ex={"code": 302.0, "redirect": tc_url},
        )
        transaction = connect.transaction
        self._send(messages.command(0, "_error", transaction, self._properties(), information))

    def call_result(self, transaction: float, value: AmfValue) -> None:
        """Sends ``value`` as the result of a call; transaction 0 gets no response."""
        if transaction != 0:
            self._send(messages.command(0, "_result", transaction, None, value))

    def call_error(
        self, transaction: float, description: str, *, code: str = "NetConnection.Call.Failed"
    ) -> None:
        """Sends an error as the result of a call; transaction 0 gets no response."""
        if transaction != 0:
            information = messages.status_information(StatusLevel.ERROR, code, description)
            self._send(messages.command(0, "_error", transaction, None, information))

    def call(self, name: str, transaction: float, *values: AmfValue) -> None:
        """Calls a method of the client; with transaction 0 it gives no result."""
        self._send(messages.command(0, name, transaction, None, *values))

    # Messages on a playing stream

    def stream_status(
        self, stream_id: int, level: StatusLevel, code: str, description: str, **extra: AmfValue
    ) -> None:
        """onStatus; ``extra`` are further properties such as ``details`` (the stream's name)."""
        self._send(messages.on_status(stream_id, level, code, description, **extra))

    def stream_begin(self, stream_id: int) -> None:
        """The stream is functional (§7.1.7)."""
        self._send(messages.user_control(UserControlEvent.STREAM_BEGIN, stream_id))

    def stream_eof(self, stream_id: int) -> None:
        """No more data follows until the next play or seek."""
        self._send(messages.user_control(UserControlEvent.STREAM_EOF, stream_id))

    def stream_is_recorded(self, stream_id: int) -> None:
        """The stream is a recording: the client may seek."""
        self._send(messages.user_control(UserControlEvent.STREAM_IS_RECORDED, stream_id))

    def sample_access(self, stream_id: int) -> None:
        """Scripts in the player may not read the samples of audio and video."""
        self.data_message(stream_id, 0, "|RtmpSampleAccess", False, False)

    def data_start(self, stream_id: int) -> None:
        """NetStream.Data.Start, which is a data message, unlike other statuses."""
        self.data_message(stream_id, 0, "onStatus", {"code": "NetStream.Data.Start"})

    def metadata(self, stream_id: int, timestamp_ms: int, metadata: EcmaArray) -> None:
        """onMetaData, which players accept only as an ECMA array."""
        self.data_message(stream_id, timestamp_ms, "onMetaData", metadata)

    def play_status(
        self, stream_id: int, timestamp_ms: int, code: str, description: str, **extra: AmfValue
    ) -> None:
        """onPlayStatus: a status that the client handles when it has played up to this message."""
        information = messages.status_information(StatusLevel.STATUS, code, description, **extra)
        self.data_message(stream_id, timestamp_ms, "onPlayStatus", information)

    def data_message(self, stream_id: int, timestamp_ms: int, *values: AmfValue) -> None:
        """Any data message."""
        self._send(messages.data(stream_id, timestamp_ms, *values))

    def media_message(
        self, stream_id: int, type_id: MessageType, timestamp_ms: int, payload: bytes
    ) -> None:
        """A small audio, video or aggregate message; ``messages.media_chunks`` makes the large
        ones.
        """
        self._send(messages.media(stream_id, type_id, timestamp_ms, payload))

    # Messages of the client

    def _receive(self, data: bytes, chunks_max: int) -> list[Event]:
        if self._handshake is not None and self._state is State.HANDSHAKE:
            self._out += self._handshake.receive_data(data)
            if not self._handshake.done:
                return []
            self._move(Cause.HANDSHAKE_DONE)
            data = self._handshake.remainder
        self._received_bytes += len(data)
        self._reader.feed(data)
        client_events = self._read_messages(chunks_max)
        self._acknowledge()
        return client_events

    def _read_messages(self, chunks_max: int) -> list[Event]:
        reader, client_events, chunks_left = self._reader, list[Event](), chunks_max
        chunks_end = reader.chunks + chunks_max
        while (message := reader.next_message(chunks_left)) is not None:
            client_events += self._handle_all([messages.parse(message)])
            chunks_left = chunks_end - reader.chunks
            if chunks_max and (client_events or chunks_left <= 0):
                break
        was_stopped = chunks_max > 0 and (bool(client_events) or reader.chunks == chunks_end)
        self.is_behind = was_stopped and reader.unread_bytes > 0
        return client_events

    def _handle_all(self, received: list[Received]) -> list[Event]:
        client_events = []
        for message in received:
            if self._state is State.CONNECTING:
                self._defer(message)
                continue
            event = self._handle(message)
            if event is not None:
                client_events.append(event)
        return client_events

    def _defer(self, message: Received) -> None:
        if len(self._deferred) >= DEFERRED_MESSAGES_LIMIT:
            raise ProtocolError(
                f"more than {DEFERRED_MESSAGES_LIMIT} messages before the response to connect"
            )
        self._deferred.append(message)

    def _acknowledge(self) -> None:
        unacknowledged_bytes = self._received_bytes - self._acknowledged_bytes
        if self._window_bytes and unacknowledged_bytes >= self._window_bytes:
            self._acknowledged_bytes = self._received_bytes
            self._send(messages.acknowledgement(self._received_bytes))

    def _handle(self, message: Received) -> Event | None:
        match message:
            case Command() as command:
                return self._command(command)
            case messages.SetBufferLength(stream_id, buffer_ms):
                return events.BufferLength(stream_id, buffer_ms)
            case messages.Acknowledgement(sequence_bytes):
                return events.Acknowledged(sequence_bytes)
            case messages.WindowAcknowledgementSize(size_bytes):
                self._window_bytes = size_bytes
            case messages.PingRequest(time_ms):
                self._send(messages.user_control(UserControlEvent.PING_RESPONSE, time_ms))
            case UseSharedObject() if self._state is State.CONNECTED:
                self._send(shared_objects.refusal(message))
                return events.Ignored("shared object")
            case UseSharedObject() | messages.Unused():
                pass
        return None

    def _command(self, command: Command) -> Event | None:
        if command.name in _RESPONSES:
            is_result = command.name != "onStatus" and command.transaction > 0
            return events.CallResult(command.transaction) if is_result else None
        if command.name == "connect":
            return self._connect(command)
        if self._state is not State.CONNECTED:
            return self._refuse(command, "Connect to an application first.")
        match command.name:
            case "createStream":
                return self._create_stream(command)
            case "deleteStream":
                return self._delete_stream(command)
            case "getStreamLength":
                return self._get_stream_length(command)
            case name if name in _STREAM_COMMANDS:
                return self._stream_command(command)
            case name if name in _OPTIONAL_CALLS:
                return self._respond_to_optional_call(command)
            case _:
                return self._refuse(command, "This server has no such command.")

    def _connect(self, command: Command) -> Event:
        if (self._state, Cause.CONNECT_RECEIVED) not in TRANSITIONS:
            return self._refuse(command, "The connection is already connected.")
        self._move(Cause.CONNECT_RECEIVED)
        event = events.read_connect(command)
        self._enhanced = event.is_enhanced
        return event

    def _create_stream(self, command: Command) -> Event:
        if len(self._streams) >= self._streams_limit:
            return self._refuse(
                command, f"No more than {self._streams_limit} streams on one connection."
            )
        # The lowest free id: GStreamer detects the end only of stream 1.
        stream_id = next(
            candidate
            for candidate in range(1, self._streams_limit + 1)
            if candidate not in self._streams
        )
        self._streams[stream_id] = _Stream()
        self.call_result(command.transaction, float(stream_id))
        return events.CreateStream(stream_id)

    def _delete_stream(self, command: Command) -> Event:
        stream_id = events.read_whole(command.argument(0))
        if self._streams.pop(stream_id, None) is None:
            return events.Ignored(command.name)
        return events.DeleteStream(stream_id)

    def _get_stream_length(self, command: Command) -> Event:
        name = command.argument(0)
        if not isinstance(name, str):
            return self._refuse(command, "getStreamLength needs a stream name.")
        return events.GetStreamLength(command.transaction, name)

    def _stream_command(self, command: Command) -> Event:
        stream_id = command.stream_id
        stream = self._streams.get(stream_id)
        if stream is None:
            return self._refuse(command, f"Stream {stream_id} was not created.")
        match command.name:
            case "play":
                return self._play(command, stream)
            case "play2":
                return self._play2(command, stream)
            case "seek":
                return events.Seek(stream_id, events.read_whole(command.argument(0)))
            case "pause" | "pauseRaw":
                flag = events.read_flag(command.argument(0))
                stream.paused = not stream.paused if flag is None else flag
                time_ms = events.read_whole(command.argument(1))
                return events.Pause(stream_id, stream.paused, time_ms)
            case "receiveAudio" | "receiveVideo":
                return self._receive_media(command, stream)
            case "closeStream":
                stream.paused = False
                return events.CloseStream(stream_id)
            case _:
                return self._refuse(command, "This server does not accept publishing.")

    def _play(self, command: Command, stream: _Stream) -> Event:
        stream.paused = False
        match command.argument(0):
            case str() as name:
                return events.read_play(command, name)
            case False:  # NetStream.play(false)
                return events.CloseStream(command.stream_id, is_stop=True)
            case _:
                return self._refuse(command, "play needs a stream name.")

    def _receive_media(self, command: Command, stream: _Stream) -> Event:
        """A number is receiveVideo's frame rate in ActionScript 2; 0 means none."""
        flag = events.read_flag(command.argument(0))
        if flag is None:
            return self._refuse(command, f"{command.name} needs true or false.")
        kinds = {MessageType.AUDIO if command.name == "receiveAudio" else MessageType.VIDEO}
        stream.left_out = stream.left_out - kinds if flag else stream.left_out | kinds
        return events.Receive(command.stream_id, stream.left_out)

    def _play2(self, command: Command, stream: _Stream) -> Event:
        request = events.read_play2(command)
        if isinstance(request, str):
            return self._refuse(command, request)
        is_reset = request.transition is Transition.RESET
        if is_reset or request.transition is Transition.APPEND:
            stream.paused = stream.paused and not is_reset
            name, start, duration_ms = request.name, request.start, request.duration_ms
            return events.Play(command.stream_id, name, start, duration_ms, is_reset)
        if request.transition is Transition.STOP:
            stream.paused = False
            return events.CloseStream(command.stream_id, is_stop=True)
        return request

    def _respond_to_optional_call(self, command: Command) -> Event:
        if command.name in _SUBSCRIPTIONS:
            name, code, description = _SUBSCRIPTIONS[command.name]
            information = messages.status_information(StatusLevel.STATUS, code, description)
            self._send(messages.command(0, name, 0.0, None, information))
        self.call_result(command.transaction, None)
        if command.name == "checkBandwidth":
            return events.CheckBandwidth()
        return events.OptionalCall(command.name)

    def _refuse(self, command: Command, description: str) -> Event:
        """Sends the error in the form that the client expects for this command."""
        code = _STREAM_FAILURES.get(command.name)
        if code is None:
            self.call_error(command.transaction, description)
        else:
            self.stream_status(command.stream_id, StatusLevel.ERROR, code, description)
        return events.Ignored(command.name)

    def _properties(self) -> dict[str, AmfValue]:
        properties: dict[str, AmfValue] = {
            "fmsVer": _SERVER_VERSION,
            "capabilities": _CAPABILITIES,
        }
        if self._enhanced:
            # E-RTMP v2 "Enhancing NetConnection connect Command": media are forwarded in any codec;
            # nothing is decoded or encoded.
            properties |= {
                "fourCcList": ["*"],
                "videoFourCcInfoMap": {"*": _CAN_FORWARD},
                "audioFourCcInfoMap": {"*": _CAN_FORWARD},
                "capsEx": float(events.CAN_RECONNECT | events.CAN_PLAY_MULTITRACK),
            }
        return properties

    def _send(self, message: Message) -> None:
        self._out += encode_message(message, self._out_chunk_size_bytes)

    def _move(self, cause: Cause) -> None:
        self._state = TRANSITIONS[self._state, cause]
