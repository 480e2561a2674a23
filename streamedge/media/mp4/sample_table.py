"""The sample table of one MP4 track: the position, size and times of each sample.

Converts the boxes of ``stbl`` (ISO/IEC 14496-12 §8.6 and §8.7) to numpy arrays without a Python
loop over samples. Times stay in the track's timescale.

Tables that contradict each other are read as FFmpeg's demuxer reads them: an entry for a sample
that does not exist is ignored, a time table that is too short continues with its last value, and
the chunks decide the number of samples. Every count is checked against the size of its box, and
every table is cut to the number of samples, before memory is allocated: a few wrong bytes cannot
cause gigabytes to be allocated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamedge.errors import MediaError, MediaFault
from streamedge.media.faults import invalid
from streamedge.media.mp4 import boxes

SAMPLES_MAX = 6_000_000  # of all played tracks; a day at 25 frames/s with AAC has 5.9 million
REPAIRED_ENTRIES_MAX = 1 << 16  # of a table that must be repaired entry by entry

# A duration above this, as an unsigned number, is a negative correction.
_DURATION_MAX = (1 << 32) - 1 - 48000 * 10
# With a composition offset beyond this, the whole table is ignored.
COMPOSITION_MAX = 1 << 28

Int64Array = NDArray[np.int64]
UInt32Array = NDArray[np.uint32]
BoolArray = NDArray[np.bool_]


class TooManySamplesError(MediaError):
    """The index of a file would take more memory than allowed."""


@dataclass(frozen=True, slots=True, eq=False)
class SampleTable:
    """One entry for each sample, in decoding order; all arrays have the same length.

    ``dts`` starts at 0 and ``end`` is the dts after the last sample; both, and ``composition`` (pts
    minus dts), are in the track's timescale. ``offset`` is the position in the file; a sample may
    lie past the file's end. ``description`` is the number of its sample description, from 0.
    Decoding times must be shifted back by ``decode_shift`` so that no sample is shown before it is
    decoded; ``composed`` is the number of samples that ``ctts`` covers.
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
    is_overfull: bool  # the chunks could hold more samples than there are
    has_sync_flags: bool  # False: ``stss`` lists no sample, so ``is_sync`` is a guess

    @property
    def count(self) -> int:
        return len(self.offset)

    def only(self, mask: BoolArray) -> SampleTable:
        """The samples where ``mask`` is True."""
        return SampleTable(
            self.offset[mask],
            self.size_bytes[mask],
            self.dts[mask],
            self.composition[mask],
            self.is_sync[mask],
            self.description[mask],
            self.end,
            self.decode_shift,
            int(np.count_nonzero(mask[: self.composed])),
            self.is_overfull,
            self.has_sync_flags,
        )


def read_sample_table(
    stbl: memoryview, *, always_sync: bool, samples_max: int = SAMPLES_MAX
) -> SampleTable:
    """Reads the tables in the content of an ``stbl`` box.

    ``always_sync``: every sample can be decoded alone (audio), and ``stss`` is ignored. The number
    of samples is that of the chunks, at most that of the sizes. Raises MediaError STRUCTURE_INVALID
    when tables are missing or cut off, TooManySamplesError beyond ``samples_max``.
    """
    chunk_offset = _chunk_offsets(stbl)
    per_chunk, chunk_description = _chunks(stbl, len(chunk_offset))
    capacity = int(per_chunk.sum(dtype=np.uint64))
    size_bytes = _sizes(stbl, capacity, samples_max)
    count = len(size_bytes)
    in_chunk = _clip_counts(per_chunk, count)
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
        has_sync_flags=sync is not None or always_sync,
    )


