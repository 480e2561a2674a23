"""Events: command arguments as different players send them, and invalid ones."""

from __future__ import annotations

import math

import pytest

from streamedge.delivery.rtmp.protocol.amf_values import UNDEFINED, AmfValue
from streamedge.delivery.rtmp.protocol.events import (
    Connect,
    Offset,
    Play,
    Play2,
    Start,
    Transition,
    read_connect,
    read_flag,
    read_play,
    read_play2,
    read_whole,
)
from streamedge.delivery.rtmp.protocol.messages import Command


@pytest.mark.parametrize(
    ("arguments", "start", "duration_ms", "reset"),
    [
        ((), Start.ANY, None, True),
        ((-2.0,), Start.ANY, None, True),  # GStreamer
        ((-2000.0,), Start.ANY, None, True),  # FFmpeg
        ((-1.0,), Start.LIVE, None, True),
        ((-1000.0, -1000.0), Start.LIVE, None, True),
        ((-5.0, -7.0), Start.ANY, None, True),
        ((0.0, 0.0), 0, 0, True),
        ((1500.9, 0.2, False), 1500, 1, False),
        ((None, None, 0.0), Start.ANY, None, False),
        ((UNDEFINED, UNDEFINED, 1.0), Start.ANY, None, True),
        ((math.nan, math.nan, 2.0), Start.ANY, None, False),
        ((math.inf, math.inf, 3.0), 0xFFFFFFFF, 0xFFFFFFFF, True),
        ((-math.inf, -math.inf, True), Start.ANY, None, True),
        (("12", True, "no"), Start.ANY, None, True),
    ],
)
def test_play_arguments_are_read(
    arguments: tuple[AmfValue, ...], start: int | Start, duration_ms: int | None, reset: bool
) -> None:
    command = Command(1, "play", 0.0, {}, ("film", *arguments))
    at_once = arguments[2:] in ((2.0,), (3.0,))
    assert read_play(command, "film") == Play(1, "film", start, duration_ms, reset, at_once)


@pytest.mark.parametrize(
    ("value", "offset"),
    [
        (UNDEFINED, Offset.AFTER_SENT),
        (None, Offset.AFTER_SENT),
        ("5", Offset.AFTER_SENT),
        (True, Offset.AFTER_SENT),
        (-1.0, Offset.SOON),
        (-math.inf, Offset.SOON),
        (math.nan, Offset.SOON),
        (0.0, 0),
        (12.195, 12195),
        (math.inf, 0xFFFFFFFF),
    ],
)
def test_offset_of_a_play2_is_in_seconds(value: AmfValue, offset: int | Offset) -> None:
    options: dict[str, AmfValue] = {
        "streamName": "high", "oldStreamName": "low", "transition": "switch", "start": -2.0,
        "len": -1.0, "offset": value,
    }  # fmt: skip
    command = Command(1, "play2", 0.0, {}, (options,))
    expected = Play2(1, "high", "low", Start.ANY, None, Transition.SWITCH, offset)
    assert read_play2(command) == expected


def test_start_and_length_of_a_play2_are_in_seconds() -> None:
    options: dict[str, AmfValue] = {
        "streamName": "film", "transition": "append", "start": 1.5, "len": 0.25
    }  # fmt: skip
    request = read_play2(Command(1, "play2", 0.0, {}, (options,)))
    assert request == Play2(1, "film", "", 1500, 250, Transition.APPEND, Offset.AFTER_SENT)


@pytest.mark.parametrize(
    ("value", "whole"),
    [
        (1000.7, 1000),
        (-5.0, 0),
        (math.nan, 0),
        (math.inf, 0xFFFFFFFF),
        (-math.inf, 0),
        (None, 0),
        (UNDEFINED, 0),
        ("9", 0),
        (True, 0),
    ],
)
def test_read_whole_clips_to_the_range(value: AmfValue, whole: int) -> None:
    assert read_whole(value) == whole


