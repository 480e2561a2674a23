"""MP4 files that other players accept: structured edits of a few seeds.

Each edit of a box, table or time is a function of the file's boxes, with a descriptive name.
FFmpeg decides what a file should play (``ffmpeg_packets.py``).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from random import Random
from typing import NamedTuple

CONTAINERS = frozenset({"moov", "trak", "mdia", "minf", "stbl", "edts"})


class Node:
    """A box with ``children`` or with ``content``; ``header`` replaces the default header."""

    def __init__(self, kind: str, content: bytes = b"", children: list[Node] | None = None) -> None:
        self.kind = kind
        self.content = content
        self.children = children

    def dump(self) -> bytes:
        body = self.content if self.children is None else dump(self.children)
        return struct.pack(">I", len(body) + 8) + self.kind.encode("latin-1") + body

    def find(self, *path: str) -> Node:
        node = self
        for kind in path:
            node = next(child for child in node.children or [] if child.kind == kind)
        return node

    def remove(self, kind: str) -> None:
        assert self.children is not None
        self.children = [child for child in self.children if child.kind != kind]


def dump(nodes: list[Node]) -> bytes:
    return b"".join(node.dump() for node in nodes)


def parse(data: bytes) -> list[Node]:
    nodes, at = [], 0
    while at + 8 <= len(data):
        size = struct.unpack_from(">I", data, at)[0]
        kind = data[at + 4 : at + 8].decode("latin-1")
        header = 8
        if size == 1:
            size, header = struct.unpack_from(">Q", data, at + 8)[0], 16
        elif size == 0:
            size = len(data) - at
        content = data[at + header : at + size]
        if kind in CONTAINERS:
            nodes.append(Node(kind, children=parse(content)))
        else:
            nodes.append(Node(kind, content))
        at += size
    return nodes


class Film:
    """A complete file whose moov is behind its media, so that the moov may grow."""

    def __init__(self, data: bytes) -> None:
        self.nodes = parse(data)
        self.tail = b""

    @property
    def moov(self) -> Node:
        return next(node for node in self.nodes if node.kind == "moov")

    def trak(self, handler: str) -> Node:
        return next(
            node for node in self.moov.children or []
            if node.kind == "trak" and node.find("mdia", "hdlr").content[8:12] == handler.encode()
        )  # fmt: skip

    def stbl(self, handler: str = "vide") -> Node:
        return self.trak(handler).find("mdia", "minf", "stbl")

    def rows(self, kind: str, fields: int, handler: str = "vide") -> list[tuple[int, ...]]:
        content = self.stbl(handler).find(kind).content
        words = struct.unpack(f">{(len(content) - 8) // 4}I", content[8:])
        return [tuple(words[at : at + fields]) for at in range(0, len(words), fields)]

    def set_rows(
        self,
        kind: str,
        rows: list[tuple[int, ...]],
        handler: str = "vide",
        count: int | None = None,
    ) -> None:
        words = [word & 0xFFFFFFFF for row in rows for word in row]
        count = len(rows) if count is None else count
        content = struct.pack(f">II{len(words)}I", 0, count, *words)
        stbl = self.stbl(handler)
        try:
            stbl.find(kind).content = content
        except StopIteration:
            assert stbl.children is not None
            stbl.children.append(Node(kind, content))

    def sizes(self, handler: str = "vide") -> list[int]:
        content = self.stbl(handler).find("stsz").content
        return list(struct.unpack(f">{(len(content) - 12) // 4}I", content[12:]))

    def set_sizes(self, sizes: list[int]) -> None:
        self.stbl().find("stsz").content = struct.pack(
            f">III{len(sizes)}I", 0, 0, len(sizes), *sizes
        )

    def timescales(self, handler: str) -> tuple[int, int]:
        """The timescales of the movie and of the track."""
        movie = struct.unpack_from(">I", self.moov.find("mvhd").content, 12)[0]
        mdhd = self.trak(handler).find("mdia", "mdhd").content
        return movie, struct.unpack_from(">I", mdhd, 12)[0]

    def set_edits(
        self, handler: str, *edits: tuple[float, float], rate: int = 0x10000, version: int = 0
    ) -> None:
        """Edits as (length in s, media time in s or -1)."""
        movie, media = self.timescales(handler)
        layout = ">QqI" if version else ">IiI"
        content = struct.pack(">II", version << 24, len(edits)) + b"".join(
            struct.pack(
                layout, round(duration * movie), -1 if at == -1 else round(at * media), rate
            )
            for duration, at in edits
        )
        trak = self.trak(handler)
        trak.remove("edts")
        assert trak.children is not None
        trak.children.insert(1, Node("edts", children=[Node("elst", content)]))

    def move_media(self, delta: int) -> None:
        """Corrects chunk offsets for bytes inserted ahead of the media."""
        for handler in ("vide", "soun"):
            try:
                rows = self.rows("stco", 1, handler)
            except StopIteration:
                continue
            self.set_rows("stco", [(row[0] + delta,) for row in rows], handler)

    def dump(self) -> bytes:
        return dump(self.nodes) + self.tail


class Variant(NamedTuple):
    name: str
    data: bytes


def with_box_in_front(film: Film, kind: str, content: bytes = bytes(100)) -> None:
    film.nodes.insert(0, Node(kind, content))
    film.move_media(len(content) + 8)


def moov_first(film: Film) -> None:
    """Moves the index in front of the media."""
    moov = film.moov
    film.nodes.remove(moov)
    film.nodes.insert(1, moov)
    film.move_media(len(moov.dump()))


def _sample_entry(film: Film, handler: str) -> bytes:
    return film.stbl(handler).find("stsd").content[8:]


def _two_descriptions(film: Film, second_id: int, other_type: bytes | None = None) -> None:
    """Two sample descriptions; the second half of the chunks uses ``second_id``."""
    entry = _sample_entry(film, "vide")
    second = entry if other_type is None else entry[:4] + other_type + entry[8:]
    if other_type is None:
        # Another profile makes it a different configuration.
        at = second.index(b"avcC") + 4
        second = second[: at + 2] + bytes([second[at + 2] ^ 0x40]) + second[at + 3 :]
    stsd = film.stbl().find("stsd")
    stsd.content = struct.pack(">II", 0, 2) + entry + second
    chunks = len(film.rows("stco", 1))
    rows = film.rows("stsc", 3)
    per_chunk = [0] * chunks
    for (first, count, _), after in zip(rows, [*[r[0] for r in rows[1:]], chunks + 1], strict=True):
        for chunk in range(first - 1, after - 1):
            per_chunk[chunk] = count
    film.set_rows(
        "stsc",
        [(n + 1, count, 1 if n < chunks // 2 else second_id) for n, count in enumerate(per_chunk)],
    )


def _stts_total(film: Film, total: int) -> None:
    film.set_rows("stts", [(total, film.rows("stts", 2)[0][1])])


def _patch(film: Film, handler: str, path: tuple[str, ...], at: int, value: bytes) -> None:
    node = film.trak(handler).find(*path)
    node.content = node.content[:at] + value + node.content[at + len(value) :]


def _insert_everywhere(film: Film, kind: str) -> None:
    def visit(node: Node) -> None:
        if node.children is not None:
            for child in node.children:
                visit(child)
            node.children = [
                box for child in node.children for box in (Node(kind, bytes(20)), child)
            ]

    visit(film.moov)


def _esds(film: Film, make: Callable[[bytes, bytes], bytes]) -> None:
    """Replaces the audio track's esds; ``make`` gets decoder configuration and specific info."""
    stsd = film.stbl("soun").find("stsd")
    data, at = stsd.content, stsd.content.index(b"esds")
    old = struct.unpack_from(">I", data, at - 4)[0]
    marker = data.index(b"\5\x80\x80\x80", at)
    info = data[marker + 5 :][: data[marker + 4]]
    config = b"\x40\x15\0\0\0" + struct.pack(">II", 64000, 64000)
    new = bytes(4) + make(config, info)
    size = struct.unpack_from(">I", data, 8)[0] + len(new) + 8 - old
    stsd.content = (
        data[:8] + struct.pack(">I", size) + data[12 : at - 4]
        + struct.pack(">I", len(new) + 8) + b"esds" + new + data[at - 4 + old :]
    )  # fmt: skip


