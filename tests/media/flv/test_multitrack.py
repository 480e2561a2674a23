"""Multitrack packets of Enhanced RTMP: those that a layout has, and those in FLV files.

FFmpeg 9, whose muxer writes them, is the other implementation.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamedge.errors import MediaError
from streamedge.media.flv import tags as flv
from streamedge.media.flv.head import read_head
from streamedge.media.flv.layout import FlvLayout
from streamedge.media.flv.scan import rewrite_tags, scan_tags
from streamedge.media.flv.tags import TagFlag
from streamedge.media.mp4.codecs import CodecConfiguration, TrackKind
from streamedge.media.mp4.moov import locate_moov, parse_moov
from streamedge.media.mp4.title import build_title
from streamedge.media.track_choice import TrackChoice
from streamedge.spans import Span
from tests.support.media.media_oracle import feed, flv_of, sources_of
from tests.support.media.multitrack import digests, multitrack_film

AAC = CodecConfiguration(TrackKind.AUDIO, "mp4a", 10, b"\x12\x10", sample_rate=44100, channels=2)
ALL = TrackChoice(is_multitrack=True)


def layout_of(data: bytes, choice: TrackChoice) -> FlvLayout:
    span, _ = feed(locate_moov(len(data), 1 << 20), data)
    return FlvLayout(build_title(parse_moov(data[span.start : span.end]), len(data), None, choice))


def multitrack_bodies(data: bytes) -> list[bytes]:
    tags = scan_tags(data, 13)
    rows = np.flatnonzero(tags.flags & TagFlag.MULTITRACK)
    starts = tags.position[rows] + flv.TAG_HEADER_SIZE_BYTES
    sizes = tags.size_bytes[rows] - flv.TAG_HEADER_SIZE_BYTES - flv.PREVIOUS_TAG_SIZE_BYTES
    return [
        data[start : start + size]
        for start, size in zip(starts.tolist(), sizes.tolist(), strict=True)
    ]


def test_packet_is_one_track_with_four_cc_and_id() -> None:
    coded = flv.audio_track_header(AAC, flv.PacketType.CODED_FRAMES, 2)
    assert coded == b"\x95\x01mp4a\x02"
    assert flv.audio_track_sequence_header(AAC, 1) == b"\x95\x00mp4a\x01\x12\x10"


def test_packets_equal_those_of_ffmpegs_muxer() -> None:
    film = multitrack_film()
    ours = multitrack_bodies(flv_of(layout_of(film, ALL), film))
    theirs = multitrack_bodies(multitrack_film("flv"))
    # FFmpeg also writes the channel configuration, which AAC has in its sequence header.
    assert sorted(ours) == sorted(
        body for body in theirs if body[1] & 15 != flv.PacketType.METADATA
    )


@pytest.mark.parametrize("default", [0, 1])
def test_ffmpeg_reads_every_track_of_a_layout(default: int) -> None:
    film = multitrack_film("mp4", default)
    video, *audio = digests(film)
    layout = layout_of(film, ALL)
    order = [default] + [number for number in range(3) if number != default]
    assert digests(flv_of(layout, film)) == [video, *(audio[number] for number in order)]
    assert layout.title.selection == "all"
    information = layout.metadata["audioTrackIdInfoMap"]
    assert isinstance(information, dict)
    languages = ["deu", "eng", "fra"]
    assert [info["language"] for info in information.values() if isinstance(info, dict)] == [
        languages[number] for number in order[1:]
    ]
    assert list(information) == ["1", "2"]


@pytest.mark.parametrize(
    ("audio", "number", "selection"),
    [("", 0, ""), ("0", 0, ""), ("deu", 0, ""), ("1", 1, "audio1"), ("eng", 1, "audio1"),
     ("fra", 2, "audio2")],
)  # fmt: skip
def test_layout_has_the_chosen_track_alone(audio: str, number: int, selection: str) -> None:
    film = multitrack_film()
    video, *tracks = digests(film)
    layout = layout_of(film, TrackChoice(audio))
    written = flv_of(layout, film)
    assert digests(written) == [video, tracks[number]]
    assert not multitrack_bodies(written)
    assert layout.title.selection == selection
    assert "audioTrackIdInfoMap" not in layout.metadata


def test_default_is_the_enabled_track() -> None:
    film = multitrack_film("mp4", 2)
    video, *tracks = digests(film)
    assert digests(flv_of(layout_of(film, TrackChoice()), film)) == [video, tracks[2]]
    assert layout_of(film, TrackChoice("2")).title.selection == ""
    assert layout_of(film, TrackChoice("0")).title.selection == "audio0"


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 200_000), max_size=8))
def test_any_division_gives_the_same_bytes(cuts: list[int]) -> None:
    film = multitrack_film()
    layout = layout_of(film, ALL)
    whole = flv_of(layout, film)
    bounds = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    spans = [Span(start, end) for start, end in pairwise(bounds) if start < end]
    assert b"".join(layout.assemble(s, sources_of(layout, s, film)) for s in spans) == whole


def test_headers_after_a_seek_are_those_of_all_tracks() -> None:
    film = multitrack_film()
    layout = layout_of(film, ALL)
    headers = layout.sequence_headers(layout.seek(2000).sample)
    assert [kind for kind, _ in headers] == [9, 8, 8, 8]
    assert [flv.header_track(kind, body) for kind, body in headers] == [0, 0, 1, 2]


def test_scan_leaves_multitrack_tags_out() -> None:
    data = multitrack_film("flv")
    shown, hidden = scan_tags(data, 13), scan_tags(data, 13, multitrack=False)
    assert not (hidden.flags & TagFlag.MULTITRACK).any()
    assert (shown.flags & TagFlag.MULTITRACK).any()
    assert not hidden.is_plain
    written = data[:13] + rewrite_tags(data[13:], hidden.timestamp_ms, multitrack=False)
    assert digests(written) == digests(data)[:2]


def test_head_has_the_headers_of_other_tracks() -> None:
    data = multitrack_film("flv")
    head, _ = feed(read_head(len(data)), data)
    tracks = [flv.header_track(kind, body) for kind, body in head.multitrack_headers]
    assert tracks == [1, 2]
    assert head.audio_sequence_header is not None
    assert head.audio_sequence_header[0] >> 4 == 10


@given(st.sampled_from([8, 9]), st.sampled_from([0x95, 0x96, 0x97]), st.binary(max_size=80))
def test_any_body_is_classified(tag_type: int, first: int, rest: bytes) -> None:
    body = bytes([first]) + rest
    flags = flv.classify(tag_type, body).flags
    assert flags & (TagFlag.AUDIO | TagFlag.VIDEO)
    assert (flv.header_track(tag_type, body) == 0) or TagFlag.MULTITRACK in flags


def test_wrong_choice_is_refused_before_the_samples_are_read() -> None:
    film = multitrack_film()
    with pytest.raises(MediaError, match=r"0 \(deu\), 1 \(eng\), 2 \(fra\)"):
        layout_of(film, TrackChoice("spa"))
