"""The poster helper: a process that makes a small picture of one film by PyAV.

``python -m streamedge.media.containers.poster_helper DESCRIPTOR MEMORY_BYTES TIME_S``. It has the
protocol and the restrictions of the media helper (``helper_process``). Its answer to each request
is a JPEG, or a failure. Bytes that are not cached look to it like the file's end.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from fractions import Fraction
from itertools import islice
from typing import Any

import av
import av.video.codeccontext
import av.video.reformatter  # now, because later no file can be opened
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from streamedge.errors import MediaError, MediaFault
from streamedge.media.containers.helper import BUFFER_BYTES, STREAMS_MAX
from streamedge.media.containers.helper_process import (
    Answer,
    Connection,
    RemoteFile,
    answer_requests,
    run_helper,
)

WIDTH_MAX, HEIGHT_MAX = 160, 90  # pixels of a poster
KEY_FRAMES = 3  # that are decoded: many films begin with a black one
PACKETS_MAX = 5_000  # read for them
QUANTIZER = 5  # of the JPEG: 2 is the best, 31 the worst
NICENESS = 10  # viewers come first


def open_film(file: RemoteFile, container_format: str) -> Answer:
    """Returns what makes the poster of a file."""

    def answer(_request: Mapping[str, Any]) -> bytes:
        file.seek(0)
        with av.open(
            file,
            mode="r",
            format=container_format,
            metadata_errors="replace",
            buffer_size=BUFFER_BYTES,
        ) as container:
            return _poster(container)

    return answer


def _poster(container: av.container.InputContainer) -> bytes:
    """The JPEG of the first key frames that has most to show. Raises MediaError, FFmpegError."""
    stream = next((one for one in list(container.streams)[:STREAMS_MAX] if _is_film(one)), None)
    if not isinstance(stream, VideoStream) or not stream.codec_context:
        raise MediaError(MediaFault.NO_SUPPORTED_TRACK, "the file has no video that can be decoded")
    posters = [_jpeg(frame) for frame in islice(_key_frames(container, stream), KEY_FRAMES)]
    if not posters:
        raise MediaError(MediaFault.STRUCTURE_INVALID, "no key frame can be decoded")
    return max(posters, key=len)


def _is_film(stream: Any) -> bool:
    return stream.type == "video" and not stream.disposition & Disposition.attached_pic


def _key_frames(
    container: av.container.InputContainer, stream: VideoStream
) -> Iterator[VideoFrame]:
    """The key frames, in order, up to the first damage."""
    context = stream.codec_context
    context.thread_count, context.thread_type = 1, "NONE"  # no thread can be started
    context.skip_frame = "NONKEY"
    try:
        for packet in islice(container.demux(stream), PACKETS_MAX):
            if packet.is_keyframe or packet.size == 0:
                yield from stream.decode(packet)
    except MemoryError:
        raise
    except (av.FFmpegError, IndexError):
        return


def _jpeg(frame: VideoFrame) -> bytes:
    """A frame as a JPEG that fits into WIDTH_MAX x HEIGHT_MAX pixels."""
    scale = min(1.0, WIDTH_MAX / frame.width, HEIGHT_MAX / frame.height)
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.width = max(2, round(frame.width * scale / 2) * 2)
    encoder.height = max(2, round(frame.height * scale / 2) * 2)
    encoder.pix_fmt = "yuvj420p"
    encoder.time_base = Fraction(1, 25)
    encoder.thread_count = 1
    encoder.qmin = encoder.qmax = QUANTIZER
    small = frame.reformat(encoder.width, encoder.height, encoder.pix_fmt)
    small.pts = 0
    return b"".join(bytes(packet) for packet in (*encoder.encode(small), *encoder.encode(None)))


def serve(connection: Connection, time_s: int) -> None:
    """Answers each request with the poster, until the connection is closed."""
    answer_requests(connection, time_s, open_film)


if __name__ == "__main__":
    os.nice(NICENESS)
    run_helper(sys.argv[1:], serve)
