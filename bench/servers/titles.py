"""The titles that the benchmarks play; encoded once and kept in the temp folder.

A short clip is encoded at a constant rate and repeated by stream copy, so a title of any length
takes seconds. The folder's name contains the parameters, so changed ones make new files.
"""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.servers.server import BenchError

CLIP_S = 20
VIDEO_BITS_PER_S = 3_860_000
AUDIO_BITS_PER_S = 128_000
FRAMES_PER_S = 25
KEYFRAME_EVERY_S = 2
DURATION_S = 600
MOOV_FIRST = "film.mp4"
MOOV_LAST = "film-moov-last.mp4"
ENCODE_TIMEOUT_S = 300


@dataclass(frozen=True, slots=True)
class Titles:
    """A film of 4 Mb/s, 600 s and about 300 MB, with its moov first and with its moov last."""

    folder: Path
    duration_s: int = DURATION_S

    @property
    def moov_first(self) -> Path:
        return self.folder / MOOV_FIRST

    @property
    def moov_last(self) -> Path:
        return self.folder / MOOV_LAST


def titles() -> Titles:
    """The titles; encodes missing ones. Raises BenchError when ffmpeg is missing or fails."""
    key = f"{VIDEO_BITS_PER_S}-{AUDIO_BITS_PER_S}-{FRAMES_PER_S}-{KEYFRAME_EVERY_S}-{DURATION_S}"
    folder = Path(tempfile.gettempdir()) / f"streamedge-bench-titles-{key}"
    folder.mkdir(exist_ok=True)
    films = Titles(folder)
    clip = folder / "clip.mp4"
    if not clip.exists():
        _ffmpeg(_clip_arguments(), clip)
    repeat = ["-stream_loop", str(DURATION_S // CLIP_S - 1), "-i", str(clip), "-c", "copy"]
    if not films.moov_last.exists():
        _ffmpeg(repeat, films.moov_last)
    if not films.moov_first.exists():
        _ffmpeg([*repeat, "-movflags", "+faststart"], films.moov_first)
    for path in (films.moov_first, films.moov_last):
        _read_through(path)
    return films


def _clip_arguments() -> list[str]:
    """A moving picture with noise, padded to a constant rate as broadcasters do."""
    keyframes = str(FRAMES_PER_S * KEYFRAME_EVERY_S)
    rate = str(VIDEO_BITS_PER_S)
    return [
        *("-f", "lavfi", "-i", f"testsrc2=size=1280x720:rate={FRAMES_PER_S},noise=alls=20:allf=t"),
        *("-f", "lavfi", "-i", "sine=frequency=440:sample_rate=44100"),
        *("-t", str(CLIP_S), "-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p"),
        *("-b:v", rate, "-minrate", rate, "-maxrate", rate, "-bufsize", rate),
        *("-g", keyframes, "-keyint_min", keyframes, "-sc_threshold", "0"),
        *("-x264-params", "nal-hrd=cbr", "-c:a", "aac", "-ac", "2", "-b:a", str(AUDIO_BITS_PER_S)),
    ]


def _ffmpeg(arguments: list[str], target: Path) -> None:
    """Writes ``target`` atomically."""
    partial = target.with_suffix(".partial.mp4")
    command = ["ffmpeg", "-nostdin", "-v", "error", "-y", *arguments, str(partial)]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=ENCODE_TIMEOUT_S)
    except FileNotFoundError as error:
        raise BenchError("ffmpeg is not installed") from error
    except subprocess.CalledProcessError as error:
        raise BenchError(f"ffmpeg failed: {error.stderr.decode()[-300:].strip()}") from error
    partial.rename(target)


def _read_through(path: Path) -> None:
    """Reads the file into the page cache, so that no server reads from the disk."""
    with path.open("rb", buffering=0) as source:
        while source.read(1 << 22):
            pass
