"""The head of an MP3 file: the span and duration of its audio, and the position of a time.

Reads ID3 and APE tags and the Xing, Info and VBRI frames, and estimates seek positions. The parser
is a generator that yields the spans it needs.
Sources: ID3v2.4 structure §3.1; ID3v1; APEv2; Xing's and Fraunhofer's VBR headers as in practice.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import NamedTuple

from streamedge.errors import MediaError, MediaFault
from streamedge.media.faults import invalid
from streamedge.media.id3 import ID3_HEADER_SIZE_BYTES, id3v2_size_bytes
from streamedge.media.mp3 import frames as mp3
from streamedge.media.mp3.frames import FRAME_HEADER_SIZE_BYTES, FrameHeader
from streamedge.spans import Span

FIRST_READ_BYTES = 64 << 10
SEARCH_LIMIT_BYTES = 1 << 20  # after ID3 tags, up to the first frame
ID3_TAGS_MAX = 16  # consecutive tags at the start
TOC_ENTRIES = 100

_ID3V1_SIZE_BYTES = 128
_APE_FOOTER_SIZE_BYTES = 32
_APE_HEADER_PRESENT = 1 << 31
_VBRI_POSITION = 36
_XING_FRAMES, _XING_BYTES, _XING_TOC, _XING_QUALITY = 1, 2, 4, 8


@dataclass(frozen=True, slots=True)
class Mp3Head:
    """The data of the first and last bytes of an MP3 file.

    ``audio`` is the span of the audio frames, without a Xing, Info or VBRI frame. ``frame_count``
    is None without such a frame; ``duration_ms`` then is an estimate from the first frames.
    Otherwise it is exact, without the samples that the encoder added at both ends. ``bit_rate`` is
    the average in bits/s. ``toc`` has the position of each percent of the duration, in 256ths of
    the bytes from ``toc_start`` on. ``encoder_delay`` counts samples.
    """

    audio: Span
    sample_rate: int
    channels: int
    samples_per_frame: int
    bit_rate: int
    duration_ms: int
    frame_count: int | None
    encoder_delay: int
    toc: bytes | None
    toc_start: int

    def sample_at(self, time_ms: int) -> int:
        """The first sample of the frame that plays at a time."""
        sample = max(0, time_ms) * self.sample_rate // 1000
        return sample - sample % self.samples_per_frame

    def estimate_position(self, time_ms: int) -> int:
        """A file position near the frame at a time; not exactly the start of a frame."""
        if self.duration_ms <= 0 or time_ms <= 0:
            return self.audio.start
        share = min(1.0, time_ms / self.duration_ms)
        if self.toc is None:
            return min(self.audio.end, self.audio.start + int(share * self.audio.size))
        percent = share * TOC_ENTRIES
        entry = min(TOC_ENTRIES - 1, int(percent))
        low = self.toc[entry]
        high = self.toc[entry + 1] if entry + 1 < TOC_ENTRIES else 256
        share_bytes = (low + (high - low) * (percent - entry)) / 256
        position = self.toc_start + int(share_bytes * (self.audio.end - self.toc_start))
        return max(self.audio.start, min(self.audio.end, position))


class _VbrHeader(NamedTuple):
    frame_count: int | None
    encoder_delay: int
    encoder_padding: int
    toc: bytes | None


def read_head(file_size_bytes: int) -> Generator[Span, bytes, Mp3Head]:
    """Reads the head: yields the spans that it needs, is sent their bytes, returns the Mp3Head.

    It reads the first 64 KiB, the bytes after ID3 tags, and the last bytes. Raises MediaError:
    STRUCTURE_INVALID when no MP3 frames are found within SEARCH_LIMIT_BYTES, NO_SUPPORTED_TRACK for
    MPEG audio that FLV cannot carry.
    """
    start = 0
    window = Span(0, min(FIRST_READ_BYTES, file_size_bytes))
    data = yield from _read_all(window)
    for _ in range(ID3_TAGS_MAX):
        id3_size_bytes = id3v2_size_bytes(data[start - window.start :])
        if id3_size_bytes == 0:
            break
        start += id3_size_bytes
        if start + ID3_HEADER_SIZE_BYTES > window.end:
            window = Span(start, max(start, min(start + FIRST_READ_BYTES, file_size_bytes)))
            data = yield from _read_all(window)
    end = yield from _audio_end(file_size_bytes)
    while True:
        last = min(window.end, end)
        is_all = last >= min(end, start + SEARCH_LIMIT_BYTES)
        audio_data = memoryview(data)[start - window.start : max(0, last - window.start)]
        first = mp3.resynchronise(audio_data, is_file_end=last == end)
        unsupported = mp3.unsupported_format(audio_data)
        if unsupported is not None:
            raise MediaError(MediaFault.NO_SUPPORTED_TRACK, f"the file has {unsupported}")
        if first is not None:
            break
        if is_all:
            raise invalid("not an MP3: no audio frames where the file's audio should begin")
        more_end = min(end, start + SEARCH_LIMIT_BYTES, window.end + 2 * window.size)
        more = Span(window.end, more_end)
        data += yield from _read_all(more)
        window = Span(window.start, more.end)
    return _head(audio_data, first, Span(start + first, end))


def _read_all(span: Span) -> Generator[Span, bytes, bytes]:
    """All bytes of a span. Raises MediaError STRUCTURE_INVALID when some are missing."""
    if span.size == 0:
        return b""
    data = yield span
    if len(data) != span.size:
        raise invalid("the MP3 is cut off: the file is shorter than its stated size")
    return data


def _head(data: memoryview, first: int, audio: Span) -> Mp3Head:
    """The head, from the frames in ``data``; ``first`` is the position of the first one in it."""
    header = mp3.parse_frame_header(data[first:])
    if header is None:
        raise invalid("not an MP3")
    frame = data[first : first + header.size_bytes]
    vbr = _vbr_header(frame, header)
    toc_start = audio.start
    if vbr is not None:
        # This frame describes the file and holds no audio.
        first += header.size_bytes
        audio = Span(min(audio.end, audio.start + header.size_bytes), audio.end)
    if vbr is not None and vbr.frame_count:
        padding = vbr.encoder_delay + vbr.encoder_padding
        samples = max(0, vbr.frame_count * header.samples - padding)
        duration_ms = (samples * 1000 + header.sample_rate // 2) // header.sample_rate
        bit_rate = audio.size * 8000 // duration_ms if duration_ms else header.bit_rate
    else:
        bit_rate = _average_bit_rate(data, first) or header.bit_rate
        duration_ms = audio.size * 8000 // bit_rate
    return Mp3Head(
        audio=audio,
        sample_rate=header.sample_rate,
        channels=header.channels,
        samples_per_frame=header.samples,
        bit_rate=bit_rate,
        duration_ms=duration_ms,
        frame_count=vbr.frame_count if vbr else None,
        encoder_delay=vbr.encoder_delay if vbr else 0,
        toc=vbr.toc if vbr else None,
        toc_start=toc_start,
    )


def _average_bit_rate(data: memoryview, first: int) -> int:
    """Bits per second of the frames in ``data``; 0 if there are none."""
    parsed_headers = [
        mp3.parse_frame_header(data[span.start :]) for span in mp3.frames(data, first).spans
    ]
    headers = [header for header in parsed_headers if header is not None]
    size_bytes = sum(header.size_bytes for header in headers)
    duration_ms = sum(header.samples * 1000 / header.sample_rate for header in headers)
    # A constant rate is exact; the sizes are rounded to bytes.
    if len({header.bit_rate for header in headers}) == 1:
        return headers[0].bit_rate
    return round(size_bytes * 8000 / duration_ms) if headers else 0


def _vbr_header(frame: memoryview, header: FrameHeader) -> _VbrHeader | None:
    """The content of a Xing, Info or VBRI frame; None when the frame is audio."""
    position = FRAME_HEADER_SIZE_BYTES + header.side_info_size_bytes
    if bytes(frame[position : position + 4]) in (b"Xing", b"Info"):
        return _xing_header(bytes(frame[position + 4 :]))
    if bytes(frame[_VBRI_POSITION : _VBRI_POSITION + 4]) == b"VBRI":
        count = int.from_bytes(frame[_VBRI_POSITION + 14 : _VBRI_POSITION + 18], "big")
        delay = int.from_bytes(frame[_VBRI_POSITION + 6 : _VBRI_POSITION + 8], "big")
        return _VbrHeader(count or None, delay, 0, None)
    return None


def _xing_header(data: bytes) -> _VbrHeader:
    flags = int.from_bytes(data[:4], "big")
    position = 4
    frame_count = None
    toc = None
    if flags & _XING_FRAMES:
        frame_count = int.from_bytes(data[position : position + 4], "big") or None
        position += 4
    if flags & _XING_BYTES:
        position += 4
    if flags & _XING_TOC:
        toc = data[position : position + TOC_ENTRIES]
        position += TOC_ENTRIES
        if len(toc) != TOC_ENTRIES or list(toc) != sorted(toc):
            toc = None
    if flags & _XING_QUALITY:
        position += 4
    # LAME's extension: 9 bytes of name, 12 of settings, then 12 bits each of delay and padding.
    extension = data[position : position + 24]
    has_delay = len(extension) == 24 and extension[:4] in (b"LAME", b"Lavf", b"Lavc")
    delay, padding = divmod(int.from_bytes(extension[21:24], "big") if has_delay else 0, 1 << 12)
    return _VbrHeader(frame_count, delay, padding, toc)


def _audio_end(file_size_bytes: int) -> Generator[Span, bytes, int]:
    """The end of the audio, before an ID3v1 tag and an APE tag, if there are any."""
    tail = Span(
        max(0, file_size_bytes - _ID3V1_SIZE_BYTES - _APE_FOOTER_SIZE_BYTES), file_size_bytes
    )
    data = yield from _read_all(tail)
    end = file_size_bytes
    if data[-_ID3V1_SIZE_BYTES:][:3] == b"TAG" and len(data) >= _ID3V1_SIZE_BYTES:
        end -= _ID3V1_SIZE_BYTES
    last = end - tail.start
    footer = data[max(0, last - _APE_FOOTER_SIZE_BYTES) : last]
    if footer[:8] == b"APETAGEX":
        size_bytes = int.from_bytes(footer[12:16], "little")
        has_header = int.from_bytes(footer[20:24], "little") & _APE_HEADER_PRESENT
        size_bytes += _APE_FOOTER_SIZE_BYTES if has_header else 0
        end = max(0, end - size_bytes)
    return end
