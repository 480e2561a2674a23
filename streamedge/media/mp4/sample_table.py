"""The sample table of one MP4 track: where every sample is and when it is decoded.

Converts the boxes of ``stbl`` (ISO/IEC 14496-12 §8.6 and §8.7) to numpy arrays without a Python
loop over samples. Times stay in the track's timescale.

Tables that contradict each other are read as FFmpeg's demuxer reads them: what names a sample that
does not exist is ignored, a time table that is too short goes on with its last value, and chunks
decide how many samples there are. Every count is checked against the bytes that are there, and
every table is cut to the number of samples, before anything of its size is allocated: a few wrong
bytes cannot cause gigabytes to be allocated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamedge.errors import MediaError, MediaFault
from streamedge.media.faults import invalid
from streamedge.media.mp4 import boxes

SAMPLES_MAX = 6_000_000  # of all played tracks; a day at 25 pictures/s with AAC has 5.9 million
REPAIRED_ENTRIES_MAX = 1 << 16  # of a table that must be repaired entry by entry

# A duration above this, as an unsigned number, is a negative correction.
_DURATION_MAX = (1 << 32) - 1 - 48000 * 10
# A composition offset beyond this makes the whole table worthless.
_COMPOSITION_MAX = 1 << 28

Int64Array = NDArray[np.int64]
UInt32Array = NDArray[np.uint32]
BoolArray = NDArray[np.bool_]


class TooManySamplesError(MediaError):
    """The index of a file would take more memory than it may."""


@dataclass(frozen=True, slots=True, eq=False)
class SampleTable:
    """One entry for each sample, in decoding order; all arrays have the same length.

    ``dts`` starts at 0 and ``end`` is the dts after the last sample; both, and ``composition``
    (pts - dts), count in the track's timescale. ``offset`` is the position in the file; a sample
    may lie past the file's end. ``description`` is the number of its sample description, from 0.
    Decoding times have to move back by ``decode_shift`` so that nothing is shown before it is
    decoded; ``composed`` is how many samples ``ctts`` covers.
    """

    offset: Int64Array
    size_bytes: UInt32Array
    dts: Int64Array
    composition: Int64Array
    is_sync: BoolArray
    description: UInt32Array
    end: int
    decode_shift: int
    composed: int
    is_overfull: bool  # the chunks would hold more samples than there are
    knows_sync: bool  # False: ``stss`` is there and names none, so ``is_sync`` is a guess

    @property
    def count(self) -> int:
        return len(self.offset)

    def only(self, keep: BoolArray) -> SampleTable:
        """The samples that ``keep`` marks."""
        return SampleTable(
            self.offset[keep],
            self.size_bytes[keep],
            self.dts[keep],
            self.composition[keep],
            self.is_sync[keep],
            self.description[keep],
            self.end,
            self.decode_shift,
            int(np.count_nonzero(keep[: self.composed])),
            self.is_overfull,
            self.knows_sync,
        )


def read_sample_table(
    stbl: memoryview, *, always_sync: bool, samples_max: int = SAMPLES_MAX
) -> SampleTable:
    """Reads the tables in the content of an ``stbl`` box.

    ``always_sync``: every sample can be decoded alone (audio), whatever ``stss`` says.
    There are as many samples as the chunks hold, at most as many as there are sizes. Raises
    MediaError STRUCTURE_INVALID when tables are missing or cut off, TooManySamplesError beyond
    ``samples_max``.
    """
    chunk_offset = _chunk_offsets(stbl)
    per_chunk, chunk_description = _chunks(stbl, len(chunk_offset))
    capacity = int(per_chunk.sum(dtype=np.uint64))
    size_bytes = _sizes(stbl, capacity, samples_max)
    count = len(size_bytes)
    in_chunk = _limited(per_chunk, count)
    durations = _durations(boxes.require(stbl, "stts"), count)
    composition, decode_shift, composed = _composition(boxes.find(stbl, "ctts"), count)
    dts = np.cumsum(durations)
    sync = None if always_sync else _sync(stbl, count)
    return SampleTable(
        offset=_offsets(chunk_offset, in_chunk, size_bytes),
        size_bytes=size_bytes,
        dts=dts - durations,
        composition=composition,
        is_sync=np.ones(count, np.bool_) if sync is None else sync,
        description=np.repeat(chunk_description, in_chunk),
        end=int(dts[-1]) if count else 0,
        decode_shift=decode_shift,
        composed=composed,
        is_overfull=capacity > count,
        knows_sync=sync is not None or always_sync,
    )


def _entries(content: memoryview, name: str, position: int, fields: int) -> NDArray[np.uint32]:
    """The (count, fields) table of big-endian words whose 32-bit count stands at ``position``."""
    if len(content) < position + 4:
        raise invalid(f"the MP4's {name} table is cut off")
    count = int.from_bytes(content[position : position + 4], "big")
    position += 4
    if count * fields * 4 > len(content) - position:
        raise invalid(f"the MP4's {name} table claims {count} entries, more than it holds")
    words = np.frombuffer(content, ">u4", count * fields, position)
    return words.astype(np.uint32).reshape(count, fields)


def _sizes(stbl: memoryview, capacity: int, samples_max: int) -> UInt32Array:
    """Sample sizes from ``stsz`` or the compact ``stz2``; at most ``capacity`` of them."""
    content = boxes.find(stbl, "stsz")
    compact = content is None
    if content is None:
        content = boxes.require(stbl, "stz2")
    if len(content) < 12:
        raise invalid("the MP4's table of sample sizes is cut off")
    word = int.from_bytes(content[4:8], "big")
    count = int.from_bytes(content[8:12], "big")
    if not compact and word:
        return np.full(_allowed(min(count, capacity), samples_max), word, np.uint32)
    bits = word & 0xFF if compact else 32
    if bits not in (4, 8, 16, 32):
        raise invalid(f"the MP4 has sample sizes of {bits} bits")
    if (count * bits + 7) // 8 > len(content) - 12:
        raise invalid(f"the MP4's table of sample sizes claims {count} entries, more than it holds")
    count = _allowed(min(count, capacity), samples_max)
    if bits == 4:
        pairs = np.frombuffer(content, np.uint8, (count + 1) // 2, 12)
        return np.stack((pairs >> 4, pairs & 15), axis=1).reshape(-1)[:count].astype(np.uint32)
    return np.frombuffer(content, f">u{bits // 8}", count, 12).astype(np.uint32)


def _allowed(count: int, samples_max: int) -> int:
    if count > samples_max:
        raise TooManySamplesError(
            MediaFault.STRUCTURE_INVALID,
            f"the MP4 has {count} samples, over the limit of {samples_max} that is left for it:"
            " its index would take too much memory (limits.media_index)",
        )
    return count


def _limited(counts: NDArray[np.uint32] | Int64Array, limit: int) -> Int64Array:
    """``counts`` cut off where their sum reaches ``limit``, so that the sum is at most that."""
    ends = np.minimum(np.cumsum(np.minimum(counts, limit), dtype=np.int64), limit)
    limited: Int64Array = np.diff(ends, prepend=0)
    return limited


def _durations(stts: memoryview, samples: int) -> Int64Array:
    """Expands ``stts`` to a duration for each sample; its last entry holds for all that follow."""
    table = _entries(stts, "stts", 4, 2)
    if len(table) == 0:
        if samples:
            raise invalid("the MP4's stts table is empty")
        return np.zeros(0, np.int64)
    # An entry for no samples is never used up.
    endless = np.flatnonzero(table[:, 0] == 0)
    if len(endless):
        table = table[: int(endless[0]) + 1]
    durations = _corrected_durations(table)
    counts = _limited(table[:, 0], samples)
    counts[-1] += samples - int(counts.sum())
    return np.repeat(durations, counts)


def _corrected_durations(table: UInt32Array) -> Int64Array:
    """Durations of an ``stts`` table's entries.

    Some writers put a negative number where decoding times have to fall back. A time never falls,
    so that entry takes 1, and the entries after it give back what was too much.
    """
    durations = table[:, 1].astype(np.int64)
    odd = np.flatnonzero(durations > _DURATION_MAX)
    if len(odd) == 0:
        return durations
    first = int(odd[0])
    if len(table) - first > REPAIRED_ENTRIES_MAX:
        raise invalid("the MP4's stts table is damaged: it has impossible durations")
    wanted = actual = 0  # decoding time from the first odd entry on
    for entry in range(first, len(table)):
        count, duration = int(table[entry, 0]), int(durations[entry])
        if duration > _DURATION_MAX:
            wanted += (duration - (1 << 32)) * count
            duration = 1
        else:
            wanted += duration * count
        actual += duration * count
        if actual > wanted:
            drift = (actual - wanted) // max(count, 1)
            correction = min(drift, max(0, duration - 1))
            actual -= correction * count
            duration -= correction
        durations[entry] = duration
    return durations


def _composition(ctts: memoryview | None, samples: int) -> tuple[Int64Array, int, int]:
    """(pts - dts of each sample, by how much decoding is to move back, samples covered).

    Version 0 says unsigned, yet writers put negative offsets there as well; 2^31 units of a real
    offset do not occur. A sample that the table does not reach is shown when it is decoded.
    """
    none = np.zeros(samples, np.int64), 0, 0
    if ctts is None:
        return none
    table = _entries(ctts, "ctts", 4, 2)
    offsets = table[:, 1].astype(np.int32).astype(np.int64)
    # Writers leave odd values in the last two entries, which say nothing about the others.
    telling = offsets[: max(0, len(offsets) - 2)]
    if len(telling) and int(np.abs(telling).max()) > _COMPOSITION_MAX:
        return none
    used = (table[:, 0] > 0) & (table[:, 0] < 1 << 31)
    shift = max(0, -int(telling[used[: len(telling)]].min(initial=0)))
    counts = _limited(table[used, 0], samples)
    composed = int(counts.sum())
    if composed == 0:
        return none
    composition = np.full(samples, -shift, np.int64)
    composition[:composed] = np.repeat(offsets[used], counts)
    return composition, shift, composed


def _sync(stbl: memoryview, count: int) -> BoolArray | None:
    """Flags from ``stss`` and QuickTime's ``stps``; None when they name no sample that exists.

    Without ``stss`` all samples are sync samples.
    """
    flags = np.zeros(count, np.bool_)
    stss = boxes.find(stbl, "stss")
    if stss is None:
        return np.ones(count, np.bool_)
    numbers = _entries(stss, "stss", 4, 1)[:, 0].astype(np.int64)
    stps = boxes.find(stbl, "stps")
    if stps is not None:
        numbers = np.concatenate((numbers, _entries(stps, "stps", 4, 1)[:, 0].astype(np.int64)))
    if len(numbers) and numbers.min() == 0 and not np.any(numbers == 1):
        numbers += 1  # a writer that counts from 0
    flags[numbers[(numbers >= 1) & (numbers <= count)] - 1] = True
    return flags if flags.any() else None


def _offsets(chunk_offset: Int64Array, in_chunk: Int64Array, size_bytes: UInt32Array) -> Int64Array:
    """Position of each sample: its chunk's, plus the samples before it there."""
    if len(size_bytes) == 0:
        return np.zeros(0, np.int64)
    before = np.cumsum(size_bytes, dtype=np.int64) - size_bytes
    first_in_chunk = np.cumsum(in_chunk) - in_chunk
    # A chunk past the last sample has no first sample; it is repeated 0 times below.
    before_chunk = before[np.minimum(first_in_chunk, len(before) - 1)]
    offset: Int64Array = np.repeat(chunk_offset - before_chunk, in_chunk) + before
    return offset


