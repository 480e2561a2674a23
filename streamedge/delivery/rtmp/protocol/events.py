"""The events of ``ServerConnection``: a client's requests as values.

Reads command arguments, as the different players send them, into fixed units and ranges. Pure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

from streamedge.delivery.rtmp.protocol.amf0 import AmfValue
from streamedge.delivery.rtmp.protocol.messages import Command

TIME_LIMIT_MS: Final = 0xFFFFFFFF  # an RTMP timestamp's range; a later time means "the end"

# §7.2.2.1 has seconds, players send milliseconds, and GStreamer sends the bare numbers.
_LIVE_STARTS: Final = (-1.0, -1000.0)


class Start(Enum):
    """The start of a play that gives no time."""

    ANY = "any"  # a live stream if there is one, else the recording from its beginning
    LIVE = "live"  # a live stream or nothing


CAN_RECONNECT: Final = 1
"""capsEx, E-RTMP v2, CapsExMask: the client understands a request to reconnect."""


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
    frame. ``reset`` False: append the name to the current play."""

    stream_id: int
    name: str
    start: int | Start
    duration_ms: int | None
    reset: bool


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
class CloseStream:
    """Stop playing; the stream stays usable."""

    stream_id: int


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


Event: TypeAlias = (
    Connect
    | CreateStream
    | Play
    | Seek
    | Pause
    | CloseStream
    | DeleteStream
    | GetStreamLength
    | BufferLength
    | Acknowledged
    | Ignored
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
        tc_url=_text(properties.get("tcUrl")),
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


def _text(value: AmfValue) -> str:
    return value if isinstance(value, str) else ""


def _flags_by_codec(value: AmfValue) -> dict[str, int]:
    if not isinstance(value, dict):
        return {}
    return {codec: read_whole(flags) for codec, flags in value.items()}


def read_flag(value: AmfValue) -> bool | None:
    """A boolean, which some clients send as a number; None when it is neither."""
    return bool(value) if isinstance(value, float | bool) else None