def descriptor(tag: int, body: bytes, size_bytes: int = 1, lie: int = 0) -> bytes:
    size = len(body) + lie
    digits = [size >> shift & 0x7F for shift in range(7 * (size_bytes - 1), -1, -7)]
    return bytes([tag, *(digit | 0x80 for digit in digits[:-1]), digits[-1]]) + body


def _sound_version(film: Film, version: int) -> None:
    """Writes the audio sample entry as QuickTime does, with its boxes in ``wave`` for version 1."""
    stsd = film.stbl("soun").find("stsd")
    entry = stsd.content[8:]
    fixed, children = entry[8:36], entry[36:]
    fixed = fixed[:8] + struct.pack(">H", version) + fixed[10:]
    if version == 1:
        wave = Node("wave", Node("frma", b"mp4a").dump() + children + bytes(8)).dump()
        body = fixed + struct.pack(">IIII", 1024, 0, 0, 2) + wave
    else:
        rate = struct.unpack_from(">I", fixed, 24)[0] >> 16
        channels = struct.unpack_from(">H", fixed, 16)[0]
        body = fixed[:16] + struct.pack(">HHhHI", 3, 16, -2, 0, 65536)
        body += struct.pack(">IdIIIIII", 72, float(rate), channels, 0x7F000000, 0, 0, 0, 1024)
        body += children
    stsd.content = struct.pack(">II", 0, 1) + Node("mp4a", body).dump()