@pytest.mark.parametrize(
    ("value", "flag"),
    [(True, True), (False, False), (1.0, True), (0.0, False), (None, None), (UNDEFINED, None)],
)
def test_read_flag_accepts_numbers(value: AmfValue, flag: bool | None) -> None:
    assert read_flag(value) is flag


def connect(properties: dict[str, AmfValue]) -> Connect:
    return read_connect(Command(0, "connect", 1.0, properties, ()))


def test_connect_with_all_fields_is_read() -> None:
    properties: dict[str, AmfValue] = {
        "app": "cfx/st",
        "tcUrl": "rtmp://edge.example/cfx/st",
        "flashVer": "LNX 9,0,124,2",
        "pageUrl": "http://page.example/",
        "swfUrl": "http://page.example/player.swf",
        "fourCcList": ["hvc1", 3.0, "av01"],
        "videoFourCcInfoMap": {"*": 4.0, "hvc1": 1.0, "odd": "x"},
        "audioFourCcInfoMap": {"Opus": math.nan},
        "capsEx": 5.0,
    }
    event = connect(properties)
    assert event == Connect(
        transaction=1.0,
        app="cfx/st",
        tc_url="rtmp://edge.example/cfx/st",
        flash_version="LNX 9,0,124,2",
        page_url="http://page.example/",
        swf_url="http://page.example/player.swf",
        four_cc_list=("hvc1", "av01"),
        video_four_cc_info={"*": 4, "hvc1": 1, "odd": 0},
        audio_four_cc_info={"Opus": 0},
        capabilities_ex=5,
        object=properties,
    )
    assert event.is_enhanced


@pytest.mark.parametrize(
    "properties",
    [{}, {"app": 7.0, "tcUrl": None, "flashVer": ["LNX"], "pageUrl": UNDEFINED}],
)
def test_connect_without_fields_is_read_as_empty(properties: dict[str, AmfValue]) -> None:
    event = connect(properties)
    assert (event.app, event.tc_url, event.flash_version, event.page_url) == ("", "", "", "")
    assert (event.four_cc_list, event.video_four_cc_info, event.capabilities_ex) == ((), {}, 0)
    assert not event.is_enhanced


def test_e_rtmp_fields_of_another_type_read_as_empty() -> None:
    event = connect({"fourCcList": "hvc1", "videoFourCcInfoMap": ["hvc1"], "capsEx": "1"})
    assert (event.four_cc_list, event.video_four_cc_info, event.capabilities_ex) == ((), {}, 0)


@pytest.mark.parametrize(
    ("listed", "video", "audio", "playable"),
    [
        ([], {}, {}, set()),
        (["hvc1"], {}, {}, {"hvc1"}),
        ([], {"hvc1": 1.0, "av01": 2.0, "vp09": 4.0}, {"Opus": 3.0, "fLaC": 2.0, "ac-3": 0.0},
         {"hvc1", "vp09", "Opus"}),
        (["hvc1", "av01"], {"hvc1": 2.0}, {}, {"av01"}),
        (["*"], {}, {}, {"*"}),
        ([], {"*": 4.0}, {"*": 2.0}, {"*"}),
        ([], {"*": 2.0}, {"*": 4.0}, {"*"}),
        (["*"], {"*": 2.0}, {}, set()),
        ([], {"hvc1": 8.0, "av01": math.nan, "vp09": "1"}, {}, set()),
    ],
)  # fmt: skip
def test_codec_is_playable_if_the_client_decodes_or_forwards_it(
    listed: list[AmfValue],
    video: dict[str, AmfValue],
    audio: dict[str, AmfValue],
    playable: set[str],
) -> None:
    properties: dict[str, AmfValue] = {
        "fourCcList": listed,
        "videoFourCcInfoMap": video,
        "audioFourCcInfoMap": audio,
    }
    event = read_connect(Command(0, "connect", 1.0, properties, ()))
    assert event.playable_codecs == playable
