"""The sample table of one MP4 track: where every sample lies and when it is decoded.

Owns the boxes of ``stbl`` (ISO/IEC 14496-12 §8.6 and §8.7) and turns them into numpy arrays without
a Python loop over samples. Times stay in the track's timescale. Never chooses tracks.

Every count is checked against the bytes that are there, and every table is cut to the number of
samples, before anything of its size is allocated: a few lying bytes cannot ask for gigabytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamedge.media import boxes
from streamedge.media.faults import invalid

SAMPLES_MAX = 6_000_000  # of all played tracks; a day at 25 pictures/s with AAC has 5.9 million

Int64Array = NDArray[np.int64]
UInt32Array = NDArray[np.uint32]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class SampleTable:
    """One entry for each sample, in decoding order; all arrays have the same length.

    ``dts`` starts at 0 and ``end`` is the dts after the last sample; both, and ``composition``
    (pts - dts), count in the track's timescale. ``offset`` is the position in the file.
    """

    offset: Int64Array
    size_bytes: UInt32Array
    dts: Int64Array
    composition: Int64Array
    is_sync: BoolArray
    end: int

    @property
    def count(self) -> int:
        return len(self.offset)


def read_sample_table(
    stbl: memoryview, file_size_bytes: int, *, always_sync: bool, samples_max: int = SAMPLES_MAX
) -> SampleTable:
    """Reads the tables in the content of an ``stbl`` box.

    ``always_sync``: every sample can be decoded alone (audio), whatever ``stss`` says.
    Raises MediaError STRUCTURE_INVALID when tables are missing, contradict each other, exceed
    ``samples_max``, or when a sample lies outside the file.
    """
    size_bytes = _sizes(stbl, samples_max)
    count = len(size_bytes)
    durations = _runs(boxes.require(stbl, "stts"), "stts", count).astype(np.int64)
    ctts = boxes.find(stbl, "ctts")
    if ctts is None:
        composition = np.zeros(count, np.int64)
    else:
        # Version 0 says unsigned, yet writers put negative offsets there as well; 2^31 units of a
        # real offset do not occur.
        composition = _runs(ctts, "ctts", count).astype(np.int32).astype(np.int64)
    dts = np.cumsum(durations)
    end = int(dts[-1]) if count else 0
    return SampleTable(
        offset=_offsets(stbl, size_bytes, file_size_bytes),
        size_bytes=size_bytes,
        dts=dts - durations,
        composition=composition,
        is_sync=_sync(None if always_sync else boxes.find(stbl, "stss"), count),
        end=end,
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


def _sizes(stbl: memoryview, samples_max: int) -> UInt32Array:
    """Sample sizes from ``stsz`` or the compact ``stz2``."""
    content = boxes.find(stbl, "stsz")
    compact = content is None
    if content is None:
        content = boxes.require(stbl, "stz2")
    if len(content) < 12:
        raise invalid("the MP4's table of sample sizes is cut off")
    word = int.from_bytes(content[4:8], "big")
    count = int.from_bytes(content[8:12], "big")
    if count > samples_max:
        raise invalid(f"the MP4 has too many samples: over the limit of {SAMPLES_MAX}")
    if not compact and word:
        return np.full(count, word, np.uint32)
    bits = word & 0xFF if compact else 32
    if bits not in (4, 8, 16, 32):
        raise invalid(f"the MP4 has sample sizes of {bits} bits")
    if (count * bits + 7) // 8 > len(content) - 12:
        raise invalid(f"the MP4's table of sample sizes claims {count} entries, more than it holds")
    if bits == 4:
        pairs = np.frombuffer(content, np.uint8, (count + 1) // 2, 12)
        return np.stack((pairs >> 4, pairs & 15), axis=1).reshape(-1)[:count].astype(np.uint32)
    return np.frombuffer(content, f">u{bits // 8}", count, 12).astype(np.uint32)


def _limited(counts: NDArray[np.uint32], limit: int) -> Int64Array:
    """``counts`` cut off where their sum reaches ``limit``, so that the sum is at most that."""
    ends = np.minimum(np.cumsum(np.minimum(counts, limit), dtype=np.int64), limit)
    limited: Int64Array = np.diff(ends, prepend=0)
    return limited


def _runs(content: memoryview, name: str, samples: int) -> UInt32Array:
    """Expands a run-length table of (count, value) to one value for each sample."""
    table = _entries(content, name, 4, 2)
    counts = _limited(table[:, 0], samples)
    if int(counts.sum()) < samples:
        raise invalid(f"the MP4's {name} table covers fewer than its {samples} samples")
    return np.repeat(table[:, 1], counts)


def _sync(stss: memoryview | None, count: int) -> BoolArray:
    """Flags from ``stss``; without it every sample is a sync sample."""
    if stss is None:
        return np.ones(count, np.bool_)
    numbers = _entries(stss, "stss", 4, 1)[:, 0].astype(np.int64)
    if len(numbers) and not 1 <= int(numbers.min()) <= int(numbers.max()) <= count:
        raise invalid("the MP4's stss table names a sample that does not exist")
    flags = np.zeros(count, np.bool_)
    flags[numbers - 1] = True
    return flags


def _offsets(stbl: memoryview, size_bytes: UInt32Array, file_size_bytes: int) -> Int64Array:
    """Position of each sample: its chunk's, plus the samples before it in the chunk."""
    count = len(size_bytes)
    chunk_offset = _chunk_offsets(stbl, file_size_bytes)
    samples_in_chunk = _limited(_samples_per_chunk(stbl, len(chunk_offset)), count)
    if int(samples_in_chunk.sum()) < count:
        raise invalid(f"the MP4's chunks hold fewer than its {count} samples")
    if count == 0:
        return np.zeros(0, np.int64)
    before = np.cumsum(size_bytes, dtype=np.int64) - size_bytes
    first_in_chunk = np.cumsum(samples_in_chunk) - samples_in_chunk
    # A chunk past the last sample has no first sample; it is repeated 0 times below.
    before_chunk = before[np.minimum(first_in_chunk, count - 1)]
    offset: Int64Array = np.repeat(chunk_offset - before_chunk, samples_in_chunk) + before
    if int((offset + size_bytes).max()) > file_size_bytes:
        raise invalid("the MP4 is cut off: samples lie past the file's end")
    return offset


