"""MP3 frames: parsing headers, searching frames in bytes, and wrapping frames as FLV tags.

MPEG audio layer III at the level of frames; ``head`` reads files (ID3, Xing, duration, seeking).
Source: ISO/IEC 11172-3 §2.4.1.3, 13818-3 §2.4.1; MPEG 2.5 as in practice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from streamedge.media.flv import tags as flv
from streamedge.media.mp4.codecs import CODEC_ID_MP3
from streamedge.spans import Span

FRAME_HEADER_SIZE_BYTES = 4
FRAME_SIZE_MAX_BYTES = 2881  # 160 kb/s at 8 kHz, padded
RESYNCHRONISED_FRAMES = 3  # consecutive frames that confirm a boundary

CANDIDATES_MAX = 20_000  # in one search, so that no bytes block the event loop for long

_SEARCH_BLOCK_BYTES = 4096
_FREE_FORMAT_FRAME_MAX_BYTES = 8192
_MPEG_1, _MPEG_2, _MPEG_2_5 = 3, 2, 0
_LAYER_3 = 1
_MONO = 3
_SAMPLE_RATES = {
    _MPEG_1: (44100, 48000, 32000),
    _MPEG_2: (22050, 24000, 16000),
    _MPEG_2_5: (11025, 12000, 8000),
}
_KILOBITS_MPEG_1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KILOBITS_MPEG_2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)


class FrameHeader(NamedTuple):
    """``size_bytes`` is of the whole frame; ``bit_rate`` in bits/s, ``sample_rate`` in Hz."""

    sample_rate: int
    channels: int
    bit_rate: int
    size_bytes: int
    samples: int
    side_info_size_bytes: int

    def resembles(self, other: FrameHeader) -> bool:
        """Whether two frames can belong to one stream."""
        return self.sample_rate == other.sample_rate and self.samples == other.samples


class Frames(NamedTuple):
    """Complete frames of a buffer, as spans of it, and where the search for the next one begins."""

    spans: tuple[Span, ...]
    end: int


def parse_frame_header(data: bytes | memoryview) -> FrameHeader | None:
    """The header in the first 4 bytes; None when they are not a header.

    Frames of free format (no bit rate) are not recognised.
    """
    if len(data) < FRAME_HEADER_SIZE_BYTES or data[0] != 0xFF or data[1] & 0xE0 != 0xE0:
        return None
    version, layer = data[1] >> 3 & 3, data[1] >> 1 & 3
    bit_rate_index, sample_rate_index = data[2] >> 4, data[2] >> 2 & 3
    if version not in _SAMPLE_RATES or layer != _LAYER_3:
        return None
    if bit_rate_index in (0, 15) or sample_rate_index == 3:
        return None
    is_mono = data[3] >> 6 == _MONO
    kilobits = _KILOBITS_MPEG_1 if version == _MPEG_1 else _KILOBITS_MPEG_2
    bit_rate = kilobits[bit_rate_index] * 1000
    sample_rate = _SAMPLE_RATES[version][sample_rate_index]
    samples = 1152 if version == _MPEG_1 else 576
    padding = data[2] >> 1 & 1
    stereo_side_info, mono_side_info = (32, 17) if version == _MPEG_1 else (17, 9)
    return FrameHeader(
        sample_rate,
        1 if is_mono else 2,
        bit_rate,
        samples // 8 * bit_rate // sample_rate + padding,
        samples,
        mono_side_info if is_mono else stereo_side_info,
    )


def resynchronise(
    buffer: bytes | bytearray | memoryview, position: int = 0, *, is_file_end: bool = False
) -> int | None:
    """The position of the first confirmed frame at or after ``position``, or None.

    A frame is confirmed by RESYNCHRONISED_FRAMES consecutive frames of one stream. With
    ``is_file_end`` fewer are enough if the last one ends exactly with the buffer. A search ends
    after CANDIDATES_MAX possible positions.
    """
    data = memoryview(buffer)
    octets = np.frombuffer(data, np.uint8)
    candidates_left = CANDIDATES_MAX
    # In blocks, so that a buffer full of short runs of frames is not searched to its end each time.
    for start in range(position, len(octets) - 1, _SEARCH_BLOCK_BYTES):
        block = octets[start : start + _SEARCH_BLOCK_BYTES + 1]
        # Sync word, any version, layer III.
        candidates = (block[:-1] == 0xFF) & (block[1:] & 0xE6 == 0xE0 | _LAYER_3 << 1)
        positions = (np.flatnonzero(candidates) + start).tolist()
        candidates_left -= len(positions)
        if candidates_left < 0:
            return None
        for candidate in positions:
            if _is_boundary(data, candidate, is_file_end):
                return int(candidate)
    return None


def _is_boundary(data: memoryview, position: int, is_file_end: bool) -> bool:
    first = None
    for _ in range(RESYNCHRONISED_FRAMES):
        if first is not None and position == len(data):
            return is_file_end
        header = parse_frame_header(data[position : position + FRAME_HEADER_SIZE_BYTES])
        if header is None or (first is not None and not header.resembles(first)):
            return False
        first = first or header
        position += header.size_bytes
    return position <= len(data)


def unsupported_format(data: bytes | memoryview) -> str | None:
    """The MPEG audio format at the start of ``data`` if it cannot be sent, else None."""
    if len(data) < FRAME_HEADER_SIZE_BYTES or data[0] != 0xFF or data[1] & 0xE0 != 0xE0:
        return None
    version, layer, bit_rate_index = data[1] >> 3 & 3, data[1] >> 1 & 3, data[2] >> 4
    if version not in _SAMPLE_RATES or data[2] >> 2 & 3 == 3 or bit_rate_index == 15:
        return None
    # The same two bytes must follow again, because two bytes alone may be anything.
    again = bytes(data[:_FREE_FORMAT_FRAME_MAX_BYTES]).find(bytes(data[:2]), 24)
    if again < 0:
        return None
    if layer == _LAYER_3 and bit_rate_index == 0:
        return "MP3 frames of free format, which have no bit rate"
    if layer in (2, 3):
        return f"MPEG audio of layer {'I' if layer == 3 else 'II'}"
    return None


def frames(
    buffer: bytes | bytearray | memoryview, position: int = 0, *, is_file_end: bool = False
) -> Frames:
    """The complete frames from ``position`` on, which is at or near the start of a frame.

    Other bytes are skipped up to the next boundary that ``resynchronise`` confirms. ``end`` is the
    position after the last returned or skipped byte.
    """
    data = memoryview(buffer)
    spans: list[Span] = []
    while len(data) - position >= FRAME_HEADER_SIZE_BYTES:
        header = parse_frame_header(data[position : position + FRAME_HEADER_SIZE_BYTES])
        if header is None:
            boundary = resynchronise(data, position, is_file_end=is_file_end)
            if boundary is None:
                # The next boundary may be cut off at the end: leave enough bytes to confirm it.
                tail_bytes = RESYNCHRONISED_FRAMES * FRAME_SIZE_MAX_BYTES
                return Frames(tuple(spans), max(position, len(data) - tail_bytes))
            position = boundary
            continue
        end = position + header.size_bytes
        if end > len(data):
            break
        spans.append(Span(position, end))
        position = end
    return Frames(tuple(spans), position)


def as_tags(
    buffer: bytes | bytearray | memoryview, spans: Sequence[Span], first_sample: int = 0
) -> bytes:
    """Consecutive FLV audio tags, PreviousTagSizes included, of frames in a buffer.

    ``first_sample`` is the first frame's time counted in samples: milliseconds would drift from
    call to call. Each span must be a frame, as returned by ``frames``. Raises MediaError when a
    time is beyond the range of a tag.
    """
    data = memoryview(buffer)
    tags = []
    sample = first_sample
    for span in spans:
        frame = data[span.start : span.end]
        header = parse_frame_header(frame)
        if header is None:
            raise ValueError("not an MP3 frame")
        first = flv.audio_byte(CODEC_ID_MP3, header.sample_rate, header.channels)
        time_ms = (sample * 1000 + header.sample_rate // 2) // header.sample_rate
        tags.append(flv.tag(flv.TagType.AUDIO, bytes([first]) + frame, time_ms))
        sample += header.samples
    return b"".join(tags)
