"""Runs real RTMP players, and parses the packets that they received.

The players are FFmpeg (the distribution's and the current one), ffprobe and rtmpdump. Each reads
media as fast as the edge sends them.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import imageio_ffmpeg

from tests.support.patience import PATIENCE_S
from tests.support.rtmp.rtmp_media import Demuxed, demux

BUFFER_MS = 36_000_000
FFMPEG_5, FFMPEG_9 = "ffmpeg", imageio_ffmpeg.get_ffmpeg_exe()


class PlayedPacket(NamedTuple):
    """A packet's times in ms, as the player saw them, and its hash."""

    dts_ms: int
    pts_ms: int
    digest: str


class ProcessResult(NamedTuple):
    """The result of a process that has ended."""

    code: int
    output: bytes
    stderr: str


async def run(*command: str) -> ProcessResult:
    """Runs a player to its end. Raises TimeoutError after PATIENCE_S, and ends it."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return ProcessResult(process.returncode, output, errors.decode(errors="replace"))


async def ffmpeg(
    url: str, *, exe: str = FFMPEG_5, options: Sequence[str] = (), buffer_ms: int = BUFFER_MS
) -> ProcessResult:
    """Runs FFmpeg, which writes every packet's hash to its output."""
    return await run(
        exe, "-hide_banner", "-loglevel", "warning", "-copyts",
        "-rtmp_buffer", str(buffer_ms), *options, "-i", url,
        "-map", "0:v?", "-map", "0:a?", "-c", "copy", "-f", "framehash", "-hash", "sha256", "-",
    )  # fmt: skip


def packets(report: bytes) -> dict[str, list[PlayedPacket]]:
    """The packets in a framehash report by kind of stream; its times must be milliseconds."""
    kinds: dict[int, str] = {}
    packets_by_kind: dict[str, list[PlayedPacket]] = {}
    for line in report.decode().splitlines():
        fields = [field.strip() for field in line.split(",")]
        if line.startswith("#media_type"):
            kind = fields[0].partition(" ")[2]
            number, _, name = kind.partition(": ")
            kinds[int(number)] = name
            packets_by_kind[name] = []
        elif line.startswith("#tb"):
            assert line.partition(": ")[2] == "1/1000", line
        elif line and not line.startswith("#"):
            packet = PlayedPacket(int(fields[1]), int(fields[2]), fields[5])
            packets_by_kind[kinds[int(fields[0])]].append(packet)
    return packets_by_kind


def expected_packets(media: Demuxed) -> dict[str, list[PlayedPacket]]:
    """The packets that a player must receive from a file, in the same form."""
    return {
        kind: [PlayedPacket(packet.dts_ms, packet.pts_ms, packet.digest) for packet in stream]
        for kind, stream in media.packets.items()
    }


async def rtmpdump(url: str, target: Path, *options: str) -> ProcessResult:
    """Runs rtmpdump, which writes an FLV."""
    return await run("rtmpdump", "-r", url, "-o", str(target), "-b", str(BUFFER_MS), *options)


async def gstreamer(
    element: str, url: str, target: Path, *options: str
) -> dict[str, list[PlayedPacket]]:
    """The packets that one of GStreamer's sources receives of a film of up to 2 MB.

    rtmpsrc connects again at the end of a film and plays it once more, with another FLV header;
    the packets are those of the first time.
    """
    if element == "rtmpsrc":
        options += ("blocksize=65536", "num-buffers=40")
    result = await run(
        "gst-launch-1.0", "-q", element, f"location={url}", *options,
        "!", "filesink", f"location={target}",
    )  # fmt: skip
    written = target.read_bytes()
    assert written, result.stderr
    again = written.find(b"FLV\x01", 1)
    target.write_bytes(written if again < 0 else written[:again])
    return await _packets_in(target)


async def vlc(url: str) -> dict[str, list[PlayedPacket]]:
    """The packets in what VLC's input reads: it writes it to a file instead of decoding it.

    Its folder may be written by others, since VLC does not run as root.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        result = await run(
            *as_other_user(), "env", f"HOME={folder}",
            "cvlc", "--no-color", "--no-xlib", "-I", "dummy", "--no-audio",
            f"--avio-options={{rtmp_buffer={BUFFER_MS}}}", "--demux=dump",
            f"--demuxdump-file={folder / 'got.flv'}", url, "vlc://quit",
        )  # fmt: skip
        assert (folder / "got.flv").exists(), result.stderr
        return await _packets_in(folder / "got.flv")


def as_other_user() -> tuple[str, ...]:
    """What comes before a command that refuses to run as root."""
    user = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
    return user if os.getuid() == 0 else ()


async def _packets_in(target: Path) -> dict[str, list[PlayedPacket]]:
    # The tags include NetStream.Data.Start, which demuxers treat as a third stream.
    report = await run(
        "ffmpeg", "-v", "error", "-copyts", "-i", str(target), "-map", "0:v?", "-map", "0:a?",
        "-c", "copy", "-f", "framehash", "-hash", "sha256", "-",
    )  # fmt: skip
    return packets(report.output)


def flv_packets(path: Path) -> dict[str, list[PlayedPacket]]:
    """The packets in an FLV file."""
    return expected_packets(demux(path.read_bytes()))


async def duration_s(url: str) -> float:
    """A stream's duration according to ffprobe."""
    result = await run(
        "ffprobe", "-hide_banner", "-loglevel", "error", "-show_entries", "format=duration",
        "-of", "json", url,
    )  # fmt: skip
    assert result.code == 0, result.stderr
    return float(json.loads(result.output)["format"]["duration"])
