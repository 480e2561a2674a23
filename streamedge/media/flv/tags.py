"""FLV's file header, tags, and the headers in a tag's body.

Reads and writes tags, and classifies a tag by its first bytes. An RTMP audio, video or data message
has the same body, so this is RTMP's media format too. ``scan`` and ``head`` read files.
Sources: Adobe FLV 10.1 §E; Enhanced RTMP v2, "Enhanced Audio" and "Enhanced Video".
"""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag
from typing import NamedTuple

from streamedge.media.faults import invalid
from streamedge.media.mp4.codecs import CODEC_ID_AAC, CODEC_ID_AVC, CodecConfiguration, TrackKind

FILE_HEADER_SIZE_BYTES = 9
TAG_HEADER_SIZE_BYTES = 11
PREVIOUS_TAG_SIZE_BYTES = 4
BODY_SIZE_MAX_BYTES = (1 << 24) - 1
TIMESTAMP_MAX_MS = (1 << 31) - 1
MOD_EX_BYTES_MAX = 64  # of a body, read to find the packet type behind ModEx
CLASSIFIED_BYTES = 6  # the first bytes of a body, which ``classify`` needs

_SIGNATURE = b"FLV\x01"
_AUDIO_PRESENT, _VIDEO_PRESENT = 0x04, 0x01
_ENHANCED_VIDEO = 0x80
_ENHANCED_AUDIO = 9  # SoundFormat ExHeader
# AVC, and the numbers that Chinese writers use: HEVC 12, AV1 13, VVC 14.
_CODEC_IDS_WITH_PACKET_TYPE = frozenset({CODEC_ID_AVC, 12, 13, 14})
AUDIO_MULTITRACK = 5  # AudioPacketType.Multitrack; in video it is PacketType.MULTITRACK
_ONE_TRACK = 0  # AvMultitrackType
_MOD_EX_LONG_BYTES = 256  # this size or more is written in two further bytes
MANY_TRACKS = 256  # no track has this id
_FRAME_KEY, _FRAME_INTER, _FRAME_COMMAND = 1, 2, 5
_SOUND_RATES = {5512: 0, 8000: 0, 11025: 1, 12000: 1, 16000: 2, 22050: 2, 24000: 2}
_SOUND_RATE_44100 = 3
_SOUND_16_BIT, _SOUND_STEREO = 0x02, 0x01


class TagType(IntEnum):
    AUDIO = 8
    VIDEO = 9
    SCRIPT = 18


class PacketType(IntEnum):
    """AudioPacketType and VideoPacketType of Enhanced RTMP; classic AVC and AAC use 0 to 2."""

    SEQUENCE_START = 0
    CODED_FRAMES = 1
    SEQUENCE_END = 2
    CODED_FRAMES_X = 3  # video: composition time 0, which is omitted
    METADATA = 4  # video; in audio the channel configuration
    MPEG2TS_SEQUENCE_START = 5
    MULTITRACK = 6  # video; in audio 5
    MOD_EX = 7


class TagFlag(IntFlag):
    """The properties of a tag, from ``scan_tags`` and ``classify``."""

    AUDIO = 1
    VIDEO = 2
    SCRIPT = 4
    KEYFRAME = 8  # a frame that can be decoded alone; not its sequence header
    SEQUENCE_HEADER = 16
    MEDIA = 32  # has samples: not a header, end of sequence, command or metadata
    ENHANCED = 64
    MULTITRACK = 128  # has the tracks beside the default ones, or only them


class FileHeader(NamedTuple):
    has_audio: bool
    has_video: bool
    size_bytes: int  # the position of PreviousTagSize0


class TagHeader(NamedTuple):
    """``size_bytes`` is the size of the body; ``timestamp_ms`` is signed (§E.4.1)."""

    type: int
    size_bytes: int
    timestamp_ms: int
    stream_id: int


class TagClass(NamedTuple):
    """``codec`` is a CodecID, SoundFormat or FourCC; ``packet_type`` None where there is none."""

    flags: TagFlag
    codec: int | str | None
    packet_type: int | None


def file_header(*, has_audio: bool, has_video: bool) -> bytes:
    """The file header and PreviousTagSize0: 13 bytes."""
    flags = _AUDIO_PRESENT * has_audio | _VIDEO_PRESENT * has_video
    return _SIGNATURE + struct.pack(">BII", flags, FILE_HEADER_SIZE_BYTES, 0)


