"""Writes fragmented MP4s box by box, and has FFmpeg write real ones."""

from __future__ import annotations

import functools
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import imageio_ffmpeg

from tests.support.media.mp4_writer import TrackRecipe, box, moov, words

STEP = 40  # duration of a sample, in ms
KEYFRAME, OTHER_FRAME = 0x02000000, 0x01010000

# Name: options of the muxer. Debian's FFmpeg and FFmpeg 9 read them all alike.
MUXERS = {
    "empty moov": "-movflags frag_keyframe+empty_moov",
    "samples in moov, then fragments": "-movflags frag_keyframe",
    "dash": "-movflags frag_keyframe+empty_moov+dash",
    "cmaf with edit list": "-movflags frag_keyframe+delay_moov+cmaf -use_editlist 1",
    "global sidx": "-movflags frag_keyframe+empty_moov+dash+global_sidx",
    "delayed moov": "-movflags frag_keyframe+delay_moov",
    "base is moof": "-movflags frag_keyframe+empty_moov+default_base_moof",
    "no base": "-movflags frag_keyframe+empty_moov+omit_tfhd_offset",
    "a moof for each track": "-movflags frag_keyframe+empty_moov+separate_moof",
    "a moof for each frame": "-movflags frag_every_frame+empty_moov+default_base_moof",
    "hybrid": "-movflags hybrid_fragmented",
    "by time": "-movflags empty_moov+default_base_moof -frag_duration 300000",
    "no index at the end": "-movflags frag_keyframe+empty_moov+skip_trailer",
}


@functools.cache
def muxed(options: str, seconds: int = 6) -> bytes:
    """A film with reordered frames and sound, written by FFmpeg 9."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        subprocess.run(
            [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error",
             "-f", "lavfi", "-i", f"testsrc2=s=160x96:r=25:d={seconds}",
             "-f", "lavfi", "-i", f"sine=440:d={seconds}:r=44100",
             "-c:v", "libx264", "-preset", "veryfast", "-g", "25", "-bf", "2",
             "-c:a", "aac", "-b:a", "32k", *options.split(), str(path)],
            check=True,
        )  # fmt: skip
        return path.read_bytes()


def empty_track(**changes: object) -> TrackRecipe:
    """A track without samples in moov."""
    recipe = TrackRecipe(
        stsz=box("stsz", words(0, 0, 0)),
        stts=box("stts", words(0, 0)),
        stsc=box("stsc", words(0, 0)),
        stco=box("stco", words(0, 0)),
    )
    for name, value in changes.items():
        setattr(recipe, name, value)
    return recipe


def trex(track_id: int = 1, duration: int = STEP, size: int = 0, flags: int = 0) -> bytes:
    return box("trex", words(0, track_id, 1, duration, size, flags))


def fragmented_moov(*tracks: TrackRecipe, defaults: bytes | None = None) -> bytes:
    return moov(
        *(tracks or (empty_track(),)), extra=box("mvex", trex() if defaults is None else defaults)
    )


def tfhd(flags: int = 0x020000, *fields: int, track_id: int = 1) -> bytes:
    return box("tfhd", words(flags, track_id, *fields))


def tfdt(time: int) -> bytes:
    return box("tfdt", struct.pack(">IQ", 1 << 24, time))


def trun(flags: int, count: int, *fields: int) -> bytes:
    return box("trun", words(flags, count, *fields))


def moof(*trafs: bytes) -> bytes:
    return box("moof", box("mfhd", words(0, 1)), *trafs)


def fragment(frames: list[bytes], time: int, *before: bytes) -> bytes:
    """A fragment of one track, the first frame a keyframe; ``before`` are boxes of its traf."""

    def write(offset: int) -> bytes:
        run = trun(0x205, len(frames), offset, KEYFRAME, *(len(frame) for frame in frames))
        traf = box("traf", tfhd(0x020020, OTHER_FRAME), *before, tfdt(time), run)
        return moof(traf)

    head = write(len(write(0)) + 8)
    return head + box("mdat", *frames)


class FragmentedFilm(NamedTuple):
    """``positions``: of the moof boxes."""

    data: bytes
    positions: tuple[int, ...]


def fragmented_film(
    fragments: list[list[bytes]], *, sidx: bool = False, mfra: bool = False
) -> FragmentedFilm:
    """A film of one track, with an index before (sidx) or after (mfra) the fragments."""
    parts: list[bytes] = []
    time = 0
    for frames in fragments:
        parts.append(fragment(frames, time))
        time += STEP * len(frames)
    start = box("ftyp", b"iso6", bytes(4), b"iso6dash") + fragmented_moov()
    if sidx:
        entries = [(len(part), STEP, 0x90000000) for part in parts]
        start += box(
            "sidx", words(0, 1, 1000, 0, 0, len(parts)), *(words(*entry) for entry in entries)
        )
    positions = []
    at = len(start)
    for part in parts:
        positions.append(at)
        at += len(part)
    end = b""
    if mfra:
        rows = [struct.pack(">QQBBB", 0, position, 1, 1, 1) for position in positions]
        tfra = box("tfra", words(1 << 24, 1, 0, len(rows)), *rows)
        end = box("mfra", tfra, box("mfro", words(0, len(tfra) + 24)))
    return FragmentedFilm(b"".join([start, *parts, end]), tuple(positions))
