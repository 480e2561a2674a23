"""Matroska, WebM, MPEG-TS and ADTS files, made by FFmpeg, and what FFmpeg reads from them."""

from __future__ import annotations

import hashlib
import io
import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import av

from tests.support.patience import PATIENCE_S
from tests.support.rtmp.rtmp_media import Demuxed, demux
from tests.support.rtmp.rtmp_players import FFMPEG_9

SECONDS = 11
NOISE_SECONDS = 60
JOINED = "joined.ts"
JOINT_MS = 100  # FFmpeg and the edge join recordings by the times of different tracks

_H264 = "-c:v libx264 -preset veryfast -g 50 -bf 2"
_VP9 = "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -b:v 200k -g 50"
_HEVC = "-c:v libx265 -preset ultrafast -x265-params log-level=none:keyint=50:bframes=2"
_NOISE = "-vf noise=alls=100:allf=t -c:v libx264 -preset ultrafast -qp 22 -g 50"

# Name of the file: FFmpeg's options; the video is the first input, a tone the second.
RECIPES = {
    "film.mkv": f"{_H264} -c:a aac",
    "film.ts": f"{_H264} -c:a aac",
    "later.ts": f"{_H264} -c:a aac -output_ts_offset 36000",  # ten hours
    "film.webm": f"{_VP9} -c:a libopus",
    "hevc.mkv": f"{_HEVC} -c:a flac",
    "hevc.ts": f"{_HEVC} -c:a ac3",
    "song.aac": "-vn -c:a aac",
    "song.mka": "-vn -c:a libmp3lame",
    "silent.mkv": f"{_H264} -an",
    "long-gop.mkv": "-c:v libx264 -preset ultrafast -g 1000 -c:a aac",
    "long-gop.ts": "-c:v libx264 -preset ultrafast -g 1000 -bf 2 -c:a libmp3lame",
    "cueless.mkv": f"{_H264} -c:a aac -live 1",
    "film.m2ts": f"{_H264} -c:a aac -mpegts_m2ts_mode 1 -f mpegts",
    "av1.mkv": "-c:v libsvtav1 -preset 12 -g 50 -c:a libopus",
    "vp8.webm": "-c:v libvpx -deadline realtime -cpu-used 8 -g 50 -c:a libvorbis",
    # A minute of noise, about 15 MB.
    "noise.mkv": f"{_NOISE} -c:a aac",
    "noise.ts": f"{_NOISE} -c:a aac",
    # German, English (the default one) and French.
    "languages.mkv": f"{_H264} -c:a aac -map 0:v -map 1:a -map 1:a -map 1:a"
    " -filter:a:1 volume=0.5 -filter:a:2 volume=0.2 -disposition:a:0 0 -disposition:a:1 default"
    " -metadata:s:a:0 language=ger -metadata:s:a:1 language=eng -metadata:s:a:2 language=fre",
    "mpeg2.ts": "-c:v mpeg2video -c:a mp2",
}
CLASSIC = (
    "film.mkv",
    "film.ts",
    "song.aac",
    "song.mka",
    "silent.mkv",
    "long-gop.mkv",
    "long-gop.ts",
    "cueless.mkv",
    "film.m2ts",
)
ENHANCED = ("film.webm", "hevc.mkv", "hevc.ts", "av1.mkv")


@cache
def container_file(name: str) -> bytes:
    """The file of a recipe, or that of three recordings that were joined."""
    if name == JOINED:
        return b"".join(map(container_file, ("film.ts", "later.ts", "film.ts")))
    with TemporaryDirectory() as folder:
        target = Path(folder) / name
        seconds = NOISE_SECONDS if name.startswith("noise") else SECONDS
        _ffmpeg(
            "ffmpeg",
            f"-f lavfi -i testsrc2=s=160x96:r=25:d={seconds}"
            f" -f lavfi -i sine=440:r=48000:d={seconds} {RECIPES[name]}",
            target,
        )
        return target.read_bytes()


@cache
def expected(name: str) -> Demuxed:
    """The packets of a file as the current FFmpeg copies them into an FLV."""
    return copied_to_flv(name, container_file(name))


def copied_to_flv(name: str, data: bytes) -> Demuxed:
    """The packets that the current FFmpeg copies into an FLV. ``name``: for its ending."""
    with TemporaryDirectory() as folder:
        source, target = Path(folder) / name, Path(folder) / "copy.flv"
        source.write_bytes(data)
        _ffmpeg(FFMPEG_9, f"-i {source} -c copy", target)
        return demux(target.read_bytes())


def languages(data: bytes) -> list[list[str]]:
    """The hashes of the packets of each audio track, as FFmpeg reads them."""
    with av.open(io.BytesIO(data), "r") as container:
        tracks: dict[int, list[str]] = {stream.index: [] for stream in container.streams.audio}
        for packet in container.demux(*container.streams.audio):
            if packet.size:
                digest = hashlib.sha256(bytes(packet)).hexdigest()
                tracks[packet.stream_index].append(digest)
    return list(tracks.values())


def _ffmpeg(program: str, options: str, target: Path) -> None:
    command = [program, "-y", "-v", "error", *options.split(), str(target)]
    subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE_S)
