"""Films with several audio tracks, and what FFmpeg reads in them and in multitrack FLVs."""

from __future__ import annotations

import functools
import subprocess
import tempfile
from pathlib import Path

import imageio_ffmpeg

SECONDS = 4
LANGUAGES = ("deu", "eng", "fra")


@functools.cache
def multitrack_film(extension: str = "mp4", default: int = 0, *options: str) -> bytes:
    """A film with audio in German, English and French of 1, 2 and 1 channels, by FFmpeg 9."""
    tones = [
        argument
        for number in range(len(LANGUAGES))
        for argument in ("-f", "lavfi", "-i", f"sine={440 * (number + 1)}:d={SECONDS}:r=44100")
    ]
    audio: list[str] = []
    for number, language in enumerate(LANGUAGES):
        audio += ["-map", str(number + 1), f"-metadata:s:a:{number}", f"language={language}"]
        audio += [f"-ac:a:{number}", "2" if number == 1 else "1"]
        audio += [f"-disposition:a:{number}", "default" if number == default else "0"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"film.{extension}"
        subprocess.run(
            [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error",
             "-f", "lavfi", "-i", f"testsrc2=s=160x96:r=25:d={SECONDS}", *tones,
             "-map", "0", *audio, "-c:v", "libx264", "-preset", "veryfast", "-g", "25", "-bf", "2",
             "-c:a", "aac", "-b:a", "32k", *options, str(path)],
            check=True,
        )  # fmt: skip
        return path.read_bytes()


def digests(data: bytes) -> list[list[str]]:
    """The hashes of each track's packets, in order, as FFmpeg 9 reads them: the video first."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film"
        path.write_bytes(data)
        report = subprocess.run(
            [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path), "-map", "0:v?",
             "-map", "0:a?", "-c", "copy", "-f", "framehash", "-hash", "sha256", "-"],
            check=True,
            stdout=subprocess.PIPE,
        ).stdout.decode()  # fmt: skip
    tracks: dict[int, list[str]] = {}
    for line in report.splitlines():
        if line and not line.startswith("#"):
            fields = [field.strip() for field in line.split(",")]
            tracks.setdefault(int(fields[0]), []).append(fields[5])
    return [tracks[number] for number in sorted(tracks)]
