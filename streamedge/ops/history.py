"""The past of an edge in rings of fixed size: a row each second, ten seconds and minute.

A row holds sums and the number of samples in them, so a reader gets means. A row belongs to a slot
of time (``now // step``), which it names itself: rows of an earlier round count as gaps, whatever
happened to the clock or to the process that writes. The memory is the caller's; a process that
replaces another one goes on where it ended.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from streamedge.ops.samples import FIELDS

_SLOT, _COUNT, _SUMS = range(3)
_ROW = _SUMS + len(FIELDS)
DOUBLE_BYTES = 8


@dataclass(frozen=True, slots=True)
class Ring:
    """``rows`` rows of ``step_s`` seconds each."""

    name: str
    step_s: int
    rows: int


RINGS = (Ring("15m", 1, 900), Ring("6h", 10, 2160), Ring("7d", 60, 10_080))
HISTORY_BYTES = sum(ring.rows for ring in RINGS) * _ROW * DOUBLE_BYTES


@dataclass(frozen=True, slots=True)
class Series:
    """Rows of a ring, the oldest first; NaN where there was no sample.

    The first row begins at ``start_s``, seconds since 1970. ``columns`` are in the order of FIELDS.
    """

    step_s: int
    start_s: int
    columns: tuple[list[float], ...]


class History:
    """All rings, in ``memory``: HISTORY_BYTES, zero at first."""

    def __init__(self, memory: memoryview) -> None:
        doubles = memory.cast("d")
        self._rings: dict[str, tuple[Ring, memoryview[float]]] = {}
        start = 0
        for ring in RINGS:
            size = ring.rows * _ROW
            self._rings[ring.name] = ring, doubles[start : start + size]
            start += size

    def add(self, now_s: float, sample: Sequence[float]) -> None:
        """Adds a sample, with one value for each of FIELDS, to all rings."""
        for ring, words in self._rings.values():
            slot = now_s // ring.step_s
            row = int(slot) % ring.rows * _ROW
            if words[row + _SLOT] != slot:
                for place in range(row, row + _ROW):
                    words[place] = 0.0
                words[row + _SLOT] = slot
            words[row + _COUNT] += 1
            for place, value in enumerate(sample, row + _SUMS):
                words[place] += value

    def read(self, name: str, now_s: float) -> Series:
        """The rows of a ring, from its first sample to now. Raises KeyError for another name."""
        ring, words = self._rings[name]
        last = int(now_s // ring.step_s)
        slots = [
            slot
            for slot in range(max(1, last - ring.rows + 1), last + 1)
            if words[slot % ring.rows * _ROW + _SLOT] == slot
        ]
        if not slots:
            return Series(ring.step_s, last * ring.step_s, tuple([] for _field in FIELDS))
        first = slots[0]
        columns = tuple([math.nan] * (slots[-1] - first + 1) for _field in FIELDS)
        for slot in slots:
            row = slot % ring.rows * _ROW
            count = words[row + _COUNT]
            for column, place in zip(columns, range(row + _SUMS, row + _ROW), strict=True):
                column[slot - first] = words[place] / count
        return Series(ring.step_s, first * ring.step_s, columns)
