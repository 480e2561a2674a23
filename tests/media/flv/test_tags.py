"""streamedge/media/flv/tags.py: headers and classification."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.errors import MediaError
from streamedge.media.flv import tags as flv
from streamedge.media.flv.tags import TagFlag, TagType
from streamedge.media.mp4.codecs import CodecConfiguration, TrackKind

AUDIO, VIDEO, MEDIA = TagFlag.AUDIO, TagFlag.VIDEO, TagFlag.MEDIA
HEADER, KEYFRAME, ENHANCED = TagFlag.SEQUENCE_HEADER, TagFlag.KEYFRAME, TagFlag.ENHANCED
MULTITRACK = TagFlag.MULTITRACK


def video_codec(four_cc: str, classic_id: int | None = None) -> CodecConfiguration:
    return CodecConfiguration(TrackKind.VIDEO, four_cc, classic_id, b"record")


def audio_codec(
    four_cc: str, classic_id: int | None = None, record: bytes | None = b"record"
) -> CodecConfiguration:
    return CodecConfiguration(
        TrackKind.AUDIO, four_cc, classic_id, record, sample_rate=44100, channels=2
    )


@pytest.mark.parametrize("has_audio", [False, True])
@pytest.mark.parametrize("has_video", [False, True])
def test_file_header_is_written_and_read(has_audio: bool, has_video: bool) -> None:
    header = flv.file_header(has_audio=has_audio, has_video=has_video)
    assert len(header) == 13
    assert flv.parse_file_header(header) == (has_audio, has_video, 9)


@pytest.mark.parametrize("data", [b"", b"FLV\x01\x05\0\0\0", bytes(9)])
def test_invalid_file_header_is_refused(data: bytes) -> None:
    with pytest.raises(MediaError):
        flv.parse_file_header(data)


def test_header_with_a_too_small_size_is_read() -> None:
    assert flv.parse_file_header(b"FLV\x01\x05\0\0\0\x08").size_bytes == 9


def test_tag_is_header_body_and_size() -> None:
    """FLV 10.1 §E.4.1: type, size, time, time's high byte, stream id; then the size again."""
    assert flv.tag(TagType.VIDEO, b"abc", 0x01020304).hex() == (
        "09" "000003" "020304" "01" "000000" "616263" "0000000e"
    )  # fmt: skip


@given(
    st.sampled_from(TagType),
    st.integers(0, flv.BODY_SIZE_MAX_BYTES),
    st.integers(0, flv.TIMESTAMP_MAX_MS),
)
def test_tag_header_survives_a_round_trip(tag_type: TagType, size: int, time_ms: int) -> None:
    header = flv.tag_header(tag_type, size, time_ms)
    assert flv.parse_tag_header(header) == (tag_type, size, time_ms, 0)


@pytest.mark.parametrize(("size", "time_ms"), [(1 << 24, 0), (0, 1 << 31), (0, -1)])
def test_tag_header_beyond_its_limits_is_refused(size: int, time_ms: int) -> None:
    with pytest.raises(MediaError):
        flv.tag_header(TagType.VIDEO, size, time_ms)


@pytest.mark.parametrize(
    ("sound_format", "sample_rate", "channels", "expected"),
    [
        (10, 8000, 1, 0xAF),  # AAC always has the same byte
        (2, 44100, 2, 0x2F),
        (2, 48000, 2, 0x2F),
        (2, 44100, 1, 0x2E),
        (2, 22050, 2, 0x2B),
        (2, 11025, 1, 0x26),
    ],
)
def test_audio_byte_encodes_rate_and_channels(
    sound_format: int, sample_rate: int, channels: int, expected: int
) -> None:
    assert flv.audio_byte(sound_format, sample_rate, channels) == expected


@pytest.mark.parametrize(
    ("codec", "sample", "key_sample", "field", "sequence_header"),
    [
        (video_codec("avc1", 7), "2701", "1701", 3, "1700000000"),
        (video_codec("hvc1"), "a368766331", "9368766331", 0, "9068766331"),
        (video_codec("av01"), "a161763031", "9161763031", 0, "9061763031"),
        (video_codec("vp09"), "a176703039", "9176703039", 0, "9076703039"),
        (audio_codec("mp4a", 10), "af01", "af01", 0, "af00"),
        (audio_codec(".mp3", 2, None), "2f", "2f", 0, None),
        (audio_codec("Opus"), "914f707573", "914f707573", 0, "904f707573"),
        (audio_codec("ac-3", None, b""), "9161632d33", "9161632d33", 0, "9061632d33"),
    ],
    ids=lambda value: value.four_cc if isinstance(value, CodecConfiguration) else None,
)
def test_body_header_classifies_as_its_sample(
    codec: CodecConfiguration, sample: str, key_sample: str, field: int, sequence_header: str | None
) -> None:
    """Bytes as FFmpeg 8.1's FLV muxer writes them."""
    assert flv.sample_header(codec, is_key=False).hex() == sample
    assert flv.sample_header(codec, is_key=True).hex() == key_sample
    assert flv.composition_size_bytes(codec, has_composition=False) == field
    body = flv.sequence_header_body(codec)
    if sequence_header is None:
        assert body is None
    else:
        assert body == bytes.fromhex(sequence_header) + (codec.sequence_header or b"")


