"""MP4 edit lists: the samples of a track that are played, in their order, with their times.

Reads the ``elst`` box and applies it to a sample table. Times are in the track's timescale.
Source: ISO/IEC 14496-12 §8.6.6. Where the standard leaves a choice, this module does the same as
FFmpeg's demuxer: an edit begins with the samples that its decoder needs, audio with a second of
preroll, each edit begins at the end of the one before it, and rates are ignored.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamedge.media.faults import invalid
from streamedge.media.mp4.sample_table import Int64Array, SampleTable

EDITS_MAX = 4096
AUDIO_PREROLL_S = 1  # before the start of an edit, for decoders that need a preroll

EDIT_WORK_MAX = 1 << 27  # edits times samples: each edit searches the samples

_TIME_MAX = 1 << 60


class Edit(NamedTuple):
    """``duration`` is in the movie's timescale, ``media_time`` in the track's; -1: empty edit."""

    duration: int
    media_time: int


class Edited(NamedTuple):
    """The rows of a sample table that an edit list plays, in the order in which they are sent.

    A row may occur several times. ``dts`` and ``pts`` are on the movie's time line.
    """

    rows: NDArray[np.intp]
    dts: Int64Array
    pts: Int64Array


class _Section(NamedTuple):
    """The rows of one edit, and the decoding time of the first one that belongs to it."""

    first: int
    last: int
    start: int
    start_dts: int
    is_inside: NDArray[np.bool_]  # of the rows first..last-1


def parse_elst(content: memoryview) -> tuple[Edit, ...]:
    """The edits of an ``elst`` box; as many as the box can hold, because its count may be wrong.

    Raises MediaError STRUCTURE_INVALID beyond EDITS_MAX.
    """
    if len(content) < 8:
        return ()
    entry = np.dtype(
        [("duration", ">u8"), ("media_time", ">i8"), ("rate", ">u4")]
        if content[0] == 1
        else [("duration", ">u4"), ("media_time", ">i4"), ("rate", ">u4")]
    )
    count = (len(content) - 8) // entry.itemsize
    if count > EDITS_MAX:
        raise invalid(f"the MP4's edit list has {count} entries, over the limit of {EDITS_MAX}")
    entries = np.frombuffer(content, entry, count, 8).tolist()
    return tuple(Edit(duration, media_time) for duration, media_time, _ in entries)


def apply_edits(
    table: SampleTable,
    edits: tuple[Edit, ...],
    *,
    timescale: int,
    movie_timescale: int,
    is_audio: bool,
    rows_max: int,
) -> Edited:
    """The samples that are played. An edit list that plays none is ignored.

    Raises MediaError STRUCTURE_INVALID when edits repeat more than ``rows_max`` samples.
    """
    pts = table.dts + table.composition
    unedited = Edited(np.arange(table.count), table.dts - table.decode_shift, pts)
    if not edits or table.count == 0:
        return unedited
    if len(edits) * table.count > EDIT_WORK_MAX:
        raise invalid(f"the MP4's edit list has too many entries for {table.count} samples")
    if not table.has_sync_flags:
        table = replace(table, is_sync=np.arange(table.count) == 0)
    end_dts = -table.decode_shift  # of the edits so far
    empty = 0
    sections: list[_Section] = []
    rows_count = 0
    has_media = False
    for edit in edits:
        duration = (edit.duration * timescale * 2 + movie_timescale) // (movie_timescale * 2)
        media_time, duration = min(edit.media_time, _TIME_MAX), min(duration, _TIME_MAX)
        start_dts = end_dts
        end_dts = min(end_dts + duration, _TIME_MAX)
        if media_time == -1 and not has_media:
            empty += duration
            continue
        section = _section(table, pts, media_time, duration, start_dts,
                           preroll=timescale * AUDIO_PREROLL_S if is_audio else None,
                           may_start_within=is_audio and not has_media)  # fmt: skip
        has_media = True
        if section is not None:
            sections.append(section)
            rows_count += section.last - section.first
            if rows_count > rows_max:
                raise invalid(f"the MP4's edit list plays more than {rows_max} samples")
    if not sections:
        return unedited
    rows = np.concatenate([np.arange(section.first, section.last) for section in sections])
    dts = np.concatenate(
        [
            table.dts[section.first : section.last]
            + (section.start_dts - int(table.dts[section.start]))
            for section in sections
        ]
    )
    composition = table.composition[rows] + table.decode_shift
    if not is_audio:
        # Video begins where the edits do, even if its first frame is shown late in its edit.
        inside = np.concatenate([section.is_inside for section in sections])
        dts = dts - max(0, _earliest((dts + composition)[inside]) - empty)
    return Edited(rows, dts, dts + composition)


def _earliest(pts: Int64Array) -> int:
    """The smallest time after the last negative one, because nothing before 0 is shown; else -1."""
    negative = np.flatnonzero(pts < 0)
    after = pts if len(negative) == 0 else pts[int(negative[-1]) + 1 :]
    return int(after.min()) if len(after) else -1


def _section(
    table: SampleTable,
    pts: Int64Array,
    media_time: int,
    duration: int,
    start_dts: int,
    *,
    preroll: int | None,
    may_start_within: bool,
) -> _Section | None:
    """The rows of one edit; None if it shows nothing. ``preroll`` is None for video."""
    is_audio = preroll is not None
    time = media_time if preroll is None else max(media_time - preroll, -table.decode_shift)
    first = _first_needed(table, pts, time)
    end = media_time + duration
    lasts = np.append(np.diff(table.dts[first:]), duration)
    shown_at = pts[first:]
    # The end: the first keyframe that reaches past the edit, or the one after it where samples are
    # reordered, because frames of the edit may follow the first.
    reaches = shown_at + lasts >= end
    if not is_audio:
        reaches &= table.is_sync[first:]
    stops = np.flatnonzero(reaches)
    stop_index = 1 if table.composed and not is_audio else 0
    size = int(stops[stop_index]) + 1 if len(stops) > stop_index else len(shown_at)
    shown_at = shown_at[:size]
    inside = (shown_at >= media_time) & (shown_at < end)
    adjusted = start_dts
    if may_start_within:
        within = (shown_at < media_time) & (shown_at + lasts[:size] > media_time)
        inside |= within
    rows = np.flatnonzero(inside)
    if len(rows) == 0:
        return None
    start, last = int(rows[0]), int(rows[-1]) + 1
    if may_start_within:
        adjusted -= max(0, media_time - int(shown_at[start]))
    return _Section(first, first + last, first + start, adjusted, inside[:last])


def _first_needed(table: SampleTable, pts: Int64Array, time: int) -> int:
    """The row to decode from so that the sample at ``time`` can be shown."""
    at = int(np.searchsorted(table.dts, time, side="right")) - 1
    if at < 0:
        return 0
    before = np.flatnonzero(table.is_sync[: at + 1])
    if len(before) and table.composed > int(before[-1]):
        before = before[pts[before] <= time]
    if len(before) == 0:
        return at if not table.composed else 0
    key = int(before[-1])
    earliest = int(np.searchsorted(table.dts, table.dts[key], side="left"))
    if table.composed:
        return key
    return earliest + int(np.flatnonzero(table.is_sync[earliest : key + 1])[0])