def _entries(content: memoryview, name: str, position: int, fields: int) -> NDArray[np.uint32]:
    """The (count, fields) table of big-endian words after the 32-bit count at ``position``."""
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
        return np.full(check_limit(min(count, capacity), samples_max), word, np.uint32)
    bits = word & 0xFF if compact else 32
    if bits not in (4, 8, 16, 32):
        raise invalid(f"the MP4 has sample sizes of {bits} bits")
    if (count * bits + 7) // 8 > len(content) - 12:
        raise invalid(f"the MP4's table of sample sizes claims {count} entries, more than it holds")
    count = check_limit(min(count, capacity), samples_max)
    if bits == 4:
        pairs = np.frombuffer(content, np.uint8, (count + 1) // 2, 12)
        return np.stack((pairs >> 4, pairs & 15), axis=1).reshape(-1)[:count].astype(np.uint32)
    return np.frombuffer(content, f">u{bits // 8}", count, 12).astype(np.uint32)


def check_limit(count: int, samples_max: int) -> int:
    """``count``; raises TooManySamplesError beyond ``samples_max``."""
    if count > samples_max:
        raise TooManySamplesError(
            MediaFault.STRUCTURE_INVALID,
            f"the MP4 has {count} samples, over the limit of {samples_max} that remains for it:"
            " its index would take too much memory (limits.media_index)",
        )
    return count


def _clip_counts(counts: NDArray[np.uint32] | Int64Array, limit: int) -> Int64Array:
    """``counts`` cut off where their sum reaches ``limit``, so that it is at most ``limit``."""
    ends = np.minimum(np.cumsum(np.minimum(counts, limit), dtype=np.int64), limit)
    clipped: Int64Array = np.diff(ends, prepend=0)
    return clipped


def _durations(stts: memoryview, samples: int) -> Int64Array:
    """Expands ``stts`` to a duration for each sample; its last entry applies to all that follow."""
    table = _entries(stts, "stts", 4, 2)
    if len(table) == 0:
        if samples:
            raise invalid("the MP4's stts table is empty")
        return np.zeros(0, np.int64)
    # An entry for 0 samples applies to all samples that follow.
    last_entries = np.flatnonzero(table[:, 0] == 0)
    if len(last_entries):
        table = table[: int(last_entries[0]) + 1]
    durations = _corrected_durations(table)
    counts = _clip_counts(table[:, 0], samples)
    counts[-1] += samples - int(counts.sum())
    return np.repeat(durations, counts)


def _corrected_durations(table: UInt32Array) -> Int64Array:
    """Durations of an ``stts`` table's entries.

    Some writers put a negative number where decoding times should go back. A time never goes back,
    so such an entry gets the duration 1, and the entries after it are shortened until the times are
    right again.
    """
    durations = table[:, 1].astype(np.int64)
    odd = np.flatnonzero(durations > _DURATION_MAX)
    if len(odd) == 0:
        return durations
    first = int(odd[0])
    if len(table) - first > REPAIRED_ENTRIES_MAX:
        raise invalid("the MP4's stts table is damaged: it has impossible durations")
    expected = actual = 0  # decoding time from the first odd entry on
    for entry in range(first, len(table)):
        count, duration = int(table[entry, 0]), int(durations[entry])
        if duration > _DURATION_MAX:
            expected += (duration - (1 << 32)) * count
            duration = 1
        else:
            expected += duration * count
        actual += duration * count
        if actual > expected:
            drift = (actual - expected) // max(count, 1)
            correction = min(drift, max(0, duration - 1))
            actual -= correction * count
            duration -= correction
        durations[entry] = duration
    return durations


def _composition(ctts: memoryview | None, samples: int) -> tuple[Int64Array, int, int]:
    """(pts - dts of each sample, the shift back of decoding times, number of samples covered).

    Offsets of version 0 are unsigned by the standard, but writers use negative ones as well; real
    offsets of 2^31 units do not occur. A sample that the table does not cover is shown when it is
    decoded.
    """
    none = np.zeros(samples, np.int64), 0, 0
    if ctts is None:
        return none
    table = _entries(ctts, "ctts", 4, 2)
    offsets = table[:, 1].astype(np.int32).astype(np.int64)
    # Some writers have invalid values in the last two entries, but valid ones in the others.
    reliable = offsets[: max(0, len(offsets) - 2)]
    if len(reliable) and int(np.abs(reliable).max()) > COMPOSITION_MAX:
        return none
    is_used = (table[:, 0] > 0) & (table[:, 0] < 1 << 31)
    shift = max(0, -int(reliable[is_used[: len(reliable)]].min(initial=0)))
    counts = _clip_counts(table[is_used, 0], samples)
    composed = int(counts.sum())
    if composed == 0:
        return none
    composition = np.full(samples, -shift, np.int64)
    composition[:composed] = np.repeat(offsets[is_used], counts)
    return composition, shift, composed


def _sync(stbl: memoryview, count: int) -> BoolArray | None:
    """Flags from ``stss`` and QuickTime's ``stps``; None when they list no sample that exists.

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
    """The position of each sample: that of its chunk, plus the sizes of the samples before it in
    the chunk.
    """
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
    """Expands ``stsc`` (first chunk, samples per chunk, description) to samples and description of
    each chunk.
    """
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
    # The first entry applies to the chunks before it too.
    starts = np.concatenate(([1], table[1:, 0]))
    runs = np.diff(starts, append=chunks + 1)
    return (
        np.repeat(np.minimum(table[:, 1], (1 << 32) - 1).astype(np.uint32), runs),
        np.repeat((table[:, 2] - 1).astype(np.uint32), runs),
    )


def _repaired_chunks(table: Int64Array) -> Int64Array:
    """``stsc`` with invalid entries replaced by the ones after them."""
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
    # Of two entries for one chunk, the later one applies.
    entries = [row for row, after in zip(rows, [*rows[1:], [1 << 33, 0, 0]], strict=True)
            if row[0] < after[0]]  # fmt: skip
    return np.array(entries, np.int64)
