"""streamedge/media/flv/head.py."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamedge.errors import MediaError, MediaFault
from streamedge.media.flv import tags as flv
from streamedge.media.flv.head import FIRST_READ_BYTES, HEAD_LIMIT_BYTES, FlvHead, read_head
from streamedge.media.flv.scan import scan_tags
from streamedge.media.flv.tags import TagType
from streamedge.media.script_data import ScriptObject, encode_on_metadata
from streamedge.spans import Span
from tests.support.media.media_oracle import feed

Media = Callable[[str], bytes]

BOTH = flv.file_header(has_audio=True, has_video=True)
AVC_HEADER = flv.tag(TagType.VIDEO, b"\x17\0\0\0\0record", 0)
AAC_HEADER = flv.tag(TagType.AUDIO, b"\xaf\0\x12\x10", 0)
KEYFRAME = flv.tag(TagType.VIDEO, b"\x17\x01\0\0\0picture", 40)
SOUND = flv.tag(TagType.AUDIO, b"\xaf\x01sound", 60)


def metadata(**values: object) -> bytes:
    members: ScriptObject = dict(values)  # type: ignore[arg-type]
    return flv.tag(TagType.SCRIPT, encode_on_metadata(members), 0)


def read(data: bytes) -> tuple[FlvHead, list[Span]]:
    return feed(read_head(len(data)), data)


def test_head_of_a_real_file_is_read(media: Media) -> None:
    data = media("film.flv")
    head, spans = read(data)
    assert spans == [Span(0, FIRST_READ_BYTES)]
    assert (head.has_audio, head.has_video) == (True, True)
    assert (head.video_codec, head.audio_codec) == (7, 10)
    assert head.video_sequence_header is not None
    assert head.video_sequence_header[:6].hex() == "170000000001"
    assert head.audio_sequence_header is not None
    assert head.audio_sequence_header[:2].hex() == "af00"
    assert head.metadata["width"] == 640
    assert head.duration_ms == 20_023
    assert head.keyframes is None
    assert head.first_media in scan_tags(data, 13).position


def test_keyframe_list_is_read(media: Media) -> None:
    data = media("film-keyframes.flv")
    head, _ = read(data)
    assert head.keyframes is not None
    assert head.keyframes.time_ms.tolist() == list(range(23, 20_000, 2000))
    for position in head.keyframes.position.tolist():
        assert data[position] == TagType.VIDEO
        assert data[position + flv.TAG_HEADER_SIZE_BYTES] == 0x17


def test_duration_is_read_from_the_last_tag() -> None:
    data = BOTH + AVC_HEADER + AAC_HEADER + KEYFRAME + SOUND
    head, spans = read(data)
    assert head.duration_ms == 60
    assert [span.size for span in spans] == [len(data), 4, 11]
    # Without its last byte the file still ends with that tag; without more bytes it does not.
    assert read(data[:-1])[0].duration_ms == 60
    assert read(data[:-5])[0].duration_ms == 40
    for tail in (bytes(100_000), b"junk" * 5000):
        assert read(data + tail)[0].duration_ms == 60


@pytest.mark.parametrize("duration", [0.0, -1.0, float("nan"), float("inf"), 1e9, True, "5"])
def test_impossible_duration_is_ignored(duration: object) -> None:
    data = BOTH + metadata(duration=duration) + AVC_HEADER + AAC_HEADER + KEYFRAME + SOUND
    assert read(data)[0].duration_ms == 60


def test_one_track_does_not_need_the_whole_limit() -> None:
    many = b"".join(flv.tag(TagType.VIDEO, b"\x27\x01\0\0\0" + bytes(5000), 40) for _ in range(300))
    video_only = flv.file_header(has_audio=False, has_video=True) + AVC_HEADER + KEYFRAME + many
    head, spans = read(video_only)
    assert spans[0] == Span(0, FIRST_READ_BYTES)
    assert all(span.size <= 11 for span in spans[1:])
    assert not head.has_audio
    wrong = BOTH + metadata(videocodecid=7, duration=12) + AVC_HEADER + KEYFRAME + many
    assert read(wrong)[1] == [Span(0, FIRST_READ_BYTES)]
    # The tracks are unknown, so the search goes to its limit.
    silent = BOTH + AVC_HEADER + KEYFRAME + many
    spans = read(silent)[1]
    assert sum(span.size for span in spans[:-2]) == HEAD_LIMIT_BYTES


def test_audio_header_after_a_large_keyframe_is_found() -> None:
    keyframe = flv.tag(TagType.VIDEO, b"\x17\x01\0\0\0" + bytes(400_000), 40)
    data = BOTH + AVC_HEADER + keyframe + AAC_HEADER + SOUND
    head, spans = read(data)
    assert head.audio_sequence_header == b"\xaf\0\x12\x10"
    assert head.first_media == len(BOTH + AVC_HEADER)
    assert [span.start for span in spans[:3]] == [0, 65536, 131072]


def test_keyframe_larger_than_the_search_limit_is_read() -> None:
    keyframe = flv.tag(TagType.VIDEO, b"\x17\x01\0\0\0" + bytes(4_000_000), 40)
    head, _ = read(BOTH + AVC_HEADER + AAC_HEADER + keyframe + SOUND)
    assert head.first_media == len(BOTH + AVC_HEADER + AAC_HEADER)


def test_enhanced_codecs_are_read() -> None:
    data = (
        BOTH
        + flv.tag(TagType.VIDEO, b"\x90hvc1record", 0)
        + flv.tag(TagType.AUDIO, b"\x90OpusOpusHead", 0)
        + flv.tag(TagType.VIDEO, b"\xd4hvc1colours", 0)
        + flv.tag(TagType.VIDEO, b"\x93hvc1picture", 0)
    )
    head, _ = read(data)
    assert (head.video_codec, head.audio_codec) == ("hvc1", "Opus")
    assert head.video_sequence_header == b"\x90hvc1record"
    assert data[head.first_media + 11 : head.first_media + 12] == b"\x93"


@pytest.mark.parametrize(
    ("times", "positions"),
    [
        ([0.0, 1.0], [100.0]),
        ([1.0, 0.0], [100.0, 200.0]),
        ([0.0, 1.0], [200.0, 100.0]),
        ([0.0, 1.0], [100.0, 1e9]),
        ([0.0, 1e9], [100.0, 200.0]),
        ([0.0, float("nan")], [100.0, 200.0]),
        ([-1.0, 0.0], [100.0, 200.0]),
        ([], []),
        ([0.0], [13.0]),
    ],
)
def test_implausible_keyframe_list_is_ignored(times: list[float], positions: list[float]) -> None:
    keyframes = {"times": np.array(times), "filepositions": np.array(positions)}
    data = BOTH + metadata(keyframes=keyframes) + AVC_HEADER + AAC_HEADER + KEYFRAME + bytes(500)
    assert read(data)[0].keyframes is None


FILM = AVC_HEADER + AAC_HEADER + KEYFRAME + SOUND + KEYFRAME + SOUND


@pytest.mark.parametrize(
    "data",
    [
        b"ID3\3\0\0\0\0\0\x64" + bytes(100) + BOTH + FILM,
        BOTH + flv.tag(TagType.SCRIPT, b"\2\0\x0aonMetaData\x08\0\0\0\5\0\4dura", 0) + FILM,
        BOTH + flv.tag(15, b"unknown", 0) + FILM,
        BOTH[:8] + b"\0" + BOTH[9:] + FILM,
        BOTH[:8] + b"\xff" + BOTH[9:] + FILM,
        BOTH + b"junk between" + FILM,
    ],
    ids=["ID3", "metadata", "unknown type", "header size 0", "header size 255", "junk"],
)
def test_unknown_tags_are_skipped(data: bytes) -> None:
    head, _ = read(data)
    assert data[head.first_media :].startswith(KEYFRAME)
    assert (head.video_codec, head.audio_codec) == (7, 10)
    assert head.video_sequence_header is not None
    assert head.audio_sequence_header is not None


@pytest.mark.parametrize("start_ms", [-33, 0, 900, 3_132_000])
def test_duration_counts_from_the_start_of_the_media(start_ms: int) -> None:
    def at(time_ms: int) -> bytes:
        tag = bytearray(flv.tag(TagType.VIDEO, b"\x17\x01\0\0\0picture", 0))
        raw = (start_ms + time_ms) & 0xFFFFFFFF
        tag[4:8] = (raw & 0xFFFFFF).to_bytes(3, "big") + bytes([raw >> 24])
        return bytes(tag)

    tags = AVC_HEADER + b"".join(at(time_ms) for time_ms in range(0, 20_001, 1000))
    head, _ = read(flv.file_header(has_audio=False, has_video=True) + tags)
    assert head.start_ms == start_ms
    assert head.duration_ms == 20_000 + (900 if start_ms == 900 else 0)


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", MediaFault.STRUCTURE_INVALID),
        (b"FLV", MediaFault.STRUCTURE_INVALID),
        (bytes(1000), MediaFault.STRUCTURE_INVALID),
        (BOTH + bytes(100), MediaFault.NO_SUPPORTED_TRACK),
        (BOTH + flv.tag(TagType.SCRIPT, b"\x11", 0), MediaFault.NO_SUPPORTED_TRACK),
        (BOTH, MediaFault.NO_SUPPORTED_TRACK),
        (BOTH + AVC_HEADER + AAC_HEADER, MediaFault.NO_SUPPORTED_TRACK),
        (BOTH + KEYFRAME[:12], MediaFault.NO_SUPPORTED_TRACK),
    ],
)
def test_file_without_a_usable_head_is_refused(data: bytes, fault: MediaFault) -> None:
    with pytest.raises(MediaError) as caught:
        read(data)
    assert caught.value.fault is fault


def test_file_shorter_than_stated_is_refused() -> None:
    parser = read_head(10_000)
    next(parser)
    with pytest.raises(MediaError, match="shorter than its stated size"):
        parser.send(BOTH)


@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_damaged_files_are_read_or_refused(media: Media, data: st.DataObject) -> None:
    damaged = bytearray(media("film-keyframes.flv")[:80_000])
    for spot in data.draw(st.lists(st.integers(0, 1300), min_size=1, max_size=6)):
        damaged[spot] = data.draw(st.integers(0, 255))
    length = data.draw(st.integers(0, len(damaged)))
    try:
        head, _ = read(bytes(damaged[:length]))
    except MediaError:
        return
    assert 0 < head.first_media < length
