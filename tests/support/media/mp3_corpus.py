"""MP3 files that other players accept: data in front of, behind and between the frames."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from streamedge.media.mp3 import frames as mp3


class Variant(NamedTuple):
    name: str
    data: bytes


def id3v2(size_bytes: int, *, footer: bool = False, version: int = 3) -> bytes:
    size = bytes(size_bytes >> shift & 0x7F for shift in (21, 14, 7, 0))
    flags = 0x10 if footer else 0
    tail = b"3DI" + bytes([version, 0, flags]) + size if footer else b""
    return b"ID3" + bytes([version, 0, flags]) + size + bytes(size_bytes) + tail


def ape(items: bytes, *, header: bool) -> bytes:
    def side(flags: int) -> bytes:
        return b"APETAGEX" + struct.pack("<IIII", 2000, len(items) + 32, 1, flags) + bytes(8)

    flags = 1 << 31 if header else 0
    return (side(flags | 1 << 29) if header else b"") + items + side(flags)


def riff(data: bytes) -> bytes:
    """A WAVE file with MPEG layer III audio."""
    form = struct.pack("<HHIIHH", 0x55, 2, 44100, 8000, 1, 0)
    form += struct.pack("<HHIHHH", 12, 1, 2, 418, 1, 1393)
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form
    body += b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


# For these variants FFmpeg's packets are exactly the frames.
EXACT = frozenset(
    {
        "as it is", "without a Xing frame", "ID3v2 of 10 bytes", "ID3v2 of 70000 bytes",
        "ID3v2 of 3000000 bytes", "two ID3v2 tags", "ID3v2.4 with a footer",
        "ID3v2 and zeros behind it", "417 zeros in front", "60000 zeros in front",
        "junk in front", "half a frame in front", "APE in front", "ID3v1 behind", "APE behind",
        "a Xing frame that lies",
    }
)  # fmt: skip


def variants(song: bytes) -> Iterator[Variant]:
    """Variants of ``song``, which has frames only; the first is a Xing or Info frame or audio."""
    spans = mp3.frames(song, is_file_end=True).spans
    frames = [song[span.start : span.end] for span in spans]
    audio = b"".join(frames[1:])
    middle = len(frames) // 2
    first, second = b"".join(frames[:middle]), b"".join(frames[middle:])
    tag = b"TAG" + bytes(125)
    yield Variant("as it is", song)
    yield Variant("without a Xing frame", audio)
    for size in (0, 10, 300, 70_000, 3_000_000):
        yield Variant(f"ID3v2 of {size} bytes", id3v2(size) + song)
    yield Variant("two ID3v2 tags", id3v2(50) + id3v2(500) + song)
    yield Variant("ID3v2.4 with a footer", id3v2(50, footer=True, version=4) + song)
    yield Variant("ID3v2 and zeros behind it", id3v2(50) + bytes(3000) + song)
    for size in (1, 417, 3000, 60_000):
        yield Variant(f"{size} zeros in front", bytes(size) + song)
    yield Variant("junk in front", bytes(range(1, 250)) * 20 + song)
    yield Variant("half a frame in front", frames[middle][100:] + song)
    yield Variant("APE in front", ape(b"x" * 300, header=True) + song)
    yield Variant("RIFF", riff(song))
    yield Variant("ID3v1 behind", song + tag)
    yield Variant("APE behind", song + ape(b"x" * 300, header=True))
    yield Variant(
        "APE without a header and ID3v1 behind", song + ape(b"x" * 300, header=False) + tag
    )
    yield Variant("zeros behind", song + bytes(5000))
    yield Variant("cut in the last frame", song[:-100])
    yield Variant("zeros in the middle", first + bytes(2000) + second)
    yield Variant("junk in the middle", first + b"junk" * 700 + second)
    yield Variant("ID3v2 in the middle", first + id3v2(200) + second)
    destroyed = b"\0\0\0\0" + second[4:]
    yield Variant("a frame header destroyed", first + destroyed)
    yield Variant("joined with itself", song + song)
    damaged = bytearray(song)
    at = damaged.find(b"Info") if b"Info" in song[:200] else damaged.find(b"Xing")
    if 0 < at < 200:
        damaged[at + 8 : at + 12] = b"\xff\xff\xff\xff"
        yield Variant("a Xing frame that lies", bytes(damaged))
