"""MPEG-4 descriptors: the ``esds`` box and AAC's AudioSpecificConfig.

ISO/IEC 14496-1 §7.2.6 as far as audio needs it, and the first fields of 14496-3 §1.6.2.1.
"""

from __future__ import annotations

from typing import NamedTuple

from streamedge.media.faults import invalid

OBJECT_TYPES_AAC = frozenset({0x40, 0x66, 0x67, 0x68})
OBJECT_TYPES_MP3 = frozenset({0x69, 0x6B})

_ES_DESCRIPTOR = 0x03
_DECODER_CONFIG_DESCRIPTOR = 0x04
_DECODER_SPECIFIC_INFO = 0x05
_DECODER_CONFIG_SIZE_BYTES = 13
_SAMPLE_RATES = (
    96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350,
)  # fmt: skip
_CHANNELS = (0, 1, 2, 3, 4, 5, 6, 8)


class ElementaryStream(NamedTuple):
    """``decoder_specific_info`` is None where the descriptor has none."""

    object_type: int
    decoder_specific_info: bytes | None


class AudioSpecificConfig(NamedTuple):
    """Rate in Hz and channel count; 0 if only the bit stream has it."""

    sample_rate: int
    channels: int


def parse_esds(content: memoryview) -> ElementaryStream:
    """Reads the content of an ``esds`` box. Raises MediaError STRUCTURE_INVALID.

    It is lenient, because some writers are wrong: a descriptor that claims more bytes than there
    are ends with the box, and the decoder's descriptor may lack the stream's descriptor around it.
    """
    data = content[4:]
    tag, start, size = _descriptor(data)
    if tag == _ES_DESCRIPTOR:
        stream = data[start:]  # its size may be wrong
        if len(stream) < 3:
            raise invalid("the MP4's esds box is cut off")
        flags = stream[2]
        position = 3
        if flags & 0x80:  # depends on another stream
            position += 2
        if flags & 0x40:  # URL
            if len(stream) <= position:
                raise invalid("the MP4's esds box is cut off")
            position += 1 + stream[position]
        if flags & 0x20:  # clock reference stream
            position += 2
        data = stream[position:]
        tag, start, size = _descriptor(data)
    if tag != _DECODER_CONFIG_DESCRIPTOR:
        raise invalid("the MP4's esds box is damaged")
    config = data[start:]
    if len(config) < _DECODER_CONFIG_SIZE_BYTES:
        raise invalid("the MP4's esds box is cut off")
    rest = config[_DECODER_CONFIG_SIZE_BYTES:]
    if len(rest) < 2 or rest[0] != _DECODER_SPECIFIC_INFO:
        return ElementaryStream(config[0], None)
    _, start, size = _descriptor(rest)
    if start + size > len(rest):
        raise invalid("the MP4's esds box is cut off")
    return ElementaryStream(config[0], bytes(rest[start : start + size]) or None)


def _descriptor(data: memoryview) -> tuple[int, int, int]:
    """(tag, start of the content, size of the content) of the descriptor at the start.

    The size takes 1 to 4 bytes of 7 bits; it may exceed ``data``.
    """
    size = 0
    for position in range(1, min(5, len(data))):
        size = size << 7 | data[position] & 0x7F
        if data[position] & 0x80 == 0 or position == 4:
            return data[0], position + 1, size
    raise invalid("the MP4's esds box is cut off")


def parse_audio_specific_config(record: bytes) -> AudioSpecificConfig:
    """The rate and channels at the start of an AudioSpecificConfig; zeros when it is too short."""
    bits = int.from_bytes(record[:8].ljust(8, b"\0"), "big")
    position = 59
    object_type = bits >> position & 31
    if object_type == 31:  # escape: six more bits of type
        position -= 6
    position -= 4
    index = bits >> position & 15
    if index == 15:
        position -= 24
        sample_rate = bits >> position & 0xFFFFFF
    else:
        sample_rate = _SAMPLE_RATES[index] if index < len(_SAMPLE_RATES) else 0
    position -= 4
    channel_configuration = bits >> position & 15
    channels = _CHANNELS[channel_configuration] if channel_configuration < len(_CHANNELS) else 0
    return AudioSpecificConfig(sample_rate, channels)
