"""Writes small MP4 indexes box by box, valid and invalid ones."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field


def box(box_type: str, *content: bytes) -> bytes:
    body = b"".join(content)
    return struct.pack(">I", len(body) + 8) + box_type.encode("latin-1") + body


def words(*values: int) -> bytes:
    return struct.pack(f">{len(values)}I", *(value & 0xFFFFFFFF for value in values))


def table(box_type: str, *rows: Sequence[int], version: int = 0) -> bytes:
    """A full box with a count and rows of 32-bit words."""
    return box(box_type, words(version << 24, len(rows)), *(words(*row) for row in rows))


AVC_CONFIGURATION = bytes.fromhex("0164000bffe100176764000bacd9428da10000030001000003003201")


def visual_entry(entry_type: str, *children: bytes) -> bytes:
    fixed = bytes(6) + struct.pack(">H", 1) + bytes(16) + struct.pack(">HH", 320, 180) + bytes(50)
    return box(entry_type, fixed, *children)


def avc1() -> bytes:
    return visual_entry("avc1", box("avcC", AVC_CONFIGURATION))


def sound_entry(
    entry_type: str, *children: bytes, version: int = 0, sample_rate: int = 44100
) -> bytes:
    """A sound sample entry; versions 1 and 2 as QuickTime has them."""
    fixed = bytes(6) + struct.pack(">HHHI", 1, version, 0, 0) + struct.pack(">HHHH", 2, 16, 0, 0)
    if version == 2:
        fixed += struct.pack(">IIdI", 0x10000, 72, float(sample_rate), 2) + bytes(20)
    else:
        fixed += struct.pack(">I", sample_rate << 16) + bytes(16 * version)
    return box(entry_type, fixed, *children)


def esds(object_type: int, info: bytes | None, *, long_sizes: bool = False) -> bytes:
    def descriptor(tag: int, content: bytes) -> bytes:
        size = bytes([len(content)])
        return bytes([tag]) + (b"\x80\x80\x80" if long_sizes else b"") + size + content

    config = bytes([object_type, 0x15]) + bytes(11)
    if info is not None:
        config += descriptor(5, info)
    return box("esds", bytes(4), descriptor(3, bytes(3) + descriptor(4, config)))


@dataclass
class TrackRecipe:
    """Boxes of a track; by default three AVC samples of 10 bytes in one chunk at ``offset``."""

    offset: int = 48
    handler: str = "vide"
    entry: bytes = field(default_factory=avc1)
    timescale: int = 1000
    flags: int = 3
    edits: bytes = b""
    stts: bytes = table("stts", (3, 40))
    ctts: bytes = b""
    stss: bytes = b""
    stsz: bytes = box("stsz", words(0, 0, 3, 10, 10, 10))
    stsc: bytes = table("stsc", (1, 3, 1))
    stco: bytes | None = None

    def write(self) -> bytes:
        stco = table("stco", (self.offset,)) if self.stco is None else self.stco
        entries = 0
        at = 0
        while at + 4 <= len(self.entry):
            at += max(8, int.from_bytes(self.entry[at : at + 4], "big"))
            entries += 1
        stsd = box("stsd", words(0, entries), self.entry)
        stbl = box("stbl", stsd, self.stts, self.ctts, self.stss, self.stsc, self.stsz, stco)
        return box(
            "trak",
            box("tkhd", words(self.flags, 0, 0, 1, 0, 120), bytes(60)),
            box("edts", self.edits) if self.edits else b"",
            box(
                "mdia",
                box("mdhd", words(0, 0, 0, self.timescale, 120, 0)),
                box("hdlr", words(0, 0), self.handler.encode(), bytes(13)),
                box("minf", stbl),
            ),
        )


def moov(*tracks: TrackRecipe, extra: bytes = b"", timescale: int = 1000) -> bytes:
    written = (track.write() for track in tracks)
    return box("moov", box("mvhd", words(0, 0, 0, timescale, 120), bytes(80)), *written, extra)
