"""Locates the ``moof`` boxes of a fragmented MP4, with few bytes read from between them.

The boxes of the file are a chain: the size of each leads to the next. A walk along one chain takes
a read for each fragment, one after the other. To walk along several parts of the file at once, the
positions of boxes in the middle are needed. ``sidx`` and ``mfra`` list such positions, and a search
for the bytes of a ``moof`` header suggests them where neither exists. No such hint is trusted: a
part counts only if the chain from before it ends exactly where it begins (``join``).

The functions are generators that yield the spans they need and are sent their bytes. No I/O.
Source: ISO/IEC 14496-12 §8.8.4 (moof), §8.8.9 (mfra), §8.16.3 (sidx).
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Generator, Mapping
from typing import NamedTuple

from streamedge.errors import MediaError
from streamedge.media.faults import invalid
from streamedge.media.mp4 import boxes
from streamedge.media.mp4.fragments import Moof
from streamedge.spans import Span

WINDOW_ALIGNMENT_BYTES = 64 << 10  # a read ends at such a position: the cache fetches whole chunks
WINDOW_MIN_BYTES = 4 << 10  # holds the headers of most fragments
BOXES_MAX = 1 << 20  # at the top level of a file; a low-latency recording has two for each frame
READS_MAX = 1 << 16  # of windows, for one file
HINTS_MAX = 1 << 16
INDEX_BYTES_MAX = 4 << 20  # of sidx and mfra boxes
SEARCH_WINDOW_BYTES = 256 << 10
SEARCH_BYTES_MAX = 8 << 20  # searched for one hint

_MOOF = re.compile(rb"moof\x00\x00\x00\x10mfhd", re.DOTALL)
_MOOF_SIZE_MAX_BYTES = 16 << 20


class Budget:
    """What remains of the limits for one file. Its methods raise MediaError beyond them."""

    def __init__(self, moof_bytes: int) -> None:
        self._limit_bytes = moof_bytes
        self._moof_bytes = moof_bytes
        self._boxes = BOXES_MAX
        self._reads = READS_MAX

    def spend_moof(self, size_bytes: int) -> None:
        self._moof_bytes -= size_bytes
        if self._moof_bytes < 0:
            raise invalid(
                f"the MP4's fragments have an index of over {self._limit_bytes} bytes (limits.moov)"
            )

    def spend_box(self) -> None:
        self._boxes -= 1
        if self._boxes < 0:
            raise invalid(f"the MP4 has over {BOXES_MAX} boxes")

    def spend_read(self) -> None:
        self._reads -= 1
        if self._reads < 0:
            raise invalid(f"the index of the fragmented MP4 takes over {READS_MAX} reads")


class Section(NamedTuple):
    """The moofs from one position on. ``end`` is the start of the first box after the section, or
    None if the file ends or is damaged before; ``fault`` then says why, "" if it is whole.
    """

    moofs: tuple[Moof, ...]
    end: int | None
    fault: str = ""


class Start(NamedTuple):
    """The boxes before the first moof: its position (None: there is none), the positions that
    ``sidx`` boxes list, and the last of them's end.
    """

    first_moof: int | None
    hints: tuple[int, ...] = ()
    listed_end: int = 0


class _Window:
    """The bytes that were read last."""

    def __init__(self, file_size_bytes: int, budget: Budget) -> None:
        self._file_size_bytes = file_size_bytes
        self._budget = budget
        self._span = Span(0, 0)
        self._data = memoryview(b"")

    def at(self, position: int, size_bytes: int) -> Generator[Span, bytes, memoryview]:
        """The bytes at a position; those in the file, if it ends before."""
        needed = Span(position, min(position + size_bytes, self._file_size_bytes))
        if not self._span.contains(needed):
            self._budget.spend_read()
            wide = Span(position, max(needed.end, position + WINDOW_MIN_BYTES))
            end = min(wide.align(WINDOW_ALIGNMENT_BYTES).end, self._file_size_bytes)
            self._span = Span(position, end)
            self._data = memoryview((yield self._span))
            if len(self._data) != self._span.size:
                raise invalid("the MP4 is cut off: the file is shorter than its stated size")
        at = position - self._span.start
        return self._data[at : at + needed.size]


def read_start(
    file_size_bytes: int, position: int, budget: Budget
) -> Generator[Span, bytes, Start]:
    """Reads the boxes from ``position`` (after moov) to the first moof."""
    window = _Window(file_size_bytes, budget)
    hints: list[int] = []
    listed_end = 0
    while position + boxes.HEADER_SIZE_BYTES <= file_size_bytes:
        header = yield from _header(window, position, file_size_bytes, budget)
        if header is None:
            break
        if header.type == "moof":
            return Start(position, tuple(hints), listed_end)
        end = position + header.size_bytes
        if header.type == "sidx" and header.size_bytes <= INDEX_BYTES_MAX:
            data = yield from window.at(position, header.size_bytes)
            starts = parse_sidx(data[header.header_size_bytes :], end)
            hints += starts[:-1][: HINTS_MAX - len(hints)]
            listed_end = max([listed_end, *starts[-1:]])
        position = end
    return Start(None)


def walk_section(
    file_size_bytes: int, section: Span, budget: Budget
) -> Generator[Span, bytes, Section]:
    """Reads the moofs among the boxes that begin in ``section``."""
    window = _Window(file_size_bytes, budget)
    moofs: list[Moof] = []
    position = section.start
    while position < section.end:
        if position + boxes.HEADER_SIZE_BYTES > file_size_bytes:
            return Section(tuple(moofs), None)
        header = yield from _header(window, position, file_size_bytes, budget)
        if header is None:
            return Section(
                tuple(moofs), None, f"damaged at byte {position}: the rest is not played"
            )
        end = position + header.size_bytes
        if header.type == "moof":
            if end > file_size_bytes:
                return Section(tuple(moofs), None, "cut off in its last fragment")
            budget.spend_moof(header.size_bytes)
            data = yield from window.at(position, header.size_bytes)
            moofs.append(Moof(position, bytes(data[header.header_size_bytes :])))
        position = end
    return Section(tuple(moofs), position)


def read_mfra(file_size_bytes: int, budget: Budget) -> Generator[Span, bytes, tuple[int, ...]]:
    """The positions of moofs that the box at the end of the file lists; none without it."""
    window = _Window(file_size_bytes, budget)
    tail_start = max(0, file_size_bytes - 16)
    tail = yield from window.at(tail_start, 16)
    if len(tail) < 16 or bytes(tail[4:8]) != b"mfro":
        return ()
    size_bytes = int.from_bytes(tail[12:16], "big")
    if not 24 <= size_bytes <= min(INDEX_BYTES_MAX, file_size_bytes):
        return ()
    mfra = yield from window.at(file_size_bytes - size_bytes, size_bytes)
    try:
        return parse_mfra(mfra)
    except MediaError:
        return ()


def search_moof(span: Span, budget: Budget) -> Generator[Span, bytes, int | None]:
    """The first position in a span that looks like the start of a moof, or None.

    Gives up after SEARCH_BYTES_MAX.
    """
    overlap = b""
    position = span.start
    end = min(span.end, span.start + SEARCH_BYTES_MAX)
    while position < end:
        budget.spend_read()
        window = Span(position, min(end, position + SEARCH_WINDOW_BYTES))
        data = overlap + (yield window)
        start = position - len(overlap)
        for match in _MOOF.finditer(data):
            size_at = match.start() - 4
            if size_at >= 0:
                size_bytes = int.from_bytes(data[size_at : size_at + 4], "big")
                if 24 <= size_bytes <= _MOOF_SIZE_MAX_BYTES:
                    return start + size_at
        overlap = data[-20:]
        position = window.end
    return None


def parse_sidx(content: memoryview, end: int) -> list[int]:
    """The start of each part that a ``sidx`` box lists, and the end of the last one.

    ``end`` is the end of the box in the file. A damaged box lists none.
    """
    is_long = len(content) > 0 and content[0] == 1
    at = 28 if is_long else 20
    if len(content) < at + 4:
        return []
    first = content[20:28] if is_long else content[16:20]
    position = end + int.from_bytes(first, "big")
    count = int.from_bytes(content[at + 2 : at + 4], "big")
    count = min(count, (len(content) - at - 4) // 12)
    starts = [position]
    for entry in range(at + 4, at + 4 + 12 * count, 12):
        position += int.from_bytes(content[entry : entry + 4], "big") & 0x7FFFFFFF
        starts.append(position)
    return starts


def parse_mfra(data: memoryview) -> tuple[int, ...]:
    """The positions of moofs in the ``tfra`` boxes of an ``mfra`` box, sorted."""
    header = boxes.parse_header(data, len(data))
    if header.type != "mfra":
        return ()
    positions: set[int] = set()
    for box in boxes.walk(data[header.header_size_bytes :]):
        content = box.content
        if box.type != "tfra" or len(content) < 16:
            continue
        word = 8 if content[0] == 1 else 4
        lengths = content[11]
        numbers = (lengths >> 4 & 3) + (lengths >> 2 & 3) + (lengths & 3) + 3
        entry_size = 2 * word + numbers
        count = min(int.from_bytes(content[12:16], "big"), (len(content) - 16) // entry_size)
        for entry in range(16, 16 + count * entry_size, entry_size):
            at = entry + word
            positions.add(int.from_bytes(content[at : at + word], "big"))
            if len(positions) >= HINTS_MAX:
                return tuple(sorted(positions))
    return tuple(sorted(positions))


def split(first: int, hints: tuple[int, ...], file_size_bytes: int) -> list[Span]:
    """The sections from ``first`` to the end of the file, one for each hint."""
    later = sorted({hint for hint in hints if first < hint < file_size_bytes})
    starts = [first, *later[:HINTS_MAX]]
    return [Span(*bounds) for bounds in zip(starts, [*starts[1:], file_size_bytes], strict=True)]


def join(
    sections: Mapping[Span, Section | None], file_size_bytes: int, budget: Budget
) -> Generator[Span, bytes, Section]:
    """Joins the sections, in order, to one.

    A section that does not begin where the boxes before it end was a wrong hint: the boxes are read
    from there to the next section that does. None is a section that could not be read.
    """
    by_start = {span.start: section for span, section in sections.items()}
    starts = [*by_start, file_size_bytes]
    moofs: list[Moof] = []
    position = starts[0]
    while position < file_size_bytes:
        section = by_start.get(position)
        if section is None:
            end = starts[bisect.bisect_right(starts, position)]
            section = yield from walk_section(file_size_bytes, Span(position, end), budget)
        moofs += section.moofs
        if section.end is None:
            return Section(tuple(moofs), None, section.fault)
        position = section.end
    return Section(tuple(moofs), None)


def _header(
    window: _Window, position: int, file_size_bytes: int, budget: Budget
) -> Generator[Span, bytes, boxes.BoxHeader | None]:
    budget.spend_box()
    data = yield from window.at(position, boxes.LARGE_HEADER_SIZE_BYTES)
    return boxes.read_header(data, file_size_bytes - position)
