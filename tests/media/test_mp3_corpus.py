"""The edge plays the same whole frames of an MP3 as FFmpeg, with any bytes around them."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from streamedge.errors import MediaError, MediaFault
from streamedge.media.flv import tags as flv
from streamedge.media.medium import RUN_MS, End, Run
from streamedge.media.mp3 import frames as mp3
from streamedge.media.mp3 import head as mp3_head
from streamedge.media.mp3.medium import Mp3Medium
from streamedge.media.sniffing import FileKind, sniff
from tests.support.media.ffmpeg_packets import Packet, add_tag, ffmpeg_packets
from tests.support.media.media_oracle import feed
from tests.support.media.memory_reader import MemoryReader
from tests.support.media.mp3_corpus import variants

SEEDS = {
    "constant rate": "-b:a 128k",
    "variable rate": "-q:a 4",
    "mono, 22.05 kHz": "-ac 1 -ar 22050 -b:a 48k",
    "8 kHz": "-ac 1 -ar 8000 -b:a 16k",
}


@pytest.fixture(scope="module", params=list(SEEDS))
def song(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("seed") / "song.mp3"
    noise = "aevalsrc=0.1*random(0)+0.3*sin(440*2*PI*t)*sin(t):d=5:s=44100"
    subprocess.run(
        ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", noise, *SEEDS[request.param].split(),
         "-id3v2_version", "0", str(path)],
        check=True,
    )  # fmt: skip
    return path.read_bytes()


async def played(data: bytes) -> list[Packet]:
    kind, _ = feed(sniff(len(data)), data)
    assert kind is FileKind.MP3
    head, _ = feed(mp3_head.read_head(len(data)), data)
    reader = MemoryReader(data)
    medium = Mp3Medium("song", head, reader.as_reader, reader.as_reader)
    packets: dict[bool, list[Packet]] = {True: [], False: []}
    mark = await medium.locate(0)
    while not isinstance(run := medium.next_run(mark, RUN_MS, None), End):
        assert isinstance(run, Run)
        assert run.body is not None
        position = 0
        while position < len(run.body):
            header = flv.parse_tag_header(run.body[position : position + 11])
            body = run.body[position + 11 : position + 11 + header.size_bytes]
            add_tag(packets, header.type, header.timestamp_ms, body)
            position += 15 + header.size_bytes
        mark = run.following
    return packets[False]


async def test_any_bytes_around_the_frames_are_skipped(song: bytes, tmp_path: Path) -> None:
    spans = mp3.frames(song, is_file_end=True).spans
    frames = {hashlib.md5(song[span.start : span.end]).hexdigest() for span in spans}
    wrong: list[str] = []
    for name, data in variants(song):
        path = tmp_path / "song.mp3"
        path.write_bytes(data)
        # FFmpeg puts junk before a frame into the frame's packet, and cut frames into their own.
        expected = [
            packet.digest for packet in ffmpeg_packets(path).audio if packet.digest in frames
        ]
        if name == "RIFF":
            expected = expected[1:]  # where it plays the Xing frame as audio
        sent = [packet.digest for packet in await played(data)]
        rest = iter(sent)
        if not all(digest in rest for digest in expected):
            wrong.append(f"{name}: {len(expected)} frames expected, {len(sent)} sent")
        if not frames.issuperset(sent):
            wrong.append(f"{name}: something else than frames")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("header", "reason"),
    [(b"\xff\xfb\x00\x00", "free format"), (b"\xff\xfd\x90\x00", "layer II"),
     (b"\xff\xff\x90\x00", "layer I")],
)  # fmt: skip
@pytest.mark.parametrize("before", [b"", b"ID3\3\0\0\0\0\0\x0a" + bytes(10)])
def test_unsupported_mpeg_audio_is_refused_by_name(
    before: bytes, header: bytes, reason: str
) -> None:
    data = before + (header + bytes(700)) * 20
    kind, _ = feed(sniff(len(data)), data)
    assert kind is FileKind.MP3
    with pytest.raises(MediaError, match=reason) as caught:
        feed(mp3_head.read_head(len(data)), data)
    assert caught.value.fault is MediaFault.NO_SUPPORTED_TRACK
