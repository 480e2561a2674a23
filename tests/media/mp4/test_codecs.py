"""streamedge/media/mp4/codecs.py and esds.py: sample entries of MP4 and QuickTime."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.errors import MediaError
from streamedge.media.mp4.codecs import CodecConfiguration, TrackKind, UnsupportedCodec, parse_stsd
from streamedge.media.mp4.esds import parse_audio_specific_config
from tests.support.media.mp4_writer import (
    AVC_CONFIGURATION,
    avc1,
    box,
    esds,
    sound_entry,
    visual_entry,
    words,
)

AAC_LC_44100_STEREO = bytes.fromhex("1210")
OPUS_BOX = box("dOps", struct.pack(">BBHIhB", 0, 2, 312, 48000, -2, 0))
STREAM_INFO = bytes.fromhex("1200120000013d00053f0ac442f000015888e1dfab2108121980f4cce559582859be")


def parse(entry: bytes, kind: TrackKind, version: int = 0) -> CodecConfiguration | UnsupportedCodec:
    (description,) = parse_stsd(memoryview(words(version << 24, 1) + entry), kind)
    return description.codec


def video(entry: bytes) -> CodecConfiguration | UnsupportedCodec:
    return parse(entry, TrackKind.VIDEO)


def audio(entry: bytes) -> CodecConfiguration | UnsupportedCodec:
    return parse(entry, TrackKind.AUDIO)


def aac(channels: int = 2) -> CodecConfiguration:
    return CodecConfiguration(
        TrackKind.AUDIO, "mp4a", 10, AAC_LC_44100_STEREO, sample_rate=44100, channels=channels
    )


@pytest.mark.parametrize(
    ("entry_type", "record_type", "four_cc", "classic_id"),
    [
        ("avc1", "avcC", "avc1", 7),
        ("avc3", "avcC", "avc1", 7),
        ("hvc1", "hvcC", "hvc1", None),
        ("hev1", "hvcC", "hvc1", None),
        ("av01", "av1C", "av01", None),
        ("vp08", "vpcC", "vp08", None),
        ("vp09", "vpcC", "vp09", None),
    ],
)
def test_video_codec_is_read(
    entry_type: str, record_type: str, four_cc: str, classic_id: int | None
) -> None:
    entry = visual_entry(entry_type, box("pasp", bytes(8)), box(record_type, b"record"))
    assert video(entry) == CodecConfiguration(
        TrackKind.VIDEO, four_cc, classic_id, b"record", width=320, height=180
    )


@pytest.mark.parametrize("object_type", [0x40, 0x66, 0x67, 0x68])
@pytest.mark.parametrize("long_sizes", [False, True])
def test_aac_codec_is_read(object_type: int, long_sizes: bool) -> None:
    descriptor = esds(object_type, AAC_LC_44100_STEREO, long_sizes=long_sizes)
    assert audio(sound_entry("mp4a", descriptor)) == aac()


@pytest.mark.parametrize("version", [1, 2])
def test_quicktime_sound_descriptions_keep_esds_in_wave(version: int) -> None:
    wave = box("wave", box("frma", b"mp4a"), esds(0x40, AAC_LC_44100_STEREO), bytes(4))
    assert audio(sound_entry("mp4a", wave, version=version)) == aac()


def test_version_1_in_an_iso_description_adds_no_fields() -> None:
    entry = bytearray(sound_entry("mp4a", esds(0x40, AAC_LC_44100_STEREO)))
    entry[16:18] = b"\0\1"
    assert parse(bytes(entry), TrackKind.AUDIO, version=1) == aac()


@pytest.mark.parametrize("object_type", [0x69, 0x6B])
def test_mp3_codec_is_read(object_type: int) -> None:
    expected = CodecConfiguration(TrackKind.AUDIO, ".mp3", 2, None, sample_rate=22050, channels=2)
    assert audio(sound_entry("mp4a", esds(object_type, None), sample_rate=22050)) == expected
    assert audio(sound_entry(".mp3", version=1, sample_rate=22050)) == expected
    assert audio(sound_entry(".mp3", version=2, sample_rate=22050)) == expected


def test_opus_becomes_opus_head() -> None:
    configuration = audio(sound_entry("Opus", OPUS_BOX))
    assert isinstance(configuration, CodecConfiguration)
    # RFC 7845 §5.1: version, channels, then little-endian pre-skip, rate and gain.
    assert configuration.sequence_header == b"OpusHead" + struct.pack(
        "<BBHIhB", 1, 2, 312, 48000, -2, 0
    )


def test_flac_becomes_signature_and_stream_info() -> None:
    block = bytes([0x80]) + len(STREAM_INFO).to_bytes(3, "big") + STREAM_INFO
    for blocks in (block, b"\0" + block[1:] + b"\x84\0\0\0"):
        assert audio(sound_entry("fLaC", box("dfLa", bytes(4) + blocks))) == CodecConfiguration(
            TrackKind.AUDIO, "fLaC", None, b"fLaC" + block, sample_rate=44100, channels=2
        )


@pytest.mark.parametrize("four_cc", ["ac-3", "ec-3"])
def test_dolby_codecs_are_read(four_cc: str) -> None:
    assert audio(sound_entry(four_cc, sample_rate=48000)) == CodecConfiguration(
        TrackKind.AUDIO, four_cc, None, b"", sample_rate=48000, channels=2
    )


@pytest.mark.parametrize(
    ("entry", "kind", "name"),
    [
        (visual_entry("mp4v"), TrackKind.VIDEO, "mp4v"),
        (visual_entry("encv"), TrackKind.VIDEO, "encv (encrypted)"),
        (visual_entry("avc1"), TrackKind.VIDEO, "avc1 without avcC"),
        (visual_entry("\x00\x00\x00\x01"), TrackKind.VIDEO, r"'\x00\x00\x00\x01'"),
        (sound_entry("sowt"), TrackKind.AUDIO, "sowt"),
        (sound_entry("mp4a"), TrackKind.AUDIO, "mp4a without esds"),
        (sound_entry("mp4a", esds(0xA9, b"x")), TrackKind.AUDIO, "mp4a with object type 0xa9"),
        (sound_entry("mp4a", esds(0x40, None)), TrackKind.AUDIO, "mp4a with object type 0x40"),
        (sound_entry("Opus"), TrackKind.AUDIO, "Opus without dOps"),
        (sound_entry("fLaC", box("dfLa", bytes(20))), TrackKind.AUDIO, "fLaC without dfLa"),
    ],
)
def test_unsupported_codec_is_named(entry: bytes, kind: TrackKind, name: str) -> None:
    assert parse(entry, kind) == UnsupportedCodec(name)


@pytest.mark.parametrize("entry", [avc1(), sound_entry("mp4a", esds(0x40, AAC_LC_44100_STEREO))])
def test_sample_description_truncated_anywhere_is_named_or_refused(entry: bytes) -> None:
    kind = TrackKind.VIDEO if b"avc1" in entry else TrackKind.AUDIO
    for length in range(len(entry) - len(AAC_LC_44100_STEREO)):
        if length < 8:
            with pytest.raises(MediaError, match="no sample description"):
                parse(entry[:length], kind)
            continue
        # A truncated record is sent as it is; the decoder decides.
        codec = parse(entry[:length], kind)
        assert isinstance(codec, UnsupportedCodec) or b"avcC" in entry[:length]
    assert isinstance(parse(entry + b"trailing garbage", kind), CodecConfiguration)


def test_descriptors_truncated_inside_their_box_are_unsupported() -> None:
    content = esds(0x40, AAC_LC_44100_STEREO)[8:]
    for length in range(len(content)):
        codec = audio(sound_entry("mp4a", box("esds", content[:length])))
        assert isinstance(codec, UnsupportedCodec)
        assert codec.name.startswith("mp4a")


def test_decoder_descriptor_without_stream_descriptor_is_read() -> None:
    content = esds(0x40, AAC_LC_44100_STEREO)[8:]
    inner = content[:4] + content[4 + 5 :]
    assert audio(sound_entry("mp4a", box("esds", inner))) == aac()


def test_descriptor_in_an_unreachable_box_is_found() -> None:
    lost = bytes(3) + esds(0x40, AAC_LC_44100_STEREO)
    assert audio(sound_entry("mp4a", lost)) == aac()


def test_each_description_is_read() -> None:
    stsd = words(0, 3) + avc1() + visual_entry("mp4v") + avc1()
    first, second, third = parse_stsd(memoryview(stsd), TrackKind.VIDEO)
    assert first == third
    assert (second.type, second.codec) == ("mp4v", UnsupportedCodec("mp4v"))


def test_number_of_descriptions_is_limited() -> None:
    with pytest.raises(MediaError, match="over 64"):
        parse_stsd(memoryview(words(0, 65) + avc1()), TrackKind.VIDEO)


@pytest.mark.parametrize(
    ("record", "sample_rate", "channels"),
    [
        ("1210", 44100, 2),  # LC, index 4
        ("1190", 48000, 2),  # LC, index 3
        ("131056e598", 24000, 2),  # LC with SBR signalled after it
        ("17800bb810", 6000, 2),  # LC, rate written out
        ("1238", 44100, 8),
        ("1200", 44100, 0),
        ("", 96000, 0),
    ],
)
def test_audio_specific_config_is_read(record: str, sample_rate: int, channels: int) -> None:
    assert parse_audio_specific_config(bytes.fromhex(record)) == (sample_rate, channels)


@given(st.binary(max_size=120), st.sampled_from(TrackKind))
def test_any_bytes_are_named_or_refused(content: bytes, kind: TrackKind) -> None:
    entries = [box("esds", content), content]
    for entry in (content, sound_entry("mp4a", *entries), visual_entry("avc1", content)):
        try:
            configuration = parse(entry, kind)
        except MediaError:
            continue
        assert isinstance(configuration, CodecConfiguration | UnsupportedCodec)


def test_configuration_record_is_kept_whole() -> None:
    configuration = video(avc1())
    assert isinstance(configuration, CodecConfiguration)
    assert configuration.sequence_header == AVC_CONFIGURATION