def parse_file_header(data: bytes | bytearray | memoryview) -> FileHeader:
    """Reads the first 9 bytes of a file. Raises MediaError STRUCTURE_INVALID."""
    if len(data) < FILE_HEADER_SIZE_BYTES or bytes(data[:3]) != _SIGNATURE[:3]:
        raise invalid("not an FLV file")
    flags = data[4]
    size_bytes = int.from_bytes(data[5:9], "big")
    return FileHeader(
        bool(flags & _AUDIO_PRESENT),
        bool(flags & _VIDEO_PRESENT),
        max(size_bytes, FILE_HEADER_SIZE_BYTES),
    )


def tag_header(tag_type: int, body_size_bytes: int, timestamp_ms: int) -> bytes:
    """The 11 bytes before a body. Raises MediaError for a size or time out of FLV's range."""
    if body_size_bytes > BODY_SIZE_MAX_BYTES:
        raise invalid(f"a frame has {body_size_bytes} bytes, too large for an FLV tag")
    if not 0 <= timestamp_ms <= TIMESTAMP_MAX_MS:
        raise invalid(f"a frame has time {timestamp_ms} ms, beyond the range of an FLV tag")
    return struct.pack(
        ">IIHB",
        tag_type << 24 | body_size_bytes,
        (timestamp_ms & 0xFFFFFF) << 8 | timestamp_ms >> 24,
        0,
        0,
    )


def parse_tag_header(data: bytes | memoryview) -> TagHeader:
    """Reads the 11 bytes before a body, without checks."""
    first, time, stream_high, stream_low = struct.unpack_from(">IIHB", data)
    time_ms = time >> 8 | (time & 0xFF) << 24
    return TagHeader(
        first >> 24,
        first & 0xFFFFFF,
        time_ms if time_ms <= TIMESTAMP_MAX_MS else time_ms - (1 << 32),
        stream_high << 8 | stream_low,
    )


def tag(tag_type: int, body: bytes, timestamp_ms: int) -> bytes:
    """A whole tag: header, body and PreviousTagSize. Raises MediaError as ``tag_header``."""
    previous_tag_size = struct.pack(">I", TAG_HEADER_SIZE_BYTES + len(body))
    return tag_header(tag_type, len(body), timestamp_ms) + body + previous_tag_size


def audio_byte(sound_format: int, sample_rate: int, channels: int) -> int:
    """The AudioTagHeader of the classic sound formats.

    AAC always has 44 kHz stereo (§E.4.2.1). A rate that FLV cannot represent becomes the nearest
    one; players read the real one from the bit stream.
    """
    if sound_format == CODEC_ID_AAC:
        rate, is_stereo = _SOUND_RATE_44100, True
    else:
        rate, is_stereo = _SOUND_RATES.get(sample_rate, _SOUND_RATE_44100), channels > 1
    return sound_format << 4 | rate << 2 | _SOUND_16_BIT | _SOUND_STEREO * is_stereo


def sample_header(
    codec: CodecConfiguration, *, is_key: bool = True, has_composition: bool = False
) -> bytes:
    """The header before a sample in its tag's body, without the composition time.

    ``composition_size_bytes`` returns the size of the composition time after it.
    """
    if codec.kind is TrackKind.AUDIO:
        if codec.classic_id is None:
            return _enhanced_audio(codec, PacketType.CODED_FRAMES)
        first = bytes([audio_byte(codec.classic_id, codec.sample_rate, codec.channels)])
        return first + bytes([PacketType.CODED_FRAMES]) * (codec.classic_id == CODEC_ID_AAC)
    frame_type = _FRAME_KEY if is_key else _FRAME_INTER
    if codec.classic_id is not None:
        return bytes([frame_type << 4 | codec.classic_id, PacketType.CODED_FRAMES])
    packet_type = PacketType.CODED_FRAMES
    if codec.four_cc in _COMPOSITION_FOUR_CCS and not has_composition:
        packet_type = PacketType.CODED_FRAMES_X
    return _enhanced_video(codec, frame_type, packet_type)


def audio_track_header(codec: CodecConfiguration, packet_type: int, track_id: int) -> bytes:
    """The header of a multitrack audio packet with one track (E-RTMP v2, "Enhanced Audio"): the
    kind Multitrack, OneTrack with the packet's type, FourCC, track id.
    """
    first = bytes([_ENHANCED_AUDIO << 4 | AUDIO_MULTITRACK, _ONE_TRACK << 4 | packet_type])
    return first + codec.four_cc.encode("latin-1") + bytes([track_id])


