"""Cuts the samples of a container into segments by their decoding times. Pure.

Segment n has the samples with decoding times from n x ``segment_ms`` on, before those of the next
one. So a segment depends on the file alone: it has the same bytes whether it was made after the
one before it or after a seek. Samples of different tracks need not be in the order of their times;
up to INTERLEAVE_MS is awaited at a segment's end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from streamedge.media.containers.segment import SEGMENT_BYTES_MAX, TAGS_MAX, too_large

VIDEO_SEGMENT_MS = 2_000  # a cold play waits for one segment
AUDIO_SEGMENT_MS = 10_000  # without video: few bytes
INTERLEAVE_MS = 2_000  # T-STD allows a second (ISO/IEC 13818-1 §2.4.2.6)
READ_ON_MS = 10_000  # a segment so far ahead is reached by reading on, others by a seek


class Sample(NamedTuple):
    """A sample as it is sent. ``track``: the stream's index in the container."""

    track: int
    dts_ms: int
    composition_ms: int
    is_key: bool
    is_video: bool
    data: bytes


class Cutter:
    """Cuts ``samples``, which come from a file's start or from a seek, into segments.

    ``tracks`` are the indexes of the streams that have samples. ``position_ms`` is the time up to
    which samples were cut.
    """

    def __init__(
        self, samples: Iterator[Sample], tracks: Sequence[int], segment_ms: int, position_ms: int
    ) -> None:
        self.position_ms = position_ms
        self._samples = samples
        self._tracks = frozenset(tracks)
        self._segment_ms = segment_ms
        self._ahead: list[Sample] = []  # read, and later than the last segment
        self._has_ended = False

    def reaches(self, number: int) -> bool:
        """Whether a segment is reached by reading on."""
        distance_ms = number * self._segment_ms - self.position_ms
        return 0 <= distance_ms <= READ_ON_MS

    def cut(self, number: int) -> tuple[list[Sample], int | None]:
        """The samples of a segment in the order of their times, video first, and the number of the
        next segment that has any; None at the end.

        Raises MediaError when they are too large, and whatever reading raises.
        """
        start_ms = number * self._segment_ms
        end_ms = start_ms + self._segment_ms
        self.position_ms = end_ms
        read, self._ahead = self._ahead, []
        rows = [sample for sample in read if start_ms <= sample.dts_ms < end_ms]
        ahead = [sample for sample in read if sample.dts_ms >= end_ms]
        passed = {sample.track for sample in ahead}
        latest_ms = max((sample.dts_ms for sample in ahead), default=0)
        size_bytes = sum(len(sample.data) for sample in rows + ahead)
        while not self._has_ended and passed != self._tracks:
            if latest_ms >= end_ms + INTERLEAVE_MS:
                break
            sample = next(self._samples, None)
            if sample is None:
                self._has_ended = True
                break
            if sample.dts_ms < start_ms:
                continue
            size_bytes += len(sample.data)
            if size_bytes > SEGMENT_BYTES_MAX or len(rows) + len(ahead) >= TAGS_MAX:
                raise too_large()
            if sample.dts_ms < end_ms:
                rows.append(sample)
                continue
            ahead.append(sample)
            passed.add(sample.track)
            latest_ms = max(latest_ms, sample.dts_ms)
        self._ahead = ahead
        rows.sort(key=lambda sample: (sample.dts_ms, not sample.is_video, sample.track))
        following = min((sample.dts_ms for sample in ahead), default=None)
        return rows, None if following is None else following // self._segment_ms


def decode_times(pts: Sequence[int], first_dts: int, step: int) -> list[int]:
    """Decoding times of the frames before the first one whose time is known, one for each of
    ``pts``: ``step`` apart, up to ``first_dts``, and none later than its presentation time.
    """
    count = len(pts)
    return [min(first_dts - (count - row) * max(1, step), *pts[row:]) for row in range(count)]
