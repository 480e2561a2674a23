"""Renditions of one film, and the check that what a viewer received of them decodes."""

from __future__ import annotations

import functools
import subprocess
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from streamedge.media.flv import tags as flv
from streamedge.media.script_data import encode_on_metadata
from tests.support.patience import PATIENCE_S
from tests.support.rtmp.rtmp_client import AUDIO, VIDEO, Frame

SECONDS = 12
KEYFRAME_MS = 2000
SIZES = {"low": "160x96", "high": "320x192"}


@functools.cache
def rendition(name: str, extension: str = "mp4") -> bytes:
    """Twelve seconds of H.264 and AAC with a keyframe every two seconds; "low" or "high"."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / f"film.{extension}"
        subprocess.run(
            [
                "ffmpeg", "-loglevel", "error",
                "-f", "lavfi", "-i", f"testsrc2=size={SIZES[name]}:rate=25:duration={SECONDS}",
                "-f", "lavfi", "-i", f"sine=frequency=440:sample_rate=44100:duration={SECONDS}",
                "-c:v", "libx264", "-preset", "veryfast", "-g", "50", "-bf", "2",
                "-sc_threshold", "0", "-pix_fmt", "yuv420p", "-c:a", "aac", "-b:a", "32k",
                str(target),
            ],
            check=True,
            timeout=PATIENCE_S,
        )  # fmt: skip
        return target.read_bytes()


def is_coded(frame: Frame) -> bool:
    """Whether it is a coded frame: no header, and not AVC's end of sequence (type 2)."""
    return not frame.is_header and not (frame.kind == VIDEO and frame.body[1] == 2)


def check_decodes(frames: Sequence[Frame]) -> None:
    """Fails unless times only grow, and FFmpeg decodes the frames without a message."""
    for kind in (AUDIO, VIDEO):
        times_ms = [frame.time_ms for frame in frames if frame.kind == kind and is_coded(frame)]
        assert all(a < b for a, b in pairwise(times_ms)), (kind, times_ms)
    metadata = encode_on_metadata({"videocodecid": 7.0, "audiocodecid": 10.0})
    data = b"".join(
        (
            flv.file_header(has_audio=True, has_video=True),
            flv.tag(18, metadata, 0),
            *(flv.tag(frame.kind, frame.body, frame.time_ms) for frame in frames),
        )
    )
    result = subprocess.run(
        ["ffmpeg", "-loglevel", "warning", "-xerror", "-i", "-", "-f", "null", "-"],
        input=data,
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    messages = result.stderr.decode()
    assert (result.returncode, messages) == (0, ""), messages


def rendition_of(header: Frame) -> str:
    """The rendition that an AVC header belongs to, found by its configuration."""
    for name in SIZES:
        if header.body[5:] in rendition(name):
            return name
    raise ValueError("the header belongs to no rendition")