def test_hevc_with_composition_time_uses_coded_frames() -> None:
    codec = video_codec("hvc1")
    assert flv.sample_header(codec, is_key=False, has_composition=True).hex() == "a168766331"
    assert flv.composition_size_bytes(codec, has_composition=True) == 3


def test_codec_id_is_the_classic_one_or_the_four_cc() -> None:
    assert flv.codec_id(video_codec("avc1", 7)) == 7
    assert flv.codec_id(video_codec("av01")) == 0x61763031  # Enhanced RTMP v2, onMetaData


@pytest.mark.parametrize(
    ("tag_type", "body", "flags", "codec", "packet_type"),
    [
        (9, "1700000000", VIDEO | HEADER, 7, 0),
        (9, "1701000000", VIDEO | MEDIA | KEYFRAME, 7, 1),
        (9, "2701000000", VIDEO | MEDIA, 7, 1),
        (9, "1702000000", VIDEO, 7, 2),
        (9, "5700", VIDEO, 7, 0),
        (9, "17", VIDEO, 7, 2),
        (9, "12", VIDEO | MEDIA | KEYFRAME, 2, None),
        (9, "22", VIDEO | MEDIA, 2, None),
        (9, "9068766331", VIDEO | ENHANCED | HEADER, "hvc1", 0),
        (9, "9168766331", VIDEO | ENHANCED | MEDIA | KEYFRAME, "hvc1", 1),
        (9, "a368766331", VIDEO | ENHANCED | MEDIA, "hvc1", 3),
        (9, "d468766331", VIDEO | ENHANCED, "hvc1", 4),
        (9, "9261763031", VIDEO | ENHANCED, "av01", 2),
        (9, "960161763031", VIDEO | ENHANCED | MEDIA | KEYFRAME | MULTITRACK, None, 6),
        (9, "960061763031", VIDEO | ENHANCED | HEADER | MULTITRACK, None, 6),
        (9, "9602617630", VIDEO | ENHANCED | MULTITRACK, None, 6),
        (9, "970200000106", VIDEO | ENHANCED | MEDIA | KEYFRAME | MULTITRACK, None, 7),
        (9, "970200000101", VIDEO | ENHANCED | MEDIA | KEYFRAME, None, 7),
        (8, "95016d703461", AUDIO | ENHANCED | MEDIA | MULTITRACK, None, 5),
        (8, "95006d703461", AUDIO | ENHANCED | HEADER | MULTITRACK, None, 5),
        (8, "970200000105", AUDIO | ENHANCED | MEDIA | MULTITRACK, None, 7),
        (8, "97020000", AUDIO | ENHANCED | MEDIA, None, 7),
        (8, "af00", AUDIO | HEADER, 10, 0),
        (8, "af01", AUDIO | MEDIA, 10, 1),
        (8, "2f", AUDIO | MEDIA, 2, None),
        (8, "904f707573", AUDIO | ENHANCED | HEADER, "Opus", 0),
        (8, "914f707573", AUDIO | ENHANCED | MEDIA, "Opus", 1),
        (8, "944f707573", AUDIO | ENHANCED, "Opus", 4),
        (8, "", AUDIO, None, None),
        (18, "02", TagFlag.SCRIPT, None, None),
    ],
)
def test_tags_are_classified(
    tag_type: int, body: str, flags: TagFlag, codec: int | str | None, packet_type: int | None
) -> None:
    assert flv.classify(tag_type, bytes.fromhex(body)) == (flags, codec, packet_type)
    # The bytes after the header do not matter.
    if len(body) >= 10:
        assert flv.classify(tag_type, bytes.fromhex(body) + b"\xff" * 9).flags == flags


@given(st.sampled_from(TagType), st.binary(max_size=flv.CLASSIFIED_BYTES))
def test_any_body_is_classified(tag_type: TagType, body: bytes) -> None:
    tag = flv.classify(tag_type, body)
    assert not (TagFlag.MEDIA in tag.flags and HEADER in tag.flags)
