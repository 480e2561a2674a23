"""Makes the sample files beside it: a moving test pattern with tones, in every container served.

    python media/make_samples.py [FOLDER]

Needs the development dependencies (PyAV). The pictures, the tones and the encoders' settings are
fixed and the encoders run in one thread, so the same PyAV makes the same bytes again.

film.mp4            H.264 with B-frames and AAC, index (moov) first, 20 s
film-moov-last.mp4  the same packets, index at the end
film.flv            H.264 without B-frames and AAC, no keyframe index, 20 s
film-keyframes.flv  the same packets, keyframe index in onMetaData
song.mp3            tones at 128 kb/s, with an Info frame and an ID3 tag, 30 s
song.m4a            the same tones as AAC, 30 s
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.video.stream import VideoStream
from numpy.typing import NDArray

WIDTH, HEIGHT = 640, 360
FRAMES_PER_SECOND = 25
SAMPLES_PER_SECOND = 44100
FILM_S = 20
SONG_S = 30
AUDIO_BIT_RATES = {"aac": 96_000, "libmp3lame": 128_000}
NOTES_HZ = (262, 330, 392, 523, 392, 330)

BARS = np.array(
    [
        (235, 235, 235), (235, 235, 16), (16, 235, 235), (16, 235, 16),
        (235, 16, 235), (235, 16, 16), (16, 16, 235), (16, 16, 16),
    ],
    np.uint8,
)  # fmt: skip

GRAIN = np.random.default_rng(1).integers(-10, 11, (HEIGHT, WIDTH), np.int16)


def picture(frame: int) -> NDArray[np.uint8]:
    """Colour bars, a gradient that scrolls, and a white block that crosses once in 5 s.

    Drifting grain gives the encoder something to spend its bits on, as a camera would.
    """
    image = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    image[:] = BARS[np.arange(WIDTH) * len(BARS) // WIDTH]
    ramp = (np.arange(WIDTH) + frame * 4) % 256
    image[HEIGHT * 2 // 3 :] = ramp[:, np.newaxis]
    left = frame * WIDTH // (5 * FRAMES_PER_SECOND) % WIDTH
    image[HEIGHT // 3 : HEIGHT // 3 + 40, left : left + 40] = 255
    grain = np.roll(GRAIN, (3 * frame, 7 * frame), axis=(0, 1))
    grained: NDArray[np.int16] = image.astype(np.int16) + grain[:, :, np.newaxis]
    return np.clip(grained, 0, 255).astype(np.uint8)


def tones(start: int, count: int) -> NDArray[np.int16]:
    """Stereo samples from ``start`` on: one note a second, fading, the right an octave higher."""
    sample = np.arange(start, start + count)
    second, within = np.divmod(sample, SAMPLES_PER_SECOND)
    time_s = within / SAMPLES_PER_SECOND
    note_hz = np.array(NOTES_HZ)[second % len(NOTES_HZ)]
    level = 9000 * np.minimum(1, np.minimum(time_s, 1 - time_s) * 20)
    left = level * np.sin(2 * np.pi * note_hz * time_s)
    right = level * np.sin(4 * np.pi * note_hz * time_s)
    return np.stack((left, right), axis=1).astype(np.int16)


def add_video(output: av.container.OutputContainer, b_frames: int) -> VideoStream:
    stream = output.add_stream(
        "libx264",
        rate=FRAMES_PER_SECOND,
        options={
            "preset": "medium",
            "b": "360k",
            "g": str(2 * FRAMES_PER_SECOND),
            "bf": str(b_frames),
            "threads": "1",
            "x264-params": "deterministic=1:scenecut=0",
        },
    )
    stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    return stream


def add_audio(output: av.container.OutputContainer, codec: str) -> AudioStream:
    stream = output.add_stream(codec, rate=SAMPLES_PER_SECOND, layout="stereo")
    assert isinstance(stream, AudioStream)
    stream.bit_rate = AUDIO_BIT_RATES[codec]
    return stream


def encode_video(stream: VideoStream, second: int) -> Iterator[av.Packet[av.VideoStream]]:
    for frame in range(second * FRAMES_PER_SECOND, (second + 1) * FRAMES_PER_SECOND):
        image = av.VideoFrame.from_ndarray(picture(frame), format="rgb24")
        image.pts, image.time_base = frame, Fraction(1, FRAMES_PER_SECOND)
        yield from stream.encode(image)


def encode_audio(
    stream: AudioStream, resampler: av.AudioResampler, second: int
) -> Iterator[av.Packet[av.AudioStream]]:
    start = second * SAMPLES_PER_SECOND
    samples = tones(start, SAMPLES_PER_SECOND).reshape(1, -1)
    block = av.AudioFrame.from_ndarray(samples, format="s16", layout="stereo")
    block.sample_rate = SAMPLES_PER_SECOND
    block.pts, block.time_base = start, Fraction(1, SAMPLES_PER_SECOND)
    for frame in resampler.resample(block):
        yield from stream.encode(frame)


def make(
    path: Path,
    duration_s: int,
    audio_codec: str,
    *,
    b_frames: int | None = None,
    options: dict[str, str] | None = None,
    metadata: dict[str, str] | None = None,
) -> None:
    """Encodes one file; ``b_frames`` None: without video."""
    with av.open(str(path), "w", options={"fflags": "+bitexact", **(options or {})}) as output:
        output.metadata.update(metadata or {})
        video = None if b_frames is None else add_video(output, b_frames)
        audio = add_audio(output, audio_codec)
        resampler = av.AudioResampler(
            format=audio.codec_context.format, layout="stereo", rate=SAMPLES_PER_SECOND
        )
        for second in range(duration_s):
            if video is not None:
                output.mux(list(encode_video(video, second)))
            output.mux(list(encode_audio(audio, resampler, second)))
        for stream in (video, audio):
            if stream is not None:
                output.mux(stream.encode(None))


def remux(source: Path, path: Path, options: dict[str, str]) -> None:
    """Writes the packets of a file into another container or with other options."""
    options = {"fflags": "+bitexact", **options}
    with av.open(str(source)) as media, av.open(str(path), "w", options=options) as output:
        streams = {
            stream.index: output.add_stream_from_template(stream, opaque=True)
            for stream in media.streams
        }
        for packet in media.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                output.mux(packet)


def main(folder: Path) -> None:
    make(folder / "film.mp4", FILM_S, "aac", b_frames=2, options={"movflags": "+faststart"})
    remux(folder / "film.mp4", folder / "film-moov-last.mp4", {})
    make(folder / "film.flv", FILM_S, "aac", b_frames=0)
    remux(folder / "film.flv", folder / "film-keyframes.flv", {"flvflags": "add_keyframe_index"})
    make(folder / "song.mp3", SONG_S, "libmp3lame", metadata={"title": "Tones"})
    make(folder / "song.m4a", SONG_S, "aac", options={"movflags": "+faststart"})
    for path in sorted(folder.iterdir()):
        if path.suffix != ".py" and path.is_file():
            print(f"{path.name:20} {path.stat().st_size:>9,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
