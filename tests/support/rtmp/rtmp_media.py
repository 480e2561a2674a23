"""Media for RTMP tests: the samples, files of every codec, and generated long and large files.

``expected`` reads a file with FFmpeg: a viewer must receive the same packets.
"""

from __future__ import annotations

import functools
import io
import struct
from collections.abc import Callable, Sequence

import av
import numpy as np

from streamedge.media.flv import tags as flv
from streamedge.media.script_data import encode_on_metadata
from tests.support.media.media_oracle import Demuxed, demux
from tests.support.media.media_samples import RECIPES, SAMPLES, encode
from tests.support.media.mp4_writer import TrackRecipe, box, moov, table, visual_entry, words

__all__ = ["Demuxed", "demux"]


@functools.cache
def sample_file(name: str) -> bytes:
    """A file in ``media/`` by its name, or an encoded recipe by the recipe's name."""
    if name in RECIPES:
        return encode(*RECIPES[name])
    return (SAMPLES / name).read_bytes()


@functools.cache
def expected(name: str) -> Demuxed:
    """The packets that FFmpeg reads from ``sample_file(name)``."""
    return demux(sample_file(name))


def avc_configuration() -> bytes:
    """A configuration that decoders accept."""
    return expected("film.mp4").extradata["video"]


def tags_flv(
    seconds: int, *, frame_bytes: int = 2000, listed: bool = False, keyframe_s: int = 2
) -> bytes:
    """An FLV of AVC and MP3 frames, 25 a second each, keyframes every ``keyframe_s`` seconds.

    Each frame's body has its number. Without ``listed`` there is no keyframe index.
    """
    config = b"\x17\0\0\0\0" + avc_configuration()
    filler = bytes(range(1, 256)) * (frame_bytes // 255 + 1)

    def build(positions: list[int], times: list[float]) -> tuple[bytes, list[int], list[float]]:
        metadata: dict[str, object] = {
            "duration": float(seconds), "videocodecid": 7.0, "audiocodecid": 2.0
        }  # fmt: skip
        if listed:
            metadata["keyframes"] = {
                "times": np.array(times, np.float64),
                "filepositions": np.array(positions, np.float64),
            }
        parts = [
            flv.file_header(has_audio=True, has_video=True),
            flv.tag(18, encode_on_metadata(metadata), 0),  # type: ignore[arg-type]
            flv.tag(9, config, 0),
        ]
        size = sum(map(len, parts))
        keyframe_positions, keyframe_times = [], []
        for number in range(seconds * 25):
            time_ms = number * 40
            is_key = number % (25 * keyframe_s) == 0
            if is_key:
                keyframe_positions.append(size)
                keyframe_times.append(time_ms / 1000)
            start = (b"\x17" if is_key else b"\x27") + b"\x01\0\0\0"
            body = start + struct.pack(">II", frame_bytes, number) + filler[:frame_bytes]
            parts.append(flv.tag(9, body, time_ms))
            parts.append(flv.tag(8, b"\x2f\xff\xfb\x90\x64" + struct.pack(">I", number), time_ms))
            size += len(parts[-1]) + len(parts[-2])
        return b"".join(parts), keyframe_positions, keyframe_times

    count = (seconds + keyframe_s - 1) // keyframe_s
    _, positions, times = build([0] * count, [0.0] * count)
    return build(positions, times)[0]


@functools.cache
def _picture() -> bytes:
    with av.open(io.BytesIO(sample_file("film.mp4")), "r") as container:
        return bytes(next(container.demux(video=0)))


def keyframe(padded_bytes: int = 0) -> bytes:
    """A picture that decoders accept, filled up to a size (H.264 §7.3.2.7)."""
    picture = _picture()
    if padded_bytes <= len(picture):
        return picture
    filler = padded_bytes - len(picture) - 4
    return picture + struct.pack(">IB", filler, 12) + b"\xff" * (filler - 2) + b"\x80"


def tiny_frame(number: int) -> bytes:
    """A few bytes that look like a keyframe, different for each number."""
    return struct.pack(">IBI", 28, 0x65, number) + b"\x01" * 23


def avc_mp4(frames: Sequence[bytes], step_ms: int) -> bytes:
    """An MP4 of AVC samples that are all keyframes, ``step_ms`` apart; the index is first."""

    def index(offset: int) -> bytes:
        return moov(
            TrackRecipe(
                offset=offset,
                entry=visual_entry("avc1", box("avcC", avc_configuration())),
                stts=table("stts", (len(frames), step_ms)),
                stsz=box("stsz", words(0, 0, len(frames), *map(len, frames))),
                stsc=table("stsc", (1, len(frames), 1)),
            )
        )

    return moov_first(index, b"".join(frames))


def moov_first(index: Callable[[int], bytes], data: bytes) -> bytes:
    """An MP4 with its index first; ``index`` gets the offset of ``data``."""
    start = box("ftyp", b"isom", words(0), b"isom")
    offset = len(start) + len(index(0)) + 8
    return start + index(offset) + box("mdat", data)
