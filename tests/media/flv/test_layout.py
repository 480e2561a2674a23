"""streamedge/media/flv/layout.py, against FFmpeg's demuxer and FFmpeg's own FLV muxer."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamedge.errors import MediaError, MediaFault
from streamedge.media.flv import tags as flv
from streamedge.media.flv.head import read_head
from streamedge.media.flv.layout import COALESCED_GAP_BYTES, KEYFRAMES_MAX, FlvLayout
from streamedge.media.flv.scan import scan_tags
from streamedge.media.flv.tags import TagFlag
from streamedge.media.mp4.codecs import CodecConfiguration, TrackKind
from streamedge.media.mp4.moov import parse_moov
from streamedge.media.mp4.title import Title, build_title
from streamedge.spans import Span
from tests.support.media.media_oracle import demux, feed, flv_of, sources_of, title_of
from tests.support.media.mp4_writer import (
    AVC_CONFIGURATION,
    TrackRecipe,
    avc1,
    box,
    moov,
    table,
    visual_entry,
)

Media = Callable[[str], bytes]

PLAYABLE = [
    "film.mp4", "film-moov-last.mp4", "song.m4a", "h264", "h264-long-gop", "hevc", "av1-opus",
    "vp9-ac3", "h264-opus", "eac3", "flac", "mp3-in-mp4", "mp3-in-mov", "aac-in-mov", "video-only",
]  # fmt: skip

AVC = CodecConfiguration(TrackKind.VIDEO, "avc1", 7, b"\x01\x64\x00\x1f", width=1280, height=720)
AAC = CodecConfiguration(TrackKind.AUDIO, "mp4a", 10, b"\x12\x10", sample_rate=44100, channels=2)


def synthetic(
    sizes: list[int],
    *,
    step_ms: int = 20,
    offsets: list[int] | None = None,
    keyframe_every: int = 1,
) -> Title:
    """Video and audio samples in turn, each ``step_ms`` after the last."""
    count = len(sizes)
    size = np.array(sizes, np.uint32)
    ends = np.cumsum(size, dtype=np.int64)
    row = np.arange(count)
    is_video = row % 2 == 0
    return Title(
        video=AVC,
        audio=AAC,
        duration_ms=count * step_ms,
        frame_rate=25.0,
        offset=ends - size if offsets is None else np.array(offsets, np.int64),
        size=size,
        dts_ms=(row * step_ms).astype(np.uint32),
        composition_ms=np.where(is_video, 40, 0).astype(np.int32),
        is_key=~is_video | (row // 2 % keyframe_every == 0),
        is_video=is_video,
    )


@pytest.mark.parametrize("name", PLAYABLE)
def test_every_packet_is_as_ffmpeg_reads_it_from_the_source(media: Media, name: str) -> None:
    data = media(name)
    expected, demuxed = demux(data), demux(flv_of(FlvLayout(title_of(data)), data))
    assert demuxed.packets == expected.packets
    assert demuxed.codecs == expected.codecs
    for kind, extradata in expected.extradata.items():
        # FFmpeg keeps STREAMINFO without the signature that the FLV carries before it, and no
        # extradata at all for VP9.
        if extradata:
            assert demuxed.extradata[kind].removeprefix(b"fLaC\x80\x00\x00\x22") == extradata


@pytest.mark.parametrize("name", ["h264", "hevc", "av1-opus", "vp9-ac3", "mp3-in-mov", "eac3"])
def test_tags_equal_those_of_ffmpegs_muxer(media: Media, name: str) -> None:
    """Sequence headers and samples; the order among equal times is free."""
    data = media(name)
    muxed = io.BytesIO()
    with av.open(io.BytesIO(data), "r") as source, av.open(muxed, "w", format="flv") as output:
        streams = [output.add_stream_from_template(s, opaque=True) for s in source.streams]
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                output.mux(packet)
    assert _carried(flv_of(FlvLayout(title_of(data)), data)) == _carried(muxed.getvalue())


def _carried(file: bytes) -> list[bytes]:
    tags = scan_tags(file, 13)
    carried = TagFlag.MEDIA | TagFlag.SEQUENCE_HEADER
    return sorted(
        file[position : position + size]
        for position, size, flags in zip(
            tags.position.tolist(), tags.size_bytes.tolist(), tags.flags.tolist(), strict=True
        )
        if flags & carried
    )


@pytest.mark.parametrize("name", ["flac", "h264-opus", "h264"])
def test_decoder_accepts_the_flv(media: Media, name: str) -> None:
    data = media(name)
    decoded = []
    for file in (data, flv_of(FlvLayout(title_of(data)), data)):
        with av.open(io.BytesIO(file), "r") as container:
            decoded.append([frame.to_ndarray().tobytes() for frame in container.decode(audio=0)])
    # Padding samples at the ends are trimmed only in MP4.
    assert b"".join(decoded[0])[8192:65536] in b"".join(decoded[1])


def test_head_equals_the_one_that_read_head_returns(media: Media) -> None:
    data = media("film.mp4")
    title = title_of(data)
    layout = FlvLayout(title)
    file = flv_of(layout, data)
    head, spans = feed(read_head(len(file)), file)
    assert len(spans) == 1
    assert head.duration_ms == title.duration_ms
    assert (head.video_codec, head.audio_codec) == (7, 10)
    assert head.first_media == layout.tag_position[0] == len(layout.head)
    assert head.metadata["filesize"] == layout.size_bytes == len(file)
    assert head.keyframes is not None
    keyframes = np.flatnonzero(title.is_video & title.is_key)
    assert head.keyframes.position.tolist() == layout.tag_position[keyframes].tolist()
    assert head.keyframes.time_ms.tolist() == title.dts_ms[keyframes].tolist()
    tags = scan_tags(file, head.first_media)
    assert tags.position.tolist() == layout.tag_position[:-1].tolist()
    assert tags.timestamp_ms.tolist() == title.dts_ms.tolist()


def test_layout_is_the_same_each_time(media: Media) -> None:
    data = media("h264")
    assert flv_of(FlvLayout(title_of(data)), data) == flv_of(FlvLayout(title_of(data)), data)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_any_span_is_a_slice_of_the_whole(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 300), min_size=1, max_size=30))
    gaps = data.draw(st.permutations(range(len(sizes))))
    # Samples are in any order, some further apart than a gap that is read.
    offsets = [place * (COALESCED_GAP_BYTES + 100) // 3 for place in gaps]
    source = np.random.default_rng(len(sizes)).bytes(max(offsets) + 300)
    layout = FlvLayout(synthetic(sizes, offsets=offsets))
    whole = flv_of(layout, source)
    assert len(whole) == layout.size_bytes
    assert scan_tags(whole, 13).end == len(whole)
    start = data.draw(st.integers(0, layout.size_bytes))
    end = data.draw(st.integers(start, layout.size_bytes + 10))
    span = Span(start, end)
    planned = layout.plan(span)
    assert planned == sorted(planned)
    for before, after in itertools.pairwise(planned):
        assert after.start - before.end > COALESCED_GAP_BYTES
    assert layout.assemble(span, sources_of(layout, span, source)) == whole[start:end]


def test_every_span_of_a_small_file_is_correct() -> None:
    source = bytes(range(256))
    layout = FlvLayout(synthetic([5, 1, 9, 30]))
    whole = flv_of(layout, source)
    for cut in range(len(whole) + 1):
        first, second = Span(0, cut), Span(cut, len(whole))
        assert (
            layout.assemble(first, sources_of(layout, first, source))
            + layout.assemble(second, sources_of(layout, second, source))
        ) == whole


def test_plan_reads_only_what_the_span_needs() -> None:
    layout = FlvLayout(synthetic([100, 100]))
    second_sample = int(layout.tag_position[1]) + 11 + 2
    assert layout.plan(Span(0, len(layout.head))) == []
    assert layout.plan(Span(second_sample + 10, second_sample + 20)) == [Span(110, 120)]
    assert layout.plan(Span(0, layout.size_bytes)) == [Span(0, 200)]


def test_sources_of_another_length_are_refused() -> None:
    layout = FlvLayout(synthetic([100]))
    with pytest.raises(ValueError, match="as long as planned"):
        layout.assemble(Span(0, layout.size_bytes), [b"x" * 99])


def test_timestamp_of_five_hours_is_extended() -> None:
    title = synthetic([3] * 900_000, step_ms=20, keyframe_every=10)
    layout = FlvLayout(title)
    source = bytes(2_700_000)
    last = Span(int(layout.tag_position[-20]), layout.size_bytes)
    tags = scan_tags(layout.assemble(last, sources_of(layout, last, source)))
    assert tags.timestamp_ms.tolist() == title.dts_ms[-19:].tolist()
    assert int(tags.timestamp_ms[-1]) == 17_999_980 > 1 << 24


def test_keyframe_list_is_thinned_and_stays_exact() -> None:
    layout = FlvLayout(synthetic([2] * 90_000))
    keyframes = layout.metadata["keyframes"]
    assert isinstance(keyframes, dict)
    positions, times = keyframes["filepositions"], keyframes["times"]
    assert isinstance(positions, np.ndarray)
    assert isinstance(times, np.ndarray)
    assert len(positions) == len(times) == KEYFRAMES_MAX
    rows = np.searchsorted(layout.tag_position, positions)
    assert layout.tag_position[rows].tolist() == positions.tolist()
    assert (layout.title.dts_ms[rows] / 1000).tolist() == times.tolist()


def test_frame_of_several_megabytes_is_packaged() -> None:
    source = np.random.default_rng(0).bytes(5_000_000)
    layout = FlvLayout(synthetic([4_999_000, 1000]))
    whole = flv_of(layout, source)
    start = len(layout.head) + 11 + 5
    assert whole[start : start + 4_999_000] == source[:4_999_000]
    middle = Span(2_000_000, 2_000_100)
    assert layout.assemble(middle, sources_of(layout, middle, source)) == whole[2000000:2000100]


def test_frame_beyond_24_bits_is_refused() -> None:
    FlvLayout(synthetic([(1 << 24) - 6]))
    with pytest.raises(MediaError) as caught:
        FlvLayout(synthetic([(1 << 24) - 5]))
    assert caught.value.fault is MediaFault.STRUCTURE_INVALID


def test_seek_returns_the_keyframe_before_a_time() -> None:
    layout = FlvLayout(synthetic([2] * 100, keyframe_every=5))
    assert layout.seek(0).sample == 0
    assert layout.seek(199).sample == 0
    assert layout.seek(200) == (int(layout.tag_position[10]), 200, 10)
    assert layout.seek(10**12 % (1 << 31)).sample == 90
    assert layout.seek(-5).sample == 0


@pytest.mark.parametrize(
    ("composition_ms", "expected"), [(0, "000000"), (80, "000050"), (-40, "ffffd8")]
)
def test_composition_time_is_signed(composition_ms: int, expected: str) -> None:
    title = synthetic([4])
    title.composition_ms[0] = composition_ms
    layout = FlvLayout(title)
    body = flv_of(layout, b"abcd")[len(layout.head) + flv.TAG_HEADER_SIZE_BYTES :]
    assert body[:5].hex() == "1701" + expected


def changing() -> tuple[FlvLayout, bytes]:
    """Frames whose configuration changes at the second sample and back at the third."""
    record = AVC_CONFIGURATION[:1] + b"\x42" + AVC_CONFIGURATION[2:]
    recipe = TrackRecipe(
        offset=0,
        entry=avc1() + visual_entry("avc1", box("avcC", record)),
        stsc=table("stsc", (1, 1, 1), (2, 1, 2), (3, 1, 1)),
        stco=table("stco", (0,), (10,), (20,)),
    )
    source = bytes(range(30))
    layout = FlvLayout(build_title(parse_moov(moov(recipe)), len(source)))
    return layout, source


def test_codec_headers_are_inserted_where_the_configuration_changes() -> None:
    layout, source = changing()
    whole = flv_of(layout, source)
    tags = scan_tags(whole, 13)
    flags = tags.flags[1:].tolist()  # after the metadata
    is_header = [bool(flag & flv.TagFlag.SEQUENCE_HEADER) for flag in flags]
    assert is_header == [True, False, True, False, True, False]
    assert tags.timestamp_ms[2:].tolist() == [0, 40, 40, 80, 80]
    assert tags.end == len(whole) == layout.size_bytes
    for cut in range(len(whole) + 1):
        parts = (Span(0, cut), Span(cut, len(whole)))
        pieces = [layout.assemble(part, sources_of(layout, part, source)) for part in parts]
        assert b"".join(pieces) == whole


def test_codec_headers_at_a_row_are_the_last_ones_before_it() -> None:
    layout, _ = changing()
    profiles = [dict(layout.sequence_headers(row))[9][6] for row in range(6)]
    assert profiles == [0x64, 0x64, 0x42, 0x42, 0x64, 0x64]


def test_total_size_of_codec_headers_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamedge.media.flv.layout.INLINE_BYTES_MAX", 60)
    with pytest.raises(MediaError, match="codec changes"):
        changing()
