"""The samples of a fragmented MP4: ``moof`` boxes along the file, and their defaults in ``mvex``.

Reads the boxes into runs of samples by track, and joins the runs of one track with its sample table
of ``moov``, which may be empty. Does no I/O.

Where the standard leaves a choice, this module does the same as FFmpeg's demuxer: of an edit list,
only the start applies; a fragment without ``tfdt`` continues the one before it; a sample is a
keyframe when its flags say neither "is no sync sample" nor "depends on others". A damaged track
fragment does not affect the others.
Source: ISO/IEC 14496-12 §8.8 (movie fragments).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from streamedge.errors import MediaError
from streamedge.media.faults import invalid
from streamedge.media.mp4 import boxes
from streamedge.media.mp4.edit_list import Edit, Edited
from streamedge.media.mp4.sample_table import (
    COMPOSITION_MAX,
    BoolArray,
    SampleTable,
    UInt32Array,
    check_limit,
)

RUNS_MAX = 1 << 20  # of a file; a low-latency recording has one for each frame
FAULTS_MAX = 8  # reported for one file

_BASE_DATA_OFFSET = 0x000001
_SAMPLE_DESCRIPTION = 0x000002
_DEFAULT_DURATION = 0x000008
_DEFAULT_SIZE = 0x000010
_DEFAULT_FLAGS = 0x000020
_DEFAULT_BASE_IS_MOOF = 0x020000

_DATA_OFFSET = 0x000001
_FIRST_SAMPLE_FLAGS = 0x000004
_DURATION = 0x000100
_SIZE = 0x000200
_FLAGS = 0x000400
_COMPOSITION = 0x000800

_IS_NO_SYNC_SAMPLE = 0x00010000
_DEPENDS_ON_OTHERS = 0x01000000

_TIME_MAX = 1 << 60
_NOWHERE = 1 << 61  # a position past the end of any file


class Moof(NamedTuple):
    """A movie fragment: its position in the file, and the bytes after its header."""

    position: int
    content: bytes


class Defaults(NamedTuple):
    """Values of samples that a fragment does not state; ``description`` counts from 1."""

    description: int
    duration: int
    size_bytes: int
    flags: int


class Run(NamedTuple):
    """Consecutive samples of one track (``trun``).

    ``start`` is the decoding time of the first one, None: it continues the run before it. ``rows``
    has one row for each sample, with the fields that ``flags`` names; it has no columns when all
    values are defaults.
    """

    position: int
    start: int | None
    samples: int
    flags: int
    first_sample_flags: int | None
    defaults: Defaults
    rows: UInt32Array

    def column(self, field: int) -> UInt32Array | None:
        """The values of a field, or None if all samples have the default."""
        if not self.flags & field:
            return None
        before = self.flags & (field - 1) & (_DURATION | _SIZE | _FLAGS | _COMPOSITION)
        values: UInt32Array = self.rows[:, before.bit_count()]
        return values

    @property
    def size_bytes(self) -> int:
        """The size of all samples together."""
        sizes = self.column(_SIZE)
        if sizes is None:
            return self.samples * self.defaults.size_bytes
        return int(sizes.sum(dtype=np.uint64))


class Fragments(NamedTuple):
    """The runs of each track by its number, in the order of the file.

    ``shift_s`` seconds pass before the first sample of any track: the start of a recording of a
    live stream, which counts from the stream's start. ``faults`` are the reasons why samples are
    missing.
    """

    runs: Mapping[int, Sequence[Run]] = {}
    shift_s: int = 0
    faults: tuple[str, ...] = ()


def read_fragments(
    mvex: memoryview,
    moofs: Sequence[Moof],
    timescales: Mapping[int, int],
    *,
    starts_in_moov: bool,
) -> Fragments:
    """Reads the fragments of a file with this content of its ``mvex`` box.

    ``timescales`` has the units per second of each track that may be played; other tracks are
    skipped. ``starts_in_moov``: samples of ``moov`` come before the fragments. Raises MediaError
    STRUCTURE_INVALID beyond RUNS_MAX runs.
    """
    defaults = _defaults(mvex)
    runs: dict[int, list[Run]] = {track_id: [] for track_id in timescales}
    faults: list[str] = []
    count = 0
    for moof in moofs:
        data_end = moof.position  # of the track fragment before
        for box in _boxes(memoryview(moof.content), faults):
            if box.type != "traf":
                continue
            try:
                track_id, of_track, data_end = _track_fragment(
                    box.content, moof.position, data_end, defaults
                )
            except MediaError as exc:
                faults.append(f"the fragment at byte {moof.position}: {exc}")
                continue
            count += len(of_track)
            if count > RUNS_MAX:
                raise invalid(f"the MP4 has over {RUNS_MAX} runs of samples in its fragments")
            if track_id in runs:
                runs[track_id] += of_track
    if len(faults) > FAULTS_MAX:
        faults[FAULTS_MAX:] = [f"{len(faults) - FAULTS_MAX} more damaged fragments"]
    starts = [
        of_track[0].start // timescales[track_id]
        for track_id, of_track in runs.items()
        if of_track and of_track[0].start is not None
    ]
    shift_s = 0 if starts_in_moov else min(starts, default=0)
    return Fragments(runs, shift_s, tuple(faults))


def with_fragments(
    table: SampleTable, runs: Sequence[Run], *, shift: int, always_sync: bool, samples_max: int
) -> SampleTable:
    """The samples of ``moov`` and then those of the fragments.

    ``shift`` is subtracted from the times of fragments, in the track's timescale. ``always_sync``
    as in ``read_sample_table``. Raises TooManySamplesError beyond ``samples_max``.
    """
    check_limit(table.count + sum(run.samples for run in runs), samples_max)
    parts = [table]
    end = table.end
    for run in runs:
        if not run.samples:
            continue
        part = _samples(run, end if run.start is None else run.start - shift, always_sync)
        parts.append(part)
        end = part.end
    composition = np.concatenate([part.composition for part in parts])
    plausible = composition[np.abs(composition) <= COMPOSITION_MAX]
    shifts = (table.decode_shift, -int(plausible.min(initial=0)))
    return SampleTable(
        offset=np.concatenate([part.offset for part in parts]),
        size_bytes=np.concatenate([part.size_bytes for part in parts]),
        dts=np.concatenate([part.dts for part in parts]),
        composition=composition,
        is_sync=np.concatenate([part.is_sync for part in parts]),
        description=np.concatenate([part.description for part in parts]),
        end=end,
        decode_shift=max(shifts),
        composed=len(composition),
        is_overfull=False,
        has_sync_flags=True,
    )


def start_at_edit(
    table: SampleTable, edits: Sequence[Edit], *, timescale: int, movie_timescale: int
) -> Edited:
    """All samples, with the times that the start of the edit list gives them.

    The durations of edits do not apply: writers state those of the part that they had written
    first, or 0. As in FFmpeg, an empty edit at the start delays the track, and the first edit with
    media says which time is the start.
    """
    delay = 0
    media = list(edits[:2])
    if media and media[0].media_time == -1 and movie_timescale:
        delay = (media[0].duration * timescale * 2 + movie_timescale) // (movie_timescale * 2)
        del media[0]
    start = media[0].media_time if media and media[0].media_time >= 0 else 0
    dts = table.dts + (min(delay, _TIME_MAX) - min(start, _TIME_MAX))
    return Edited(np.arange(table.count), dts - table.decode_shift, dts + table.composition)


def _defaults(mvex: memoryview) -> dict[int, Defaults]:
    """The defaults of each track (``trex``)."""
    defaults: dict[int, Defaults] = {}
    for box in boxes.walk(mvex):
        if box.type == "trex" and len(box.content) >= 24:
            track_id, *values = np.frombuffer(box.content, ">u4", 5, 4).tolist()
            defaults[track_id] = Defaults(*values)
    return defaults


def _boxes(content: memoryview, faults: list[str]) -> list[boxes.Box]:
    try:
        return list(boxes.walk(content))
    except MediaError as exc:
        faults.append(str(exc))
        return []


def _track_fragment(
    traf: memoryview, moof_position: int, data_end: int, defaults: Mapping[int, Defaults]
) -> tuple[int, list[Run], int]:
    """The track of a ``traf`` box, its runs, and the end of their data in the file.

    ``data_end`` is that of the track fragment before, where this one begins if it does not say so.
    """
    tfhd = _Fields(boxes.require(traf, "tfhd"), "tfhd")
    flags = tfhd.flags
    track_id = tfhd.word()
    values = defaults.get(track_id)
    if values is None:
        raise invalid(f"the MP4 has no trex box for track {track_id}")
    base = data_end
    if flags & _BASE_DATA_OFFSET:
        base = tfhd.long()
    elif flags & _DEFAULT_BASE_IS_MOOF:
        base = moof_position
    if flags & _SAMPLE_DESCRIPTION:
        values = values._replace(description=tfhd.word())
    if flags & _DEFAULT_DURATION:
        values = values._replace(duration=tfhd.word())
    if flags & _DEFAULT_SIZE:
        values = values._replace(size_bytes=tfhd.word())
    if flags & _DEFAULT_FLAGS:
        values = values._replace(flags=tfhd.word())
    start: int | None = None
    runs: list[Run] = []
    end = base
    tfdt_box = boxes.find(traf, "tfdt")
    if tfdt_box is not None:
        tfdt = _Fields(tfdt_box, "tfdt")
        start = tfdt.long() if tfdt.version == 1 else tfdt.word()
        if start > _TIME_MAX:
            raise invalid("the MP4's tfdt box has an impossible time")
    for box in boxes.walk(traf):
        if box.type == "trun":
            run = _run(box.content, base, end, start, values)
            runs.append(run)
            end = run.position + run.size_bytes
            start = None
    return track_id, runs, end


def _run(trun: memoryview, base: int, end: int, start: int | None, defaults: Defaults) -> Run:
    """One run. Without an offset, its data follows at ``end``."""
    fields = _Fields(trun, "trun")
    flags = fields.flags
    count = fields.word()
    position = end
    if flags & _DATA_OFFSET:
        position = base + fields.signed_word()
    first_sample_flags = fields.word() if flags & _FIRST_SAMPLE_FLAGS else None
    columns = (flags & (_DURATION | _SIZE | _FLAGS | _COMPOSITION)).bit_count()
    rows = fields.rows(count, columns)
    is_in_a_file = 0 <= position < _NOWHERE
    return Run(
        position if is_in_a_file else _NOWHERE, start, count, flags, first_sample_flags, defaults,
        rows,
    )  # fmt: skip


def _samples(run: Run, start: int, always_sync: bool) -> SampleTable:
    """The samples of one run, the first one decoded at ``start``."""
    count, defaults = run.samples, run.defaults
    sizes = run.column(_SIZE)
    if sizes is None:
        sizes = np.full(count, defaults.size_bytes, np.uint32)
    durations = run.column(_DURATION)
    if durations is None:
        durations = np.full(count, defaults.duration, np.uint32)
    ends = np.cumsum(durations, dtype=np.int64)
    size_ends = np.cumsum(sizes, dtype=np.int64)
    composition = run.column(_COMPOSITION)
    end = start + int(ends[-1])
    if end > _TIME_MAX:
        raise invalid("an MP4 track has impossible times in its fragments")
    return SampleTable(
        offset=size_ends - sizes + run.position,
        size_bytes=sizes,
        dts=ends - durations + start,
        # Signed in version 1 of the box, and in practice in version 0 too.
        composition=np.zeros(count, np.int64)
        if composition is None
        else composition.astype(np.int32).astype(np.int64),
        is_sync=np.ones(count, np.bool_) if always_sync else _sync(run),
        description=np.full(count, (defaults.description - 1) & 0xFFFFFFFF, np.uint32),
        end=end,
        decode_shift=0,
        composed=0 if composition is None else count,
        is_overfull=False,
        has_sync_flags=True,
    )


def _sync(run: Run) -> BoolArray:
    flags = run.column(_FLAGS)
    if flags is None:
        flags = np.full(run.samples, run.defaults.flags, np.uint32)
    if run.first_sample_flags is not None:
        flags = flags.copy()
        flags[0] = run.first_sample_flags
    is_sync: BoolArray = flags & (_IS_NO_SYNC_SAMPLE | _DEPENDS_ON_OTHERS) == 0
    return is_sync


class _Fields:
    """Reads the fields of a full box, one after the other. Raises MediaError at its end."""

    def __init__(self, content: memoryview, name: str) -> None:
        self._content = content
        self._name = name
        self._position = 0
        version_and_flags = self.word()
        self.version = version_and_flags >> 24
        self.flags = version_and_flags & 0xFFFFFF

    def word(self) -> int:
        return int.from_bytes(self._take(4), "big")

    def signed_word(self) -> int:
        return int.from_bytes(self._take(4), "big", signed=True)

    def long(self) -> int:
        return int.from_bytes(self._take(8), "big")

    def rows(self, count: int, columns: int) -> UInt32Array:
        """A table of words. Without columns it takes no memory, whatever the count."""
        if count * columns * 4 > len(self._content) - self._position:
            raise invalid(f"the MP4's {self._name} box claims {count} samples, more than it holds")
        if not columns:
            return np.zeros((0, 0), np.uint32)
        words = np.frombuffer(self._content, ">u4", count * columns, self._position)
        return words.astype(np.uint32).reshape(count, columns)

    def _take(self, size: int) -> memoryview:
        end = self._position + size
        if end > len(self._content):
            raise invalid(f"the MP4's {self._name} box is cut off")
        data = self._content[self._position : end]
        self._position = end
        return data