def _sizes_to_stz2(film: Film, handler: str) -> None:
    stbl = film.stbl(handler)
    sizes = film.sizes(handler)
    stbl.remove("stsz")
    assert stbl.children is not None
    stbl.children.append(Node("stz2", struct.pack(f">III{len(sizes)}H", 0, 16, len(sizes), *sizes)))


def _co64(film: Film) -> None:
    for handler in ("vide", "soun"):
        rows = film.rows("stco", 1, handler)
        stbl = film.stbl(handler)
        stbl.remove("stco")
        assert stbl.children is not None
        stbl.children.append(
            Node("co64", struct.pack(f">II{len(rows)}Q", 0, len(rows), *(row[0] for row in rows)))
        )


def _one_sample_chunks(film: Film, handler: str = "vide") -> None:
    """Puts each sample into its own chunk, with an odd run in stsc."""
    offsets: list[tuple[int, ...]] = []
    sizes = film.sizes(handler)
    rows = film.rows("stsc", 3, handler)
    chunk_offsets = [row[0] for row in film.rows("stco", 1, handler)]
    sample = 0
    for chunk, offset in enumerate(chunk_offsets):
        count = next(row[1] for row in reversed(rows) if row[0] <= chunk + 1)
        at = offset
        for size in sizes[sample : sample + count]:
            offsets.append((at,))
            at += size
        sample += count
    film.set_rows("stco", offsets, handler)
    film.set_rows("stsc", [(n, 1, 1) for n in (1, 2, 5, 6, 20)], handler)


def _ctts(film: Film, rows: list[tuple[int, ...]], version: int = 0) -> None:
    film.set_rows("ctts", rows)
    node = film.stbl().find("ctts")
    node.content = bytes([version]) + node.content[1:]


def _with_ctts(film: Film) -> list[tuple[int, ...]]:
    try:
        return film.rows("ctts", 2)
    except StopIteration:
        return [(len(film.sizes()), 0)]


def _shift_ctts(film: Film, by: int, version: int) -> None:
    _ctts(film, [(count, (value + by) & 0xFFFFFFFF) for count, value in _with_ctts(film)], version)


def _duplicate_track(film: Film, handler: str, *, enabled_first: bool = True) -> None:
    trak = film.trak(handler)
    copy = parse(trak.dump())[0]
    assert film.moov.children is not None
    film.moov.children.append(copy)
    if not enabled_first:
        _patch(film, handler, ("tkhd",), 3, b"\x02")


def _edit_both(film: Film, *edits: tuple[float, float]) -> None:
    film.set_edits("vide", *edits)
    film.set_edits("soun", *edits)


def _without_edits(film: Film) -> None:
    film.trak("vide").remove("edts")
    film.trak("soun").remove("edts")


def _without_ftyp(film: Film) -> None:
    film.move_media(-len(film.nodes.pop(0).dump()))


def _large_sizes(film: Film) -> None:
    """Writes the media data with a 64-bit size."""
    mdat = next(node for node in film.nodes if node.kind == "mdat")
    at = film.nodes.index(mdat)
    whole = (
        struct.pack(">I", 1) + b"mdat" + struct.pack(">Q", len(mdat.content) + 16) + mdat.content
    )
    raw = Node("mdat")
    raw.dump = lambda: whole  # type: ignore[method-assign]
    film.nodes[at] = raw
    film.move_media(8)


