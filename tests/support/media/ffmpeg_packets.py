"""The packets that FFmpeg reads from a file and those of an FLV, as lists to compare."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import NamedTuple

from streamedge.media.flv import tags as flv
from streamedge.media.flv.tags import TagFlag
from tests.support.patience import PATIENCE_S

TOLERANCE_MS = 2.0  # times are rounded twice


_FIELDS = ("stream_index", "pts_time", "dts_time", "size", "pos", "flags", "data_hash")


class Packet(NamedTuple):
    pts_ms: float
    digest: str
    is_shown: bool  # False: only decoded, as a reference of others


class Played(NamedTuple):
    """The packets of the first stream of each kind; ``error`` is FFmpeg's output."""

    video: list[Packet]
    audio: list[Packet]
    error: str


def ffmpeg_packets(path: Path) -> Played:
    """Reads a file with ffprobe."""
    command = [
        "ffprobe", "-v", "error", "-show_packets", "-show_streams", "-show_data_hash", "md5",
        "-show_entries", "stream=index,codec_type:packet=" + ",".join(_FIELDS),
        "-of", "json", str(path),
    ]  # fmt: skip
    result = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=PATIENCE_S
    )
    report = json.loads(result.stdout or "{}")
    # The last sample of a truncated file is not a frame.
    is_cut = any(word in result.stderr for word in ("partial file", "Truncating"))
    first: dict[str, int] = {}
    for stream in report.get("streams", []):
        first.setdefault(stream["codec_type"], stream["index"])
    packets: dict[str, list[Packet]] = {"video": [], "audio": []}
    for packet in report.get("packets", []):
        for kind, stream in packets.items():
            if packet["stream_index"] == first.get(kind) and int(packet["size"]):
                time = float(packet.get("pts_time", packet.get("dts_time", "nan")))
                digest = packet["data_hash"].removeprefix("MD5:")
                is_shown = "D" not in packet["flags"]
                end = int(packet.get("pos", 0)) + int(packet["size"])
                if not (is_cut and end == path.stat().st_size):
                    stream.append(Packet(time * 1000, digest, is_shown))
    return Played(_trimmed(packets["video"]), _trimmed(packets["audio"]), result.stderr.strip())


def _trimmed(packets: list[Packet]) -> list[Packet]:
    """Removes packets at the end that are not shown; no packet refers to them."""
    shown = [at for at, packet in enumerate(packets) if packet.is_shown]
    return packets[: shown[-1] + 1] if shown else []


def flv_packets(data: bytes) -> Played:
    """The samples in an FLV's tags."""
    packets: dict[bool, list[Packet]] = {True: [], False: []}
    position = flv.FILE_HEADER_SIZE_BYTES + flv.PREVIOUS_TAG_SIZE_BYTES
    while position + flv.TAG_HEADER_SIZE_BYTES <= len(data):
        header = flv.parse_tag_header(data[position : position + flv.TAG_HEADER_SIZE_BYTES])
        body = data[position + flv.TAG_HEADER_SIZE_BYTES :][: header.size_bytes]
        position += flv.TAG_HEADER_SIZE_BYTES + header.size_bytes + flv.PREVIOUS_TAG_SIZE_BYTES
        add_tag(packets, header.type, header.timestamp_ms, body)
    return Played(packets[True], packets[False], "")


def add_tag(packets: dict[bool, list[Packet]], kind: int, time_ms: int, body: bytes) -> None:
    """Adds the media in a tag or RTMP message to the video (True) or the audio (False)."""
    tag = flv.classify(kind, body)
    if TagFlag.MEDIA not in tag.flags:
        return
    is_video = TagFlag.VIDEO in tag.flags
    start, composition_ms = 1, 0
    if TagFlag.ENHANCED in tag.flags:
        start = 5
        if is_video and tag.codec in ("hvc1", "avc1") and tag.packet_type == 1:
            composition_ms, start = int.from_bytes(body[5:8], "big", signed=True), 8
    elif is_video and tag.codec in (7, 12):
        composition_ms, start = int.from_bytes(body[2:5], "big", signed=True), 5
    elif not is_video and tag.codec == 10:
        start = 2
    digest = hashlib.md5(body[start:]).hexdigest()
    packets[is_video].append(Packet(time_ms + composition_ms, digest, True))


def differences(expected: Played, actual: Played, *, may_have_more: bool = False) -> list[str]:
    """The differences of two plays; times are compared relative to the first packet.

    ``may_have_more``: FFmpeg stopped early, at the first sample past the file's end.
    """
    errors: list[str] = []
    offset_ms: float | None = None
    for kind, want, have in (
        ("video", expected.video, actual.video), ("audio", expected.audio, actual.audio)
    ):  # fmt: skip
        # Packets that are not shown may be missing, if no packet that is shown refers to them.
        pairs: list[tuple[Packet, Packet]] = []
        for at, packet in enumerate(want):
            if len(pairs) < len(have) and packet.digest == have[len(pairs)].digest:
                pairs.append((packet, have[len(pairs)]))
            elif packet.is_shown:
                errors.append(
                    f"{kind}: packet {at} of {len(want)} is missing at {len(pairs)} of {len(have)}"
                )
                break
        else:
            # An edit list that hides everything is not followed.
            if len(pairs) < len(have) and not may_have_more and want:
                errors.append(f"{kind}: {len(have) - len(pairs)} packets too many")
        for at, (a, b) in enumerate(pairs):
            if a.pts_ms != a.pts_ms:
                continue  # no time
            if not a.is_shown:
                continue
            if offset_ms is None:
                offset_ms = b.pts_ms - a.pts_ms
            if abs(b.pts_ms - a.pts_ms - offset_ms) > TOLERANCE_MS:
                errors.append(
                    f"{kind} packet {at} of {len(pairs)}: time {a.pts_ms + offset_ms:.1f} expected,"
                    f" {b.pts_ms:.1f} received"
                )
                break
    return errors
