"""Codec configurations for FLV and RTMP players, from MP4 sample entries.

Defines the supported codecs, their names (classic CodecID or Enhanced RTMP FourCC) and the
configuration record of each.
Sources: ISO/IEC 14496-12 §12, 14496-14 §5.6, 14496-15; QuickTime File Format, "Sound Sample
Descriptions"; Enhanced RTMP v2, "Enhanced Audio" and "Enhanced Video"; where they differ, records
are as FFmpeg writes them.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from streamedge.errors import MediaError
from streamedge.media.faults import invalid
from streamedge.media.mp4 import boxes, esds
from streamedge.media.mp4.boxes import Box

SAMPLE_DESCRIPTIONS_MAX = 64
RECORD_SIZE_MAX_BYTES = 1 << 20

CODEC_ID_AVC = 7
CODEC_ID_MP3 = 2
CODEC_ID_AAC = 10

# ISO/IEC 14496-12 §8.12: the samples are encrypted, and players need a key for them.
_ENCRYPTED_ENTRIES = frozenset({"encv", "enca"})

_VISUAL_ENTRY_SIZE_BYTES = 78
_SOUND_ENTRY_SIZE_BYTES = 28
_SOUND_V1_EXTRA_BYTES = 16
_SOUND_V2_EXTRA_BYTES = 36
_FLAC_STREAMINFO_SIZE_BYTES = 34


class TrackKind(IntEnum):
    """The kind of a track; the values are FLV's tag types and RTMP's message types."""

    AUDIO = 8
    VIDEO = 9


@dataclass(frozen=True, slots=True)
class CodecConfiguration:
    """One playable codec.

    ``classic_id`` is the CodecID (video) or SoundFormat (audio) of FLV 10.1; None: Enhanced RTMP
    headers name the codec by ``four_cc``. ``sequence_header`` is the configuration record that is
    sent before the first sample; None: the codec needs none. Fields of the other kind are 0, and so
    are ``sample_rate`` (Hz) and ``channels`` if only the bit stream has them.
    """

    kind: TrackKind
    four_cc: str
    classic_id: int | None
    sequence_header: bytes | None
    width: int = 0
    height: int = 0
    sample_rate: int = 0
    channels: int = 0


@dataclass(frozen=True, slots=True)
class UnsupportedCodec:
    """A sample entry that cannot be sent; ``name`` is its type, printable."""

    name: str


@dataclass(frozen=True, slots=True)
class SampleDescription:
    """One entry of ``stsd``: its type, and the codec that it describes."""

    type: str
    codec: CodecConfiguration | UnsupportedCodec


def parse_stsd(stsd: memoryview, kind: TrackKind) -> tuple[SampleDescription, ...]:
    """A track's sample descriptions, from the content of its ``stsd`` box; at least one.

    A damaged description is an UnsupportedCodec whose name has the reason. Raises MediaError
    STRUCTURE_INVALID when there is none.
    """
    if len(stsd) < 8:
        raise invalid("the MP4's stsd box is cut off")
    count = int.from_bytes(stsd[4:8], "big")
    if count > SAMPLE_DESCRIPTIONS_MAX:
        raise invalid(f"an MP4 track has over {SAMPLE_DESCRIPTIONS_MAX} sample descriptions")
    entries = itertools.islice(boxes.walk(stsd[8:]), count)
    # In stsd version 1 (ISO) the version of an entry adds no fields; otherwise QuickTime's apply.
    has_quicktime_fields = stsd[0] == 0
    descriptions = tuple(
        SampleDescription(entry.type, _codec(entry, kind, has_quicktime_fields))
        for entry in entries
    )
    if not descriptions:
        raise invalid("an MP4 track has no sample description")
    return descriptions


def _codec(
    entry: Box, kind: TrackKind, has_quicktime_fields: bool
) -> CodecConfiguration | UnsupportedCodec:
    if entry.type in _ENCRYPTED_ENTRIES:
        return UnsupportedCodec(f"{entry.type} (encrypted)")
    try:
        if kind is TrackKind.VIDEO:
            return _video(entry)
        return _audio(entry, has_quicktime_fields=has_quicktime_fields)
    except MediaError as exc:
        return UnsupportedCodec(f"{_printable(entry.type)} ({exc})")


# Sample entry type: (configuration box, FourCC, classic CodecID).
_VIDEO_ENTRIES: dict[str, tuple[str, str, int | None]] = {
    "avc1": ("avcC", "avc1", CODEC_ID_AVC),
    "avc3": ("avcC", "avc1", CODEC_ID_AVC),
    "hvc1": ("hvcC", "hvc1", None),
    "hev1": ("hvcC", "hvc1", None),
    "av01": ("av1C", "av01", None),
    "vp08": ("vpcC", "vp08", None),
    "vp09": ("vpcC", "vp09", None),
}


def _video(entry: Box) -> CodecConfiguration | UnsupportedCodec:
    entry_codec = _VIDEO_ENTRIES.get(entry.type)
    if entry_codec is None:
        return UnsupportedCodec(_printable(entry.type))
    if len(entry.content) < _VISUAL_ENTRY_SIZE_BYTES:
        raise invalid(f"the MP4's {entry.type} sample entry is cut off")
    record_type, four_cc, classic_id = entry_codec
    # The version and flags of vpcC stay in the record: FFmpeg sends and expects them.
    record = boxes.find(entry.content[_VISUAL_ENTRY_SIZE_BYTES:], record_type)
    if record is None:
        return UnsupportedCodec(f"{entry.type} without {record_type}")
    return CodecConfiguration(
        TrackKind.VIDEO,
        four_cc,
        classic_id,
        _record(record, entry.type),
        width=int.from_bytes(entry.content[24:26], "big"),
        height=int.from_bytes(entry.content[26:28], "big"),
    )


def _audio(entry: Box, *, has_quicktime_fields: bool) -> CodecConfiguration | UnsupportedCodec:
    read_codec = _AUDIO_ENTRIES.get(entry.type)
    if read_codec is None:
        return UnsupportedCodec(_printable(entry.type))
    content = entry.content
    if len(content) < _SOUND_ENTRY_SIZE_BYTES:
        raise invalid(f"the MP4's {entry.type} sample entry is cut off")
    version = int.from_bytes(content[8:10], "big") if has_quicktime_fields else 0
    extra_bytes = {1: _SOUND_V1_EXTRA_BYTES, 2: _SOUND_V2_EXTRA_BYTES}.get(version, 0)
    channels = int.from_bytes(content[16:18], "big")
    sample_rate = int.from_bytes(content[24:26], "big")
    if version == 2:
        if len(content) < _SOUND_ENTRY_SIZE_BYTES + extra_bytes:
            raise invalid(f"the MP4's {entry.type} sample entry is cut off")
        sample_rate = _sample_rate(content[32:40])
        channels = int.from_bytes(content[40:44], "big")
    return read_codec(content[_SOUND_ENTRY_SIZE_BYTES + extra_bytes :], sample_rate, channels)


def _mpeg4_audio(
    children: memoryview, sample_rate: int, channels: int
) -> CodecConfiguration | UnsupportedCodec:
    content = boxes.find(children, "esds")
    if content is None:
        content = boxes.find(children, "wave", "esds")
    if content is None:
        content = _search_box(children, b"esds")
    if content is None:
        return UnsupportedCodec("mp4a without esds")
    descriptor = esds.parse_esds(content)
    if descriptor.object_type in esds.OBJECT_TYPES_MP3:
        return _mp3(children, sample_rate, channels)
    record = descriptor.decoder_specific_info
    if descriptor.object_type not in esds.OBJECT_TYPES_AAC or record is None:
        return UnsupportedCodec(f"mp4a with object type 0x{descriptor.object_type:02x}")
    audio = esds.parse_audio_specific_config(record)
    return CodecConfiguration(
        TrackKind.AUDIO,
        "mp4a",
        CODEC_ID_AAC,
        _record(record, "mp4a"),
        sample_rate=audio.sample_rate or sample_rate,
        channels=audio.channels or channels,
    )


def _search_box(data: memoryview, box_type: bytes) -> memoryview | None:
    """The content of a box anywhere in ``data``, found by its type."""
    raw = bytes(data)
    at = raw.find(box_type)
    if at < 4:
        return None
    size_bytes = int.from_bytes(raw[at - 4 : at], "big")
    return data[at + 4 : at - 4 + size_bytes] if size_bytes >= 8 else None


def _mp3(children: memoryview, sample_rate: int, channels: int) -> CodecConfiguration:
    return CodecConfiguration(
        TrackKind.AUDIO, ".mp3", CODEC_ID_MP3, None, sample_rate=sample_rate, channels=channels
    )


def _opus(
    children: memoryview, sample_rate: int, channels: int
) -> CodecConfiguration | UnsupportedCodec:
    """OpusHead (RFC 7845 §5.1) from ``dOps``, which has the same fields in big-endian order."""
    content = boxes.find(children, "dOps")
    if content is None or len(content) < 11 or content[0] != 0:
        return UnsupportedCodec("Opus without dOps")
    channels = content[1]
    head = b"".join(
        (
            b"OpusHead\x01",
            content[1:2],
            bytes(content[3:1:-1]),  # pre-skip
            bytes(content[7:3:-1]),  # input sample rate
            bytes(content[9:7:-1]),  # output gain
            content[10:],  # mapping family and table
        )
    )
    # Opus always decodes at 48 kHz; dOps has the rate of the recording.
    return CodecConfiguration(
        TrackKind.AUDIO, "Opus", None, _record(head, "Opus"), sample_rate=48000, channels=channels
    )


def _flac(
    children: memoryview, sample_rate: int, channels: int
) -> CodecConfiguration | UnsupportedCodec:
    """The start of a FLAC file (RFC 9639 §6, §8.2): signature and last block STREAMINFO."""
    content = boxes.find(children, "dfLa")
    if content is None or len(content) < 8 + _FLAC_STREAMINFO_SIZE_BYTES or content[4] & 0x7F:
        return UnsupportedCodec("fLaC without dfLa")
    stream_info = bytes(content[8 : 8 + _FLAC_STREAMINFO_SIZE_BYTES])
    packed = int.from_bytes(stream_info[10:14], "big")
    return CodecConfiguration(
        TrackKind.AUDIO,
        "fLaC",
        None,
        b"fLaC\x80" + len(stream_info).to_bytes(3, "big") + stream_info,
        sample_rate=packed >> 12,
        channels=(packed >> 9 & 7) + 1,
    )


def _dolby(four_cc: str) -> Callable[[memoryview, int, int], CodecConfiguration]:
    """AC-3 and E-AC-3, whose frames hold the configuration: an empty sequence header is enough."""

    def read(children: memoryview, sample_rate: int, channels: int) -> CodecConfiguration:
        return CodecConfiguration(
            TrackKind.AUDIO, four_cc, None, b"", sample_rate=sample_rate, channels=channels
        )

    return read


_AUDIO_ENTRIES: dict[
    str, Callable[[memoryview, int, int], CodecConfiguration | UnsupportedCodec]
] = {
    "mp4a": _mpeg4_audio,
    ".mp3": _mp3,
    "Opus": _opus,
    "fLaC": _flac,
    "ac-3": _dolby("ac-3"),
    "ec-3": _dolby("ec-3"),
}


def _record(record: bytes | memoryview, name: str) -> bytes:
    if len(record) > RECORD_SIZE_MAX_BYTES:
        raise invalid(f"the MP4's {name} configuration has over {RECORD_SIZE_MAX_BYTES} bytes")
    return bytes(record)


def _sample_rate(field: memoryview) -> int:
    """The sample rate of QuickTime's version 2; 0 if it is not a possible rate."""
    (value,) = struct.unpack(">d", field)
    return int(value) if 0 < value < 1 << 32 else 0


def _printable(box_type: str) -> str:
    return box_type if box_type.isascii() and box_type.isprintable() else repr(box_type)