def audio_track_sequence_header(codec: CodecConfiguration, track_id: int) -> bytes | None:
    """As ``sequence_header_body``, for an audio track beside the default one."""
    if codec.sequence_header is None:
        return None
    header = audio_track_header(codec, PacketType.SEQUENCE_START, track_id)
    return header + codec.sequence_header


# Only these have a composition time in Enhanced RTMP; the others have no reordered frames.
_COMPOSITION_FOUR_CCS = frozenset({"hvc1", "avc1"})


def composition_size_bytes(codec: CodecConfiguration, *, has_composition: bool) -> int:
    """The size of the composition time after ``sample_header``: 3 or 0."""
    if codec.kind is TrackKind.AUDIO:
        return 0
    if codec.classic_id == CODEC_ID_AVC:
        return 3
    return 3 if codec.four_cc in _COMPOSITION_FOUR_CCS and has_composition else 0


def sequence_header_body(codec: CodecConfiguration) -> bytes | None:
    """The body of the tag that configures a decoder; None for codecs that need none."""
    if codec.sequence_header is None:
        return None
    if codec.kind is TrackKind.AUDIO:
        if codec.classic_id is None:
            return _enhanced_audio(codec, PacketType.SEQUENCE_START) + codec.sequence_header
        first = audio_byte(codec.classic_id, codec.sample_rate, codec.channels)
        return bytes([first, PacketType.SEQUENCE_START]) + codec.sequence_header
    if codec.classic_id is None:
        header = _enhanced_video(codec, _FRAME_KEY, PacketType.SEQUENCE_START)
        return header + codec.sequence_header
    header = bytes([_FRAME_KEY << 4 | codec.classic_id, PacketType.SEQUENCE_START, 0, 0, 0])
    return header + codec.sequence_header


def codec_id(codec: CodecConfiguration) -> int:
    """The number for onMetaData's videocodecid and audiocodecid: a CodecID, or the FourCC's."""
    if codec.classic_id is not None:
        return codec.classic_id
    return int.from_bytes(codec.four_cc.encode("latin-1"), "big")


def _enhanced_audio(codec: CodecConfiguration, packet_type: int) -> bytes:
    return bytes([_ENHANCED_AUDIO << 4 | packet_type]) + codec.four_cc.encode("latin-1")


def _enhanced_video(codec: CodecConfiguration, frame_type: int, packet_type: int) -> bytes:
    first = _ENHANCED_VIDEO | frame_type << 4 | packet_type
    return bytes([first]) + codec.four_cc.encode("latin-1")


def classify(tag_type: int, body: bytes | memoryview) -> TagClass:
    """Classifies a tag by its type and the first ``CLASSIFIED_BYTES`` of its body.

    A body that is too short for its header is classified by the bytes that it has. Packets behind
    ModEx count as media, multitrack packets too unless they are sequence headers; their codec is
    not read.
    """
    if tag_type == TagType.SCRIPT:
        return TagClass(TagFlag.SCRIPT, None, None)
    kind = TagFlag.AUDIO if tag_type == TagType.AUDIO else TagFlag.VIDEO
    if len(body) == 0:
        return TagClass(kind, None, None)
    first = body[0]
    if kind is TagFlag.AUDIO:
        return _classify_audio(first, body)
    return _classify_video(first, body)


def _classify_audio(first: int, body: bytes | memoryview) -> TagClass:
    sound_format = first >> 4
    if sound_format == _ENHANCED_AUDIO:
        flags = TagFlag.AUDIO | TagFlag.ENHANCED
        packet_type = first & 15
        multitrack = _multitrack_position(body, AUDIO_MULTITRACK)
        if multitrack is not None:
            return TagClass(flags | _multitrack_flags(body, multitrack), None, packet_type)
        codec = (
            str(body[1:5], "latin-1") if packet_type < PacketType.MPEG2TS_SEQUENCE_START else None
        )
        if packet_type == PacketType.SEQUENCE_START:
            flags |= TagFlag.SEQUENCE_HEADER
        elif packet_type not in (PacketType.SEQUENCE_END, PacketType.METADATA):
            flags |= TagFlag.MEDIA
        return TagClass(flags, codec, packet_type)
    if sound_format == CODEC_ID_AAC:
        is_header = len(body) > 1 and body[1] == PacketType.SEQUENCE_START
        flag = TagFlag.SEQUENCE_HEADER if is_header else TagFlag.MEDIA
        return TagClass(TagFlag.AUDIO | flag, sound_format, int(not is_header))
    return TagClass(TagFlag.AUDIO | TagFlag.MEDIA, sound_format, None)