def _raw(film: Film, kind: str, whole: Callable[[bytes], bytes]) -> None:
    node = next(node for node in film.nodes if node.kind == kind)
    data = whole(node.dump())
    node.dump = lambda: data  # type: ignore[method-assign]


def _several_mdats(film: Film) -> None:
    """Writes the media data as two boxes with other boxes between."""
    mdat = next(node for node in film.nodes if node.kind == "mdat")
    at = film.nodes.index(mdat)
    cut = film.rows("stco", 1)[1][0]
    start = len(dump(film.nodes[:at])) + 8
    between = Node("free", bytes(20)).dump()
    first, second = mdat.content[: cut - start], mdat.content[cut - start :]
    film.nodes[at : at + 1] = [Node("mdat", first), Node("free", bytes(20)), Node("mdat", second)]
    moved = len(between) + 8
    for handler in ("vide", "soun"):
        rows = film.rows("stco", 1, handler)
        film.set_rows("stco", [(o + moved if o >= cut else o,) for (o,) in rows], handler)


def _cut_elst(film: Film) -> None:
    film.set_edits("vide", (1, 0.5))
    elst = film.trak("vide").find("edts", "elst")
    elst.content = elst.content[:4] + b"\0\0\0\3" + elst.content[8:] + b"\0\0\0"


def _mvhd_timescale(film: Film, timescale: int) -> None:
    mvhd = film.moov.find("mvhd")
    mvhd.content = mvhd.content[:12] + struct.pack(">I", timescale) + mvhd.content[16:]


Edit = Callable[[Film], None]

