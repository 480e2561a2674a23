"""streamedge/media/mp3/head.py."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable

import av
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamedge.errors import MediaError, MediaFault
from streamedge.media.mp3.frames import resynchronise
from streamedge.media.mp3.head import FIRST_READ_BYTES, SEARCH_LIMIT_BYTES, Mp3Head, read_head
from streamedge.spans import Span
from tests.support.media.media_oracle import feed

Media = Callable[[str], bytes]

FRAME = bytes.fromhex("fffb9064") + bytes(413)
AUDIO = FRAME * 100
ID3V1 = b"TAG" + bytes(125)


def id3v2(size: int, *, footer: bool = False) -> bytes:
    syncsafe = bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))
    tag = b"ID3\x04\x00" + bytes([0x10 * footer]) + syncsafe + bytes(size)
    return tag + b"3DI" + bytes(7) if footer else tag


def ape(size: int, *, header: bool) -> bytes:
    items = bytes(size)
    footer = b"APETAGEX" + struct.pack("<IIII", 2000, size + 32, 0, header << 31) + bytes(8)
    return footer * header + items + footer


def vbr_frame(content: bytes, position: int = 36) -> bytes:
    return FRAME[:position] + content + FRAME[position + len(content) :]


def read(data: bytes) -> tuple[Mp3Head, list[Span]]:
    return feed(read_head(len(data)), data)


@pytest.mark.parametrize("name", ["song.mp3", "song", "song-22050"])
def test_head_of_a_real_file_is_read(media: Media, name: str) -> None:
    data = media(name)
    head, spans = read(data)
    assert len(spans) == 2
    with av.open(io.BytesIO(data), "r") as container:
        stream = container.streams.audio[0]
        assert (head.sample_rate, head.channels) == (stream.sample_rate, stream.channels)
        assert container.duration is not None
        assert abs(head.duration_ms - container.duration / 1000) <= 1
        frame_count = sum(packet.dts is not None for packet in container.demux())
    assert head.frame_count == frame_count
    assert head.encoder_delay > 0


def test_duration_of_a_constant_rate_file_is_computed() -> None:
    head, _ = read(AUDIO)
    assert head.audio == Span(0, len(AUDIO))
    assert head.frame_count is None
    assert head.bit_rate == 128_000
    assert abs(head.duration_ms - 100 * 1152 * 1000 / 44100) < 10


@pytest.mark.parametrize("size", [0, 1, 300, FIRST_READ_BYTES - 10, FIRST_READ_BYTES, 3_000_000])
@pytest.mark.parametrize("footer", [False, True])
def test_id3_tag_of_any_size_is_skipped(size: int, footer: bool) -> None:
    tag = id3v2(size, footer=footer)
    head, spans = read(tag + AUDIO)
    assert head.audio == Span(len(tag), len(tag) + len(AUDIO))
    assert sum(span.size for span in spans) < 3 * FIRST_READ_BYTES


def test_several_id3_tags_and_padding_are_skipped() -> None:
    before = id3v2(10) + id3v2(100_000) + bytes(3000)
    assert read(before + AUDIO)[0].audio.start == len(before)


@pytest.mark.parametrize(
    "after", [ID3V1, ape(100, header=True), ape(100, header=False), ape(9, header=True) + ID3V1]
)
def test_tags_at_the_end_are_not_audio(after: bytes) -> None:
    assert read(AUDIO + after)[0].audio == Span(0, len(AUDIO))


def xing(name: bytes, toc: bytes, frames: int = 100) -> bytes:
    lame = b"LAME3.100" + bytes(12) + bytes.fromhex("240345")
    return vbr_frame(
        name + struct.pack(">III", 0xF, frames, len(AUDIO)) + toc + struct.pack(">I", 50) + lame
    )


@pytest.mark.parametrize("name", [b"Xing", b"Info"])
def test_xing_frame_is_read(name: bytes) -> None:
    toc = bytes(range(0, 200, 2))
    head, _ = read(xing(name, toc) + AUDIO)
    assert head.audio == Span(417, 417 + len(AUDIO))
    assert head.frame_count == 100
    assert head.duration_ms == round((100 * 1152 - 0x240 - 0x345) * 1000 / 44100)
    assert head.encoder_delay == 0x240
    assert head.toc == toc


def test_falling_seek_table_is_not_used() -> None:
    assert read(xing(b"Xing", bytes(range(100, 0, -1))) + AUDIO)[0].toc is None


def test_vbri_frame_is_read() -> None:
    content = b"VBRI" + struct.pack(">HHHII", 1, 1105, 75, len(AUDIO), 100)
    head, _ = read(vbr_frame(content) + AUDIO)
    assert (head.frame_count, head.encoder_delay, head.duration_ms) == (100, 1105, 2587)
    assert head.audio.start == 417


def test_frame_count_of_0_is_estimated() -> None:
    head, _ = read(xing(b"Info", bytes(range(100)), frames=0) + AUDIO)
    assert head.frame_count is None
    assert abs(head.duration_ms - 2612) < 10


def test_positions_follow_times(media: Media) -> None:
    data = media("song.mp3")
    for head in (read(data)[0], read(data[245:])[0]):
        assert head.estimate_position(-1) == head.estimate_position(0) == head.audio.start
        assert head.estimate_position(10**9) == head.audio.end
        previous = head.audio.start
        for time_ms in range(0, head.duration_ms, 500):
            position = head.estimate_position(time_ms)
            assert previous <= position <= head.audio.end
            previous = position
            exact = head.audio.start + head.audio.size * time_ms / head.duration_ms
            assert abs(position - exact) < head.audio.size / 50
        assert resynchronise(data, head.estimate_position(15_000)) is not None
    assert head.sample_at(1000) == 44100 // 1152 * 1152
    assert head.sample_at(-1) == 0


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"ID3",
        bytes(1000),
        b"<html>" * 100,
        id3v2(1000),
        id3v2(1000)[:500],
        FRAME[:-1],
        bytes(SEARCH_LIMIT_BYTES + 10) + AUDIO,
        ID3V1,
    ],
)
def test_file_without_audio_is_refused(data: bytes) -> None:
    with pytest.raises(MediaError) as caught:
        read(data)
    assert caught.value.fault is MediaFault.STRUCTURE_INVALID


def test_file_shorter_than_stated_is_refused() -> None:
    parser = read_head(10_000)
    next(parser)
    with pytest.raises(MediaError, match="shorter than its stated size"):
        parser.send(AUDIO[:100])


@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_damaged_files_are_read_or_refused(media: Media, data: st.DataObject) -> None:
    original = id3v2(20) + xing(b"Xing", bytes(range(100))) + AUDIO + ape(9, header=True) + ID3V1
    damaged = bytearray(original)
    edges = st.one_of(st.integers(0, 460), st.integers(len(original) - 200, len(original) - 1))
    for spot in data.draw(st.lists(edges, min_size=1, max_size=8)):
        damaged[spot] = data.draw(st.sampled_from((0, 1, 0x7F, 0x80, 0xFB, 0xFF)))
    length = data.draw(st.integers(0, len(damaged)))
    for candidate in (bytes(damaged), bytes(damaged[:length])):
        try:
            head, _ = read(candidate)
        except MediaError:
            continue
        assert 0 <= head.audio.start <= head.audio.end <= len(candidate)
        assert head.audio.start <= head.estimate_position(1000) <= head.audio.end


@given(st.binary(max_size=500))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for candidate in (data, b"ID3\x04\0\0" + data, FRAME * 3 + data):
        try:
            read(candidate)
        except MediaError:
            continue
