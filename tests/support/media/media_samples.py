"""Media for the tests: the repository's samples, and tiny files encoded on demand."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

SAMPLES = Path(__file__).parents[3] / "media"
WIDTH, HEIGHT, FRAMES_PER_SECOND = 160, 96, 25
SECONDS = 2

# Name: (container, video encoder, its options, audio encoder, sample rate, muxer options, tag).
RECIPES: dict[str, tuple[str, str, dict[str, str], str, int, dict[str, str]]] = {
    "h264": ("mp4", "libx264", {"preset": "fast", "g": "20", "bf": "2"}, "aac", 44100, {}),
    "h264-long-gop": ("mp4", "libx264", {"preset": "ultrafast"}, "aac", 48000, {}),
    "hevc": ("mp4", "libx265", {"preset": "ultrafast", "x265-params": "log-level=none:bframes=2"},
             "aac", 44100, {}),
    "av1-opus": ("mp4", "libsvtav1", {"preset": "12"}, "libopus", 48000, {}),
    "vp9-ac3": ("mp4", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}, "ac3", 48000, {}),
    "h264-opus": ("mp4", "libx264", {"preset": "fast", "bf": "2"}, "libopus", 48000, {}),
    "eac3": ("mp4", "", {}, "eac3", 48000, {}),
    "flac": ("mp4", "libx264", {"preset": "ultrafast"}, "flac", 44100, {}),
    "mp3-in-mp4": ("mp4", "libx264", {"preset": "ultrafast"}, "libmp3lame", 44100, {}),
    "mp3-in-mov": ("mov", "libx264", {"preset": "ultrafast"}, "libmp3lame", 44100, {}),
    "aac-in-mov": ("mov", "libx264", {"preset": "ultrafast"}, "aac", 44100, {}),
    "video-only": ("mp4", "libx264", {"preset": "fast", "bf": "3", "g": "10"}, "", 0, {}),
    "fragmented": ("mp4", "libx264", {"preset": "ultrafast"}, "aac", 44100,
                   {"movflags": "frag_keyframe+empty_moov"}),
    "unsupported": ("mov", "mjpeg", {}, "pcm_s16le", 44100, {}),
    "pcm-beside-h264": ("mov", "libx264", {"preset": "ultrafast"}, "pcm_s16le", 44100, {}),
    "song": ("mp3", "", {}, "libmp3lame", 44100, {}),
    "song-22050": ("mp3", "", {}, "libmp3lame", 22050, {}),
}  # fmt: skip


@contextmanager
def same_scheduling() -> Iterator[None]:
    """Restores the scheduling class of the process.

    As root, SVT-AV1 sets SCHED_FIFO with the highest priority. The test process, and all programs
    that it starts later, would then starve each other and the machine.
    """
    policy, parameter = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameter)


def encode(
    container: str,
    video_encoder: str,
    video_options: dict[str, str],
    audio_encoder: str,
    sample_rate: int,
    options: dict[str, str],
) -> bytes:
    """Two seconds of a moving ramp and a tone."""
    target = io.BytesIO()
    with same_scheduling(), av.open(target, "w", format=container, options=options) as output:
        video: Any = None
        audio: Any = None
        if video_encoder:
            video = output.add_stream(video_encoder, rate=FRAMES_PER_SECOND, options=video_options)
            video.width, video.height = WIDTH, HEIGHT
            video.pix_fmt = "yuvj420p" if video_encoder == "mjpeg" else "yuv420p"
        if audio_encoder:
            audio = output.add_stream(audio_encoder, rate=sample_rate, layout="stereo")
            resampler = av.AudioResampler(
                format=audio.codec_context.format, layout="stereo", rate=sample_rate
            )
        sent = 0
        for number in range(SECONDS * FRAMES_PER_SECOND):
            if video is not None:
                image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
                image[:, :, 0] = (np.arange(WIDTH) * 2 + number * 3) % 256
                image[:, :, 1] = ((np.arange(HEIGHT) * 2 + number * 5) % 256)[:, np.newaxis]
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, FRAMES_PER_SECOND)
                output.mux(video.encode(frame))
            if audio is not None:
                count = sample_rate * (number + 1) // FRAMES_PER_SECOND - sent
                wave = np.sin((np.arange(count) + sent) * 2 * np.pi * 440 / sample_rate) * 8000
                block = av.AudioFrame.from_ndarray(
                    np.repeat(wave.astype(np.int16), 2)[np.newaxis], format="s16", layout="stereo"
                )
                block.sample_rate, block.pts = sample_rate, sent
                block.time_base = Fraction(1, sample_rate)
                sent += count
                for resampled in resampler.resample(block):
                    output.mux(audio.encode(resampled))
        for stream in (video, audio):
            if stream is not None:
                output.mux(stream.encode(None))
    return target.getvalue()


@pytest.fixture(scope="session")
def media() -> Callable[[str], bytes]:
    """Returns the bytes of a file in ``media/`` by file name, or of a recipe by its name."""
    files: dict[str, bytes] = {}

    def sample(name: str) -> bytes:
        if name not in files:
            recipe = RECIPES.get(name)
            files[name] = encode(*recipe) if recipe else (SAMPLES / name).read_bytes()
        return files[name]

    return sample