def _chunk_offsets(stbl: memoryview, file_size_bytes: int) -> Int64Array:
    """Chunk positions from ``stco`` or ``co64``, all inside the file."""
    content = boxes.find(stbl, "stco")
    if content is not None:
        offsets = _entries(content, "stco", 4, 1)[:, 0].astype(np.uint64)
    else:
        words = _entries(boxes.require(stbl, "co64"), "co64", 4, 2).astype(np.uint64)
        offsets = (words[:, 0] << np.uint64(32)) | words[:, 1]
    if len(offsets) and int(offsets.max()) > file_size_bytes:
        raise invalid("the MP4 is cut off: chunks lie past the file's end")
    return offsets.astype(np.int64)


def _samples_per_chunk(stbl: memoryview, chunks: int) -> UInt32Array:
    """Expands ``stsc`` (first chunk, samples in each, description) to a count for each chunk."""
    table = _entries(boxes.require(stbl, "stsc"), "stsc", 4, 3)
    table = table[table[:, 0] <= chunks]
    first_chunk = table[:, 0].astype(np.int64)
    if chunks and (len(table) == 0 or first_chunk[0] != 1 or np.any(np.diff(first_chunk) <= 0)):
        raise invalid("the MP4's stsc table does not number its chunks in order")
    if len(table) and np.any(table[:, 2] != table[0, 2]):
        raise invalid("an MP4 track changes its codec description on the way")
    return np.repeat(table[:, 1], np.diff(first_chunk, append=chunks + 1))
