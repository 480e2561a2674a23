"""The events of ``ServerConnection``: a client's requests as values.

Reads command arguments, as the different players send them, into fixed units and ranges. Pure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

from streamedge.delivery.rtmp.protocol.amf_values import UNDEFINED, AmfValue
from streamedge.delivery.rtmp.protocol.messages import Command

TIME_LIMIT_MS: Final = 0xFFFFFFFF  # an RTMP timestamp's range; a later time means "the end"

# §7.2.2.1 has seconds, players send milliseconds, and GStreamer sends the bare numbers.
_LIVE_STARTS: Final = (-1.0, -1000.0)


class Start(Enum):
    """The start of a play that gives no time."""

    ANY = "any"  # a live stream if there is one, else the recording from its beginning
    LIVE = "live"  # a live stream or nothing


class Transition(Enum):
    """How the stream of a play2 joins the playlist (ActionScript 3, NetStreamPlayTransitions)."""

    APPEND = "append"
    APPEND_AND_WAIT = "appendAndWait"
    RESET = "reset"
    RESUME = "resume"
    STOP = "stop"
    SWAP = "swap"
    SWITCH = "switch"


class Offset(Enum):
    """Where a switch happens, if the client gives no time."""

    AFTER_SENT = "after sent"  # after all media that were sent
    SOON = "soon"  # shortly after what the viewer sees now; the client drops its later media


_PLAYABLE: Final = 0b101  # FourCcInfoMask: 1 decode, 4 forward; 2, encode, does not help to play

CAN_RECONNECT: Final = 1
"""capsEx, E-RTMP v2, CapsExMask: the client understands a request to reconnect."""


CAN_PLAY_MULTITRACK: Final = 2
"""capsEx, E-RTMP v2, CapsExMask: the client understands multitrack packets."""


@dataclass(frozen=True, slots=True)
class Connect:
    """The client connects to application ``app``; the server accepts or rejects it.

    The E-RTMP fields are empty when the client did not send them: ``four_cc_list`` are the
    codecs it can receive, the maps give flags by codec (1 decode, 2 encode, 4 forward), and
    ``capabilities_ex`` is capsEx. ``object`` is the command object as received.
    """

    transaction: float
    app: str
    tc_url: str
    flash_version: str
    page_url: str
    swf_url: str
    four_cc_list: tuple[str, ...]
    video_four_cc_info: dict[str, int]
    audio_four_cc_info: dict[str, int]
    capabilities_ex: int
    object: dict[str, AmfValue]

    @property
    def can_reconnect(self) -> bool:
        """Whether the client goes to another tcUrl when the server says so (E-RTMP v2, capsEx)."""
        return bool(self.capabilities_ex & CAN_RECONNECT)

    @property
    def playable_codecs(self) -> frozenset[str]:
        """The Enhanced RTMP codecs that the client can decode or forward; ``*`` means all.

        A map's entry is more exact than ``four_cc_list``, so a listed codec that a map gives as
        encode-only is not playable.
        """
        flags_by_codec = self.video_four_cc_info | self.audio_four_cc_info
        for codec in self.video_four_cc_info.keys() & self.audio_four_cc_info.keys():  # "*"
            flags_by_codec[codec] |= self.video_four_cc_info[codec]
        playable = {codec for codec, flags in flags_by_codec.items() if flags & _PLAYABLE}
        return frozenset(playable | (set(self.four_cc_list) - flags_by_codec.keys()))

    @property
    def can_play_multitrack(self) -> bool:
        """Whether the client understands multitrack packets (E-RTMP v2, capsEx)."""
        return bool(self.capabilities_ex & CAN_PLAY_MULTITRACK)

    @property
    def is_enhanced(self) -> bool:
        """Whether the client sent any E-RTMP field."""
        return any(
            name in self.object
            for name in ("fourCcList", "videoFourCcInfoMap", "audioFourCcInfoMap", "capsEx")
        )


@dataclass(frozen=True, slots=True)
class CreateStream:
    """A stream was created and its id sent to the client."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class Play:
    """``start`` is in milliseconds unless it is a Start; ``duration_ms`` None: to the end, 0: one
    frame. ``reset`` False: append the name to the current play. ``at_once``: without pauses."""

    stream_id: int
    name: str
    start: int | Start
    duration_ms: int | None
    reset: bool
    at_once: bool = False


@dataclass(frozen=True, slots=True)
class Play2:
    """A change of the playlist. ``name`` may be empty for RESUME; ``old_name`` is empty if none was
    given. ``offset`` is in ms of the stream unless it is an Offset.
    """

    stream_id: int
    name: str
    old_name: str
    start: int | Start
    duration_ms: int | None
    transition: Transition
    offset: int | Offset


@dataclass(frozen=True, slots=True)
class Seek:
    stream_id: int
    time_ms: int


@dataclass(frozen=True, slots=True)
class Pause:
    """``time_ms``: where the client paused, or where it resumes."""

    stream_id: int
    paused: bool
    time_ms: int


@dataclass(frozen=True, slots=True)
class Receive:
    """The message types that the stream does not receive, in later plays neither (§7.2.2.4)."""

    stream_id: int
    left_out: frozenset[int]


@dataclass(frozen=True, slots=True)
class CloseStream:
    """Stop playing; the stream stays usable. ``is_stop``: the client expects Play.Stop."""

    stream_id: int
    is_stop: bool = False


@dataclass(frozen=True, slots=True)
class DeleteStream:
    """The stream is deleted and its id is free."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class GetStreamLength:
    """The response is ``call_result(transaction, seconds)`` or ``call_error``."""

    transaction: float
    name: str


@dataclass(frozen=True, slots=True)
class BufferLength:
    """Clients send it for stream 0 too, and often only after play."""

    stream_id: int
    buffer_ms: int


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The client has received this many bytes, modulo 2^32. Not all clients send it."""

    sequence_bytes: int


