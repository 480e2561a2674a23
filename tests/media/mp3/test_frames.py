"""streamedge/media/mp3/frames.py, against FFmpeg's demuxer and FLV muxer."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable

import av
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamedge.media.flv import tags as flv
from streamedge.media.flv.scan import scan_tags
from streamedge.media.mp3 import frames as mp3
from streamedge.media.mp3.frames import FRAME_SIZE_MAX_BYTES, as_tags, frames, parse_frame_header
from streamedge.media.mp3.head import read_head
from streamedge.spans import Span
from tests.support.media.media_oracle import demux, feed

Media = Callable[[str], bytes]

# 128 kb/s, 44.1 kHz, joint stereo: 417 bytes, 418 with padding (ISO 11172-3 §2.4.1.3).
HEADER = bytes.fromhex("fffb9064")
FRAME = HEADER + bytes(413)


@pytest.mark.parametrize(
    ("header", "sample_rate", "channels", "bit_rate", "size", "samples"),
    [
        ("fffb9064", 44100, 2, 128_000, 417, 1152),
        ("fffb9264", 44100, 2, 128_000, 418, 1152),
        ("fffbe4c4", 48000, 1, 320_000, 960, 1152),
        ("fffa18c4", 32000, 1, 32_000, 144, 1152),
        ("fff380c4", 22050, 1, 64_000, 208, 576),
        ("fff3e800", 16000, 2, 160_000, 720, 576),
        ("ffe3ea00", 8000, 2, 160_000, 1441, 576),
    ],
)
def test_frame_headers_are_parsed(
    header: str, sample_rate: int, channels: int, bit_rate: int, size: int, samples: int
) -> None:
    parsed = parse_frame_header(bytes.fromhex(header) + b"garbage")
    assert parsed is not None
    assert parsed[:5] == (sample_rate, channels, bit_rate, size, samples)
    assert size <= FRAME_SIZE_MAX_BYTES


@pytest.mark.parametrize(
    "header", ["", "fffb90", "fefb9064", "ff1b9064", "fffd9064", "ffeb9064", "fffbf064",
               "fffb0064", "fffb9c64"],
)  # fmt: skip
def test_invalid_headers_are_refused(header: str) -> None:
    assert parse_frame_header(bytes.fromhex(header)) is None


def test_complete_frames_of_a_buffer_are_returned() -> None:
    assert frames(FRAME * 3) == ((Span(0, 417), Span(417, 834), Span(834, 1251)), 1251)
    for length in range(len(FRAME) * 3):
        spans, end = frames((FRAME * 3)[:length])
        assert len(spans) == length // len(FRAME)
        assert end == len(spans) * len(FRAME)


def test_junk_between_frames_is_skipped() -> None:
    spans, end = frames(FRAME + b"\xff\xfb\xf0junk" + FRAME * 3)
    assert [span.start for span in spans] == [0, 424, 841, 1258]
    assert end == 1675


def test_junk_at_the_end_is_kept_for_the_next_call() -> None:
    result = frames(FRAME + b"junk")
    assert result == ((Span(0, 417),), 417)
    assert frames(FRAME + bytes(100_000)).end == 417 + 100_000 - 3 * FRAME_SIZE_MAX_BYTES


def test_resynchronise_finds_the_first_frame() -> None:
    lone = b"\xff\xfb\x90\x64" + bytes(50)
    assert mp3.resynchronise(lone + FRAME * 3) == len(lone)
    assert mp3.resynchronise(lone + FRAME * 2) is None
    assert mp3.resynchronise(lone + FRAME * 2, is_file_end=True) == len(lone)
    assert mp3.resynchronise(lone + FRAME * 2 + b"x", is_file_end=True) is None
    assert mp3.resynchronise(FRAME * 4, 1) == len(FRAME)
    for distance in (4094, 4095, 4096, 4097):  # across the blocks that are searched
        assert mp3.resynchronise(bytes(distance) + FRAME * 3) == distance


@pytest.mark.parametrize("name", ["song.mp3", "song", "song-22050"])
def test_frames_equal_ffmpegs_packets(media: Media, name: str) -> None:
    data = media(name)
    head, _ = feed(read_head(len(data)), data)
    spans, end = frames(data, head.audio.start)
    assert end == head.audio.end
    digests = [hashlib.sha256(data[span.start : span.end]).hexdigest() for span in spans]
    assert digests == [packet.digest for packet in demux(data).packets["audio"]]


@pytest.mark.parametrize("name", ["song.mp3", "song-22050"])
def test_tags_equal_those_of_ffmpegs_muxer(media: Media, name: str) -> None:
    data = media(name)
    muxed = io.BytesIO()
    with av.open(io.BytesIO(data), "r") as source, av.open(muxed, "w", format="flv") as output:
        stream = output.add_stream_from_template(source.streams.audio[0], opaque=True)
        for packet in source.demux(audio=0):
            if packet.dts is not None:
                packet.stream = stream
                output.mux(packet)
    muxed_flv = muxed.getvalue()
    first = next(
        position for position in scan_tags(muxed_flv, 13).position if muxed_flv[position] == 8
    )
    head, _ = feed(read_head(len(data)), data)
    assert as_tags(data, frames(data, head.audio.start).spans) == muxed_flv[first:]


def test_tag_times_continue_from_call_to_call(media: Media) -> None:
    data = media("song.mp3")
    spans = frames(data, 245).spans
    parts = [as_tags(data, spans[at : at + 7], at * 1152) for at in range(0, len(spans), 7)]
    assert b"".join(parts) == as_tags(data, spans)


def test_tag_header_of_a_mono_frame_is_mono() -> None:
    frame = bytes.fromhex("fff380c4") + bytes(204)
    tags = as_tags(frame, [Span(0, 208)], 22050)
    assert tags[11] == 0x2A
    assert flv.parse_tag_header(tags).timestamp_ms == 1000
    with pytest.raises(ValueError, match="not an MP3 frame"):
        as_tags(b"none", [Span(0, 4)])


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_damaged_bytes_give_only_complete_frames(media: Media, data: st.DataObject) -> None:
    damaged = bytearray(media("song.mp3")[245:20_000])
    for spot in data.draw(st.lists(st.integers(0, len(damaged) - 1), max_size=20)):
        damaged[spot] = data.draw(st.sampled_from((0, 0x80, 0xFB, 0xFF)))
    spans, end = frames(damaged)
    assert end <= len(damaged)
    for span in spans:
        header = parse_frame_header(memoryview(damaged)[span.start :])
        assert header is not None
        assert header.size_bytes == span.size
    as_tags(damaged, spans)


@given(st.binary(max_size=500))
def test_any_bytes_give_only_complete_frames(data: bytes) -> None:
    spans, end = frames(data)
    assert all(span.end <= end <= len(data) for span in spans)
    assert mp3.resynchronise(data) in (None, *range(len(data)))