def _chunk_offsets(stbl: memoryview) -> Int64Array:
    """Chunk positions from ``stco`` or ``co64``."""
    content = boxes.find(stbl, "stco")
    if content is not None:
        return _entries(content, "stco", 4, 1)[:, 0].astype(np.int64)
    words = _entries(boxes.require(stbl, "co64"), "co64", 4, 2).astype(np.int64)
    # A position past 2^62 is past the end of any file.
    return np.minimum(words[:, 0], 1 << 30) << 32 | words[:, 1]


def _chunks(stbl: memoryview, chunks: int) -> tuple[UInt32Array, UInt32Array]:
    """Expands ``stsc`` (first chunk, samples in each, description): both for each chunk."""
    table = _entries(boxes.require(stbl, "stsc"), "stsc", 4, 3).astype(np.int64)
    if chunks == 0:
        return np.zeros(0, np.uint32), np.zeros(0, np.uint32)
    if len(table) == 0:
        raise invalid("the MP4's stsc table is empty")
    first_chunk = table[:, 0]
    in_order = np.all(np.diff(first_chunk) > 0) and first_chunk[0] >= 1
    if not (in_order and np.all(table[:, 1:] >= 1)):
        table = _repaired_chunks(table)
        first_chunk = table[:, 0]
    table = table[first_chunk <= chunks]
    if len(table) == 0:
        raise invalid("the MP4's stsc table names no chunk that exists")
    # The first entry holds for the chunks before it too.
    starts = np.concatenate(([1], table[1:, 0]))
    runs = np.diff(starts, append=chunks + 1)
    return (
        np.repeat(np.minimum(table[:, 1], (1 << 32) - 1).astype(np.uint32), runs),
        np.repeat((table[:, 2] - 1).astype(np.uint32), runs),
    )


def _repaired_chunks(table: Int64Array) -> Int64Array:
    """``stsc`` with entries that make no sense replaced by the ones after them."""
    if len(table) > REPAIRED_ENTRIES_MAX:
        raise invalid("the MP4's stsc table does not number its chunks in order")
    rows: list[list[int]] = table.tolist()
    for at in range(len(rows) - 1, -1, -1):
        first, count, description = rows[at]
        before = rows[at - 1][0] if at else 0
        is_last = at + 1 == len(rows)
        in_order = before < first and (is_last or first < rows[at + 1][0])
        if in_order and first >= at + 1 and count >= 1 and description >= 1:
            continue
        if not is_last:
            rows[at] = [rows[at + 1][0] - 1, rows[at + 1][1], rows[at + 1][2]]
        elif count == 0 and at:
            del rows[at]
        else:
            rows[at] = [max(first, at + 1, before + 1), max(count, 1), max(description, 1)]
    # Two entries for one chunk: the later one holds.
    kept = [row for row, after in zip(rows, [*rows[1:], [1 << 33, 0, 0]], strict=True)
            if row[0] < after[0]]  # fmt: skip
    return np.array(kept, np.int64)