EDITS: dict[str, Edit] = {
    "as it is": lambda f: None,
    "moov first": moov_first,
    # Chunk offsets
    "stco: an unused offset past the end": lambda f: f.set_rows(
        "stco", [*f.rows("stco", 1), (0xC000009D,)]
    ),
    "stco: the last chunk past the end": lambda f: f.set_rows(
        "stco", [*f.rows("stco", 1)[:-1], (0xC000009D,)]
    ),
    "stco: fewer chunks": lambda f: f.set_rows("stco", f.rows("stco", 1)[:-1]),
    "co64": _co64,
    "stsc: a chunk for each sample": _one_sample_chunks,
    "stsc: last entry past the chunks, not its first": lambda f: f.set_rows(
        "stsc", [(1, f.rows("stsc", 3)[0][1], 1)]
    ),
    "stsc: first chunk 0": lambda f: f.set_rows(
        "stsc", [(0, *f.rows("stsc", 3)[0][1:]), *f.rows("stsc", 3)[1:]]
    ),
    "stsc: description 0": lambda f: f.set_rows(
        "stsc", [(first, count, 0) for first, count, _ in f.rows("stsc", 3)]
    ),
    "stsc: description 0 in the middle": lambda f: f.set_rows(
        "stsc", [(first, count, int(at != 1))
                 for at, (first, count, _) in enumerate(f.rows("stsc", 3))]
    ),
    "stsc: the first entry twice": lambda f: f.set_rows(
        "stsc", [f.rows("stsc", 3)[0], *f.rows("stsc", 3)]
    ),
    "stsc: no samples in the last run": lambda f: f.set_rows(
        "stsc", [*f.rows("stsc", 3), (len(f.rows("stco", 1)), 0, 1)]
    ),
    # Sync samples
    "stss: empty": lambda f: f.set_rows("stss", []),
    "stss: sample 0": lambda f: f.set_rows("stss", [(0,), *f.rows("stss", 1)]),
    "stss: past the end": lambda f: f.set_rows("stss", [*f.rows("stss", 1), (100_000,)]),
    "stss: counted from 0": lambda f: f.set_rows("stss", [(n - 1,) for (n,) in f.rows("stss", 1)]),
    "stss: none": lambda f: f.stbl().remove("stss"),
    "stps": lambda f: f.set_rows("stps", [(2,), (3,)]),
    # Times
    "stts: one too few": lambda f: _stts_total(f, len(f.sizes()) - 1),
    "stts: half": lambda f: _stts_total(f, len(f.sizes()) // 2),
    "stts: too many": lambda f: _stts_total(f, len(f.sizes()) * 3),
    "stts: a run of 0": lambda f: f.set_rows(
        "stts", [(5, f.rows("stts", 2)[0][1]), (0, 100), (1000, 300)]
    ),
    "stts: zero durations": lambda f: f.set_rows(
        "stts", [(3, 0), (1000, f.rows("stts", 2)[0][1])]
    ),
    "stts: a negative duration": lambda f: f.set_rows(
        "stts", [(5, f.rows("stts", 2)[0][1]), (1, -600), (1000, f.rows("stts", 2)[0][1])]
    ),
    "stts: uneven": lambda f: f.set_rows(
        "stts", [(n % 3 + 1, 300 + 40 * n) for n in range(len(f.sizes()))]
    ),
    "stts: sound one too few": lambda f: f.set_rows(
        "stts", [(3, 1024)], "soun"
    ),
    "ctts: version 1": lambda f: _shift_ctts(f, 0, 1),
    "ctts: negative, version 1": lambda f: _shift_ctts(f, -512, 1),
    "ctts: negative, version 0": lambda f: _shift_ctts(f, -512, 0),
    "ctts: all negative": lambda f: _shift_ctts(f, -5000, 1),
    "ctts: too short": lambda f: _ctts(f, _with_ctts(f)[: max(1, len(_with_ctts(f)) // 2)]),
    "ctts: too short and negative": lambda f: _ctts(
        f, [(c, v - 512) for c, v in _with_ctts(f)[: max(1, len(_with_ctts(f)) // 2)]], 1
    ),
    "ctts: too long": lambda f: _ctts(f, [*_with_ctts(f), (1000, 512)]),
    "ctts: runs of 0": lambda f: _ctts(
        f, [row for pair in _with_ctts(f) for row in ((0, 900), pair)]
    ),
    "ctts: impossible": lambda f: _ctts(f, [(1, 0x30000000), *_with_ctts(f)]),
    "ctts: odd last entries": lambda f: _ctts(f, [*_with_ctts(f)[:-1], (1, -0x7000000)]),
    "ctts: empty": lambda f: _ctts(f, []),
    "mdhd: timescale 0": lambda f: _patch(f, "vide", ("mdia", "mdhd"), 12, bytes(4)),
    "mdhd: timescale 1": lambda f: _patch(f, "soun", ("mdia", "mdhd"), 12, b"\0\0\0\1"),
    "mdhd: timescale 90000": lambda f: _patch(f, "vide", ("mdia", "mdhd"), 12, b"\0\1\x5f\x90"),
    "mdhd: duration 0": lambda f: _patch(f, "vide", ("mdia", "mdhd"), 16, bytes(4)),
    # Sizes
    "stsz: zero-size samples": lambda f: f.set_sizes(
        [0 if n % 7 == 3 else size for n, size in enumerate(f.sizes())]
    ),
    "stsz: a size past the end": lambda f: f.set_sizes([*f.sizes()[:-1], 0x3000000]),
    "stsz: fewer than chunks hold": lambda f: f.set_sizes(f.sizes()[:-3]),
    "stsz: more than chunks hold": lambda f: f.set_sizes([*f.sizes(), 10, 10]),
    "stz2: 16 bits": lambda f: _sizes_to_stz2(f, "soun"),
    # Edit lists
    "elst: none": _without_edits,
    "elst: trimmed at keyframes": lambda f: _edit_both(f, (1, 1)),
    "elst: trimmed between keyframes": lambda f: _edit_both(f, (1, 0.7)),
    "elst: delayed": lambda f: f.set_edits("soun", (0.5, -1), (3, 0)),
    "elst: pictures delayed": lambda f: f.set_edits("vide", (0.5, -1), (3, 0.08)),
    "elst: two delays": lambda f: f.set_edits("soun", (0.5, -1), (0.25, -1), (3, 0)),
    "elst: two parts": lambda f: _edit_both(f, (0.4, 0.2), (0.8, 1.5)),
    "elst: parts out of order": lambda f: _edit_both(f, (0.5, 1.5), (0.5, 0.5)),
    "elst: a part twice": lambda f: f.set_edits("vide", (0.5, 0.5), (0.5, 0.5)),
    "elst: ends after the media": lambda f: f.set_edits("vide", (1000, 0)),
    "elst: version 1": lambda f: f.set_edits("vide", (1, 0.5), version=1),
    "elst: rate 2": lambda f: f.set_edits("vide", (1, 0.5), rate=0x20000),
    "elst: rate 0": lambda f: f.set_edits("vide", (1, 0.5), rate=0),
    "elst: a cut entry": _cut_elst,
    "elst: empty": lambda f: f.set_edits("vide"),
    "elst: sound starts between frames": lambda f: f.set_edits("soun", (1, 0.333)),
    # Descriptions
    "stsd: two of one codec": lambda f: _two_descriptions(f, 2),
    "stsd: two codecs": lambda f: _two_descriptions(f, 2, b"hvc1"),
    "stsd: two, one used": lambda f: _two_descriptions(f, 1),
    "sound entry version 1, wave": lambda f: _sound_version(f, 1),
    "sound entry version 2": lambda f: _sound_version(f, 2),
    "esds: short sizes": lambda f: _esds(f, lambda c, i: descriptor(
        3, b"\0\1\0" + descriptor(4, c + descriptor(5, i)) + descriptor(6, b"\2"))),
    "esds: two-byte sizes": lambda f: _esds(f, lambda c, i: descriptor(
        3, b"\0\1\0" + descriptor(4, c + descriptor(5, i, 2), 2), 2)),
    "esds: outer size too large": lambda f: _esds(f, lambda c, i: descriptor(
        3, b"\0\1\0" + descriptor(4, c + descriptor(5, i)), lie=2)),
    "esds: outer size too small": lambda f: _esds(f, lambda c, i: descriptor(
        3, b"\0\1\0" + descriptor(4, c + descriptor(5, i)), lie=-5)),
    "esds: config size wrong": lambda f: _esds(f, lambda c, i: descriptor(
        3, b"\0\1\0" + descriptor(4, c + descriptor(5, i), lie=9))),
    "esds: with stream dependence": lambda f: _esds(f, lambda c, i: descriptor(
        3, b"\0\1\x80\0\1" + descriptor(4, c + descriptor(5, i)))),
    # Boxes
    "uuid in front": lambda f: with_box_in_front(f, "uuid"),
    "PICT in front": lambda f: with_box_in_front(f, "PICT"),
    "junk in front": lambda f: with_box_in_front(f, "junk"),
    "a large free in front": lambda f: with_box_in_front(f, "free", bytes(200_000)),
    "garbage after moov's boxes": lambda f: f.moov.children.append(  # type: ignore[union-attr]
        Node("\0\0\0\0", b"junk")) ,
    "a moov that claims too much": lambda f: _raw(
        f, "moov", lambda w: struct.pack(">I", len(w) + 5000) + w[4:]),
    "moov to the end": lambda f: _raw(f, "moov", lambda w: bytes(4) + w[4:]),
    "moov of 64 bits": lambda f: _raw(
        f, "moov", lambda w: b"\0\0\0\1moov" + struct.pack(">Q", len(w) + 8) + w[8:]),
    "free everywhere": lambda f: _insert_everywhere(f, "free"),
    "uuid everywhere": lambda f: _insert_everywhere(f, "uuid"),
    "mdat of 64 bits": _large_sizes,
    "two mdats": _several_mdats,
    "garbage at the end": lambda f: setattr(f, "tail", b"\xff" * 1000),
    "zeros at the end": lambda f: setattr(f, "tail", bytes(1000)),
    "ftyp missing": _without_ftyp,
    # Tracks
    "two video tracks": lambda f: _duplicate_track(f, "vide"),
    "two sound tracks": lambda f: _duplicate_track(f, "soun"),
    "mvhd: timescale 0": lambda f: _mvhd_timescale(f, 0),
    "mvhd: timescale 1": lambda f: _mvhd_timescale(f, 1),
    "mvhd: timescale 44100": lambda f: _mvhd_timescale(f, 44100),
}  # fmt: skip


def edited(seed: bytes) -> Iterator[Variant]:
    """Each edit of a seed, and the seed with its moov first, truncated at 50, 90 and 99 %."""
    for name, edit in EDITS.items():
        film = Film(seed)
        edit(film)
        yield Variant(name, film.dump())
    film = Film(seed)
    moov_first(film)
    data = film.dump()
    for percent in (50, 90, 99):
        yield Variant(f"moov first, cut at {percent} %", data[: len(data) * percent // 100])


def mixed(seed: bytes, count: int, random_seed: int) -> Iterator[Variant]:
    """Random combinations of two to four edits of a seed."""
    random = Random(random_seed)
    written = 0
    while written < count:
        names = random.sample(list(EDITS), random.randint(2, 4))
        film = Film(seed)
        try:
            for name in names:
                EDITS[name](film)
            data = film.dump()
        except (StopIteration, IndexError, ValueError, struct.error):
            continue  # these edits cannot be combined
        written += 1
        yield Variant(" + ".join(names), data)