@dataclass(frozen=True, slots=True)
class Ignored:
    """A command that was refused or has no effect. A response was sent if it needs one."""

    command: str


@dataclass(frozen=True, slots=True)
class OptionalCall:
    """A call that playing does not need, such as FCSubscribe; it has its result."""

    command: str


@dataclass(frozen=True, slots=True)
class CheckBandwidth:
    """The client wants to know how fast it receives; the call has its result."""


@dataclass(frozen=True, slots=True)
class CallResult:
    """The client's result of a call of the server; an error is one as well."""

    transaction: float


Event: TypeAlias = (
    CheckBandwidth
    | CallResult
    | Connect
    | CreateStream
    | Play
    | Play2
    | Seek
    | Pause
    | Receive
    | CloseStream
    | DeleteStream
    | GetStreamLength
    | BufferLength
    | Acknowledged
    | Ignored
    | OptionalCall
)


def read_connect(command: Command) -> Connect:
    """§7.2.1.1 and E-RTMP v2 "Enhancing NetConnection connect Command".

    A field that is missing or of another type reads as empty.
    """
    properties = command.object
    four_cc_list = properties.get("fourCcList")
    return Connect(
        transaction=command.transaction,
        app=_text(properties.get("app")),
        tc_url=_tc_url(properties),
        flash_version=_text(properties.get("flashVer")),
        page_url=_text(properties.get("pageUrl")),
        swf_url=_text(properties.get("swfUrl")),
        four_cc_list=tuple(item for item in four_cc_list if isinstance(item, str))
        if isinstance(four_cc_list, list)
        else (),
        video_four_cc_info=_flags_by_codec(properties.get("videoFourCcInfoMap")),
        audio_four_cc_info=_flags_by_codec(properties.get("audioFourCcInfoMap")),
        capabilities_ex=read_whole(properties.get("capsEx")),
        object=properties,
    )


def read_play(command: Command, name: str) -> Play:
    """§7.2.2.1: play(name, start, duration, reset), of which only the name is required."""
    reset = command.argument(3)
    return Play(
        stream_id=command.stream_id,
        name=name,
        start=_read_start(command.argument(1)),
        duration_ms=_read_duration_ms(command.argument(2)),
        # Flash Media Server's numbers: 0 appends, 1 replaces, 2 and 3 are 0 and 1 without pauses
        # between messages; the default is 1.
        reset=reset in (1, 3) if isinstance(reset, float | bool) else True,
        at_once=not isinstance(reset, bool) and reset in (2, 3),
    )


def read_play2(command: Command) -> Play2 | str:
    """play2(options), or why it cannot be read (ActionScript 3, NetStreamPlayOptions).

    Players send the properties as they are, so times are in seconds. Without a transition it is
    RESET, which is what a first play2 means.
    """
    options = command.argument(0)
    if not isinstance(options, dict):
        return "play2 needs an object of options."
    word = options.get("transition")
    try:
        transition = Transition(word) if isinstance(word, str) and word else Transition.RESET
    except ValueError:
        return "There is no such transition."
    if word not in (None, "", UNDEFINED) and not isinstance(word, str):
        return "The transition is not a text."
    name = _text(options.get("streamName"))
    if not name and transition not in (Transition.STOP, Transition.RESUME):
        return "play2 needs a stream name."
    return Play2(
        stream_id=command.stream_id,
        name=name,
        old_name=_text(options.get("oldStreamName")),
        start=_read_start(_milliseconds(options.get("start"))),
        duration_ms=_read_duration_ms(_milliseconds(options.get("len"))),
        transition=transition,
        offset=_read_offset(options.get("offset")),
    )


def read_whole(value: AmfValue) -> int:
    """The number in whole units, between 0 and TIME_LIMIT_MS; 0 if it is not a number."""
    number = _number(value)
    return 0 if number is None else int(min(max(number, 0.0), TIME_LIMIT_MS))


def _read_start(value: AmfValue) -> int | Start:
    number = _number(value)
    if number in _LIVE_STARTS:
        return Start.LIVE
    if number is None or number < 0:
        return Start.ANY
    return read_whole(number)


def _read_offset(value: AmfValue) -> int | Offset:
    if not isinstance(value, float) or isinstance(value, bool):
        return Offset.AFTER_SENT
    if math.isnan(value) or value < 0:
        return Offset.SOON
    return read_whole(value * 1000)


def _milliseconds(seconds: AmfValue) -> float | None:
    number = _number(seconds)
    return None if number is None else number * 1000


def _read_duration_ms(value: AmfValue) -> int | None:
    number = _number(value)
    if number is None or number < 0:
        return None
    # Rounded up: a fraction of a millisecond must not turn into 0, a single frame.
    return math.ceil(min(number, TIME_LIMIT_MS))


def _number(value: AmfValue) -> float | None:
    if isinstance(value, bool) or not isinstance(value, float) or math.isnan(value):
        return None
    return value


def _tc_url(properties: dict[str, AmfValue]) -> str:
    """Some encoders send it in quotation marks, or name it in lower case."""
    return _text(properties.get("tcUrl") or properties.get("tcurl")).strip("'\"")


def _text(value: AmfValue) -> str:
    return value if isinstance(value, str) else ""


def _flags_by_codec(value: AmfValue) -> dict[str, int]:
    if not isinstance(value, dict):
        return {}
    return {codec: read_whole(flags) for codec, flags in value.items()}


def read_flag(value: AmfValue) -> bool | None:
    """A boolean, which some clients send as a number; None when it is neither."""
    return bool(value) if isinstance(value, float | bool) else None