def _classify_video(first: int, body: bytes | memoryview) -> TagClass:
    flags = TagFlag.VIDEO
    codec: int | str | None
    packet_type: int | None
    if first & _ENHANCED_VIDEO:
        flags |= TagFlag.ENHANCED
        frame_type, packet_type = first >> 4 & 7, first & 15
        codec = str(body[1:5], "latin-1") if packet_type < PacketType.MULTITRACK else None
        multitrack = _multitrack_position(body, PacketType.MULTITRACK)
        if multitrack is not None and frame_type != _FRAME_COMMAND:
            flags |= _multitrack_flags(body, multitrack)
            if TagFlag.MEDIA in flags:
                flags |= TagFlag.KEYFRAME * (frame_type == _FRAME_KEY)
            return TagClass(flags, codec, packet_type)
    else:
        frame_type, codec = first >> 4, first & 15
        packet_type = None
        if codec in _CODEC_IDS_WITH_PACKET_TYPE:
            packet_type = body[1] if len(body) > 1 else PacketType.SEQUENCE_END
    if frame_type == _FRAME_COMMAND:
        return TagClass(flags, codec, packet_type)
    if packet_type in (PacketType.SEQUENCE_START, PacketType.MPEG2TS_SEQUENCE_START):
        flags |= TagFlag.SEQUENCE_HEADER
    elif packet_type not in (PacketType.SEQUENCE_END, PacketType.METADATA):
        flags |= TagFlag.MEDIA | TagFlag.KEYFRAME * (frame_type == _FRAME_KEY)
    return TagClass(flags, codec, packet_type)


def begins_with_mod_ex(tag_type: int, first: int) -> bool:
    """Whether a body with this first byte has its packet type behind ModEx."""
    if tag_type == TagType.AUDIO:
        return first == _ENHANCED_AUDIO << 4 | PacketType.MOD_EX
    return tag_type == TagType.VIDEO and first & 0x8F == _ENHANCED_VIDEO | PacketType.MOD_EX


def header_track(tag_type: int, body: bytes | memoryview) -> int:
    """The track that a sequence header is for: 0, or the id in a multitrack packet of one track.

    A packet of several tracks has MANY_TRACKS.
    """
    packet_type = AUDIO_MULTITRACK if tag_type == TagType.AUDIO else int(PacketType.MULTITRACK)
    is_enhanced = len(body) > 0 and (
        body[0] >> 4 == _ENHANCED_AUDIO if tag_type == TagType.AUDIO else body[0] & _ENHANCED_VIDEO
    )
    position = _multitrack_position(body, packet_type) if is_enhanced else None
    if position is None:
        return 0
    track_position = position + 5  # after the kind and the FourCC
    is_one = len(body) > track_position and body[position] >> 4 == _ONE_TRACK
    return body[track_position] if is_one else MANY_TRACKS


def _multitrack_position(body: bytes | memoryview, multitrack: int) -> int | None:
    """Where the multitrack header of an enhanced packet begins, after any ModEx; None if it has one
    track or its first bytes end before.

    ``multitrack`` is the packet type Multitrack. E-RTMP v2, "ModEx": size - 1 in a byte, or 255 and
    size - 1 in two, the data, then a byte whose low half is the next packet type.
    """
    packet_type, position = body[0] & 15, 1
    while packet_type == PacketType.MOD_EX:
        if position >= len(body):
            return None
        size_bytes = body[position] + 1
        position += 1
        if size_bytes == _MOD_EX_LONG_BYTES:
            size_bytes = int.from_bytes(body[position : position + 2], "big") + 1
            position += 2
        position += size_bytes
        if position >= len(body):
            return None
        packet_type = body[position] & 15
        position += 1
    return position if packet_type == multitrack else None


def _multitrack_flags(body: bytes | memoryview, position: int) -> TagFlag:
    """The flags by the packet type in a multitrack header."""
    if position >= len(body):
        return TagFlag.MULTITRACK | TagFlag.MEDIA
    packet_type = body[position] & 15
    if packet_type == PacketType.SEQUENCE_START:
        return TagFlag.MULTITRACK | TagFlag.SEQUENCE_HEADER
    if packet_type in (PacketType.SEQUENCE_END, PacketType.METADATA):
        return TagFlag.MULTITRACK
    return TagFlag.MULTITRACK | TagFlag.MEDIA
