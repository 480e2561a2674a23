"""FLV files that other players accept: structured edits of a seed's tags and times."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from random import Random
from typing import NamedTuple

from streamedge.media.flv import tags as flv

HEADER_BYTES = 13


class Tag(NamedTuple):
    kind: int
    time_ms: int
    body: bytes
    stream_id: int = 0
    previous_tag_size: int | None = None

    def dump(self) -> bytes:
        time = self.time_ms & 0xFFFFFFFF
        previous = 11 + len(self.body) if self.previous_tag_size is None else self.previous_tag_size
        return (
            bytes([self.kind]) + len(self.body).to_bytes(3, "big")
            + (time & 0xFFFFFF).to_bytes(3, "big") + bytes([time >> 24])
            + self.stream_id.to_bytes(3, "big") + self.body + struct.pack(">I", previous)
        )  # fmt: skip


class Variant(NamedTuple):
    name: str
    data: bytes


class Recording:
    """A file's header and tags; a piece of ``bytes`` among them is written as it is."""

    def __init__(self, data: bytes) -> None:
        self.header = data[:HEADER_BYTES]
        self.pieces: list[Tag | bytes] = []
        position = HEADER_BYTES
        while position + 15 <= len(data):
            header = flv.parse_tag_header(data[position : position + 11])
            body = data[position + 11 : position + 11 + header.size_bytes]
            self.pieces.append(Tag(header.type, header.timestamp_ms, body))
            position += 15 + header.size_bytes

    def each(self, change: Callable[[Tag], Tag]) -> None:
        self.pieces = [change(one) if isinstance(one, Tag) else one for one in self.pieces]

    def without_metadata(self) -> None:
        script = flv.TagType.SCRIPT
        self.pieces = [
            one for one in self.pieces if not (isinstance(one, Tag) and one.kind == script)
        ]

    def cut_last(self, size_bytes: int) -> None:
        """Removes bytes from the end of the last tag."""
        last = self.pieces[-1]
        self.pieces[-1] = (last.dump() if isinstance(last, Tag) else last)[:-size_bytes]

    def insert(self, *pieces: Tag | bytes) -> None:
        """Inserts tags or bytes in the middle."""
        at = len(self.pieces) // 2
        self.pieces[at:at] = pieces

    def dump(self) -> bytes:
        return self.header + b"".join(
            one.dump() if isinstance(one, Tag) else one for one in self.pieces
        )


def _middle(recording: Recording, **changes: object) -> None:
    at = len(recording.pieces) // 2
    tag = recording.pieces[at]
    assert isinstance(tag, Tag)
    recording.pieces[at] = tag._replace(**changes)  # type: ignore[arg-type]


def _moved(by_ms: int) -> Callable[[Recording], None]:
    def edit(recording: Recording) -> None:
        recording.without_metadata()
        recording.each(lambda tag: tag._replace(time_ms=tag.time_ms + by_ms))

    return edit


def _metadata(body: bytes) -> Callable[[Recording], None]:
    def edit(recording: Recording) -> None:
        recording.without_metadata()
        recording.pieces.insert(0, Tag(flv.TagType.SCRIPT, 0, body))

    return edit


def _set_header(at: int, value: bytes) -> Callable[[Recording], None]:
    def edit(recording: Recording) -> None:
        header = recording.header
        recording.header = header[:at] + value + header[at + len(value) :]

    return edit


Edit = Callable[[Recording], None]

# After these edits FFmpeg still plays the complete file.
EDITS: dict[str, Edit] = {
    "as it is": lambda r: None,
    "PreviousTagSize without the header": lambda r: r.each(
        lambda t: t._replace(previous_tag_size=len(t.body))),
    "StreamID 1": lambda r: r.each(lambda t: t._replace(stream_id=1)),
    "a tag of type 15": lambda r: r.insert(Tag(15, 100, bytes(20))),
    "a tag of type 31, empty": lambda r: r.insert(Tag(31, 100, b"")),
    "an empty sound tag": lambda r: r.insert(Tag(8, 100, b"")),
    "an empty video tag": lambda r: r.insert(Tag(9, 100, b"")),
    "a command frame": lambda r: r.insert(Tag(9, 100, b"\x57\x00")),
    "a cue point": lambda r: r.insert(Tag(18, 0, b"\x02\0\x0aonCuePoint\x08\0\0\0\0\0\0\x09")),
    "the metadata again": lambda r: r.insert(r.pieces[0]),
    "zeros at the end": lambda r: r.pieces.append(bytes(5000)),
    "junk at the end": lambda r: r.pieces.append(b"\xff" * 500),
    "cut in the last tag": lambda r: r.cut_last(30),
    "without the last PreviousTagSize": lambda r: r.cut_last(4),
    "no metadata": lambda r: r.without_metadata(),
    "metadata cut": _metadata(b"\2\0\x0aonMetaData\x08\0\0\0\5\0\4dura"),
    "metadata in AMF3": _metadata(
        b"\2\0\x0aonMetaData\x08\0\0\0\1\0\1x\x11\x0a\x0b\1\1\0\0\x09"),
    "metadata of nothing": _metadata(b"\2\0\x0aonMetaData"),
    "metadata is a string": _metadata(b"\2\0\x0aonMetaData\2\0\1x"),
    "header says sound only": _set_header(4, b"\x04"),
    "header says pictures only": _set_header(4, b"\x01"),
    "header says nothing": _set_header(4, b"\0"),
    "version 2": _set_header(3, b"\x02"),
    "times from -33 ms": _moved(-33),
    "times from 3132 s": _moved(3_132_000),
    "times from 2^24 ms": _moved((1 << 24) - 500),
}  # fmt: skip


def edited(seed: bytes) -> Iterator[Variant]:
    for name, edit in EDITS.items():
        recording = Recording(seed)
        edit(recording)
        yield Variant(name, recording.dump())
    yield Variant("ID3v2 in front", b"ID3\3\0\0\0\0\0\x64" + bytes(100) + seed)


def mixed(seed: bytes, count: int, random_seed: int) -> Iterator[Variant]:
    random = Random(random_seed)
    for _ in range(count):
        names = random.sample(list(EDITS), random.randint(2, 4))
        recording = Recording(seed)
        for name in names:
            try:
                EDITS[name](recording)
            except AttributeError:
                continue  # the last piece is no longer a tag
        yield Variant(" + ".join(names), recording.dump())


def _zeros_for_a_tag(recording: Recording) -> None:
    at = len(recording.pieces) // 2
    tag = recording.pieces[at]
    assert isinstance(tag, Tag)
    recording.pieces[at] = bytes(len(tag.dump()))


DAMAGES: dict[str, Edit] = {
    "one PreviousTagSize of 0": lambda r: _middle(r, previous_tag_size=0),
    "one PreviousTagSize too large": lambda r: _middle(r, previous_tag_size=1 << 30),
    "junk in the middle": lambda r: r.insert(b"junk" * 100),
    "zeros in the middle": lambda r: r.insert(bytes(70_000)),
    "zeros for a tag": _zeros_for_a_tag,
}


def damaged(seed: bytes) -> Iterator[Variant]:
    """Damage from which FFmpeg loses more than the edge does."""
    for name, edit in DAMAGES.items():
        recording = Recording(seed)
        edit(recording)
        yield Variant(name, recording.dump())
