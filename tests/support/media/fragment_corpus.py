"""Fragmented MP4s that other players accept: edits of a film whose fragments are ``moof`` based.

Edits keep the sizes of boxes, so that positions stay right.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple


class Variant(NamedTuple):
    name: str
    data: bytes


def _positions(data: bytes, box_type: bytes) -> list[int]:
    """The positions of the contents of all boxes of a type."""
    positions, at = [], data.find(box_type)
    while at >= 0:
        positions.append(at + 4)
        at = data.find(box_type, at + 4)
    return positions


def _fragments(data: bytes) -> list[tuple[int, int]]:
    """The start and end of each fragment."""
    starts = [at - 8 for at in _positions(data, b"moof")]
    end = data.find(b"mfra") - 4
    return list(zip(starts, [*starts[1:], end if end > 0 else len(data)], strict=True))


def _renamed(data: bytes, box_type: bytes, every: int = 1) -> bytes:
    """Boxes of a type get a type that does not exist."""
    edited = bytearray(data)
    for at in _positions(data, box_type)[::every]:
        edited[at - 4 : at] = b"xxxx"
    return bytes(edited)


def _without(data: bytes, number: int) -> bytes:
    start, end = _fragments(data)[number]
    return data[:start] + data[end:]


def _with_times(data: bytes, change: Callable[[int, int], int]) -> bytes:
    """``change`` is given the number of a tfdt and its time."""
    edited = bytearray(data)
    for number, at in enumerate(_positions(data, b"tfdt")):
        (time,) = struct.unpack_from(">Q", data, at + 4)
        struct.pack_into(">Q", edited, at + 4, change(number, time))
    return bytes(edited)


def _with_edit(data: bytes, *, duration: int | None, media_time: int) -> bytes:
    """Changes the last entry of each edit list."""
    edited = bytearray(data)
    for at in _positions(data, b"elst"):
        last = at + 8 + 12 * (int.from_bytes(data[at + 4 : at + 8]) - 1)
        if duration is not None:
            struct.pack_into(">I", edited, last, duration)
        struct.pack_into(">i", edited, last + 4, media_time)
    return bytes(edited)


def _with_words(data: bytes, box_type: bytes, word: int, value: int) -> bytes:
    edited = bytearray(data)
    for at in _positions(data, box_type):
        struct.pack_into(">I", edited, at + 4 * word, value)
    return bytes(edited)


def edited(seed: bytes) -> Iterator[Variant]:
    """``seed`` has several fragments of two tracks, and times of version 1."""
    fragments = _fragments(seed)
    yield Variant("unchanged", seed)
    yield Variant("no mfra", seed[: fragments[-1][1]])
    yield Variant("no times", _renamed(seed, b"tfdt"))
    yield Variant("every third time is missing", _renamed(seed, b"tfdt", 3))
    yield Variant("no sidx", _renamed(seed, b"sidx"))
    yield Variant("no edit list", _renamed(seed, b"elst"))
    yield Variant("first fragment is missing", _without(seed, 0))
    yield Variant("third fragment is missing", _without(seed, 2))
    yield Variant("fragment twice", seed[: fragments[2][0]] + seed[fragments[1][0] :])
    yield Variant("cut in the last fragment", seed[: fragments[-1][0] + 20])
    yield Variant("cut in the media", seed[: (fragments[-2][0] + fragments[-2][1]) // 2])
    yield Variant("late start", _with_times(seed, lambda _, time: time + 900_000))
    yield Variant("gap", _with_times(seed, lambda number, time: time + 90_000 * (number >= 4)))
    yield Variant("edit with media time 0", _with_edit(seed, duration=None, media_time=0))
    yield Variant("edit with media time 512", _with_edit(seed, duration=None, media_time=512))
    yield Variant("edit with a short duration", _with_edit(seed, duration=1000, media_time=0))
    yield Variant("default duration of trex", _with_words(seed, b"trex", 3, 512))
    yield Variant("garbage between", seed[: fragments[2][0]] + b"\0\0\0\x10free" + bytes(8)
                  + seed[fragments[2][0] :])  # fmt: skip
