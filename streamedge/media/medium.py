"""The interface between media and delivery: a head, positions to start at, and runs of FLV tags.

A run is one or more whole FLV tags: a span of a cached FLV (sent without copying) or bytes built in
memory (MP3). Only ``locate`` and ``locate_after`` wait. ``next_run`` returns at once;
``when_ready`` waits for the bytes that it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeAlias

from streamedge.cache.open_object import Failure
from streamedge.cache.reader import CacheResult, Reader
from streamedge.cache.storage.records import Provenance
from streamedge.media.flv.timeline import Timeline
from streamedge.media.script_data import ScriptObject
from streamedge.spans import Span

RUN_MS = 1000  # about the length of a run until the viewer's buffer is full
LONG_RUN_MS = 2000  # … and from then on: fewer, larger messages cost less
# A single larger tag is a run of its own. nginx-rtmp, pulling, ends at a message over 1 MiB.
RUN_BYTES_MAX = 1024 * 1024
_TRACK_MAPS = frozenset({"audioTrackIdInfoMap", "videoTrackIdInfoMap"})


class Position(NamedTuple):
    """The position of a tag: its offset in the FLV or MP3, its time, and its row in a title.

    ``timeline``: the time line of an FLV file's tags up to this position.
    """

    position: int
    time_ms: int
    row: int = 0
    timeline: Timeline = Timeline()


class Run(NamedTuple):
    """Consecutive whole tags that can be sent now.

    ``span`` is their span in ``reader``'s object; ``body`` has the bytes if they are not sent from
    there. ``tag_type`` is the type of the only tag, None when there are several. ``following`` is
    the next position; its time is the end of the run.
    """

    reader: Reader
    span: Span
    body: bytes | None
    tag_type: int | None
    has_video: bool
    time_ms: int
    following: Position


class Skip(NamedTuple):
    """There is nothing to send at a position; continue at ``following``."""

    following: Position


class NeedData(NamedTuple):
    """The bytes that the next run needs are not in the cache yet."""

    span: Span


class End(NamedTuple):
    """There is nothing after a position."""


TrackMaps: TypeAlias = Mapping[str, Mapping[str, Mapping[str, float | str | bool]]]
"""onMetaData's audioTrackIdInfoMap and videoTrackIdInfoMap (E-RTMP v2): values by track id."""


def track_maps(metadata: ScriptObject) -> TrackMaps:
    """The maps in ``metadata``; only their scalar values."""
    return {
        name: {
            track_id: {
                key: value
                for key, value in info.items()
                if isinstance(value, bool | int | float | str)
            }
            for track_id, info in tracks.items()
            if isinstance(info, dict)
        }
        for name, tracks in metadata.items()
        if name in _TRACK_MAPS and isinstance(tracks, dict)
    }


@dataclass(frozen=True, slots=True, eq=False)
class MediumHead:
    """What a player needs before the first video frame.

    ``metadata`` is for onMetaData; ``enhanced`` are the FourCCs that only Enhanced RTMP can carry.
    ``multitrack`` are those of the tracks beside the default ones, which ``track_maps`` describes.
    """

    duration_ms: int
    metadata: ScriptObject
    enhanced: frozenset[str]
    has_video: bool
    multitrack: frozenset[str] = frozenset()
    track_maps: TrackMaps = field(default_factory=dict)


class Medium(Protocol):
    """One viewer's access to a medium; close it."""

    @property
    def head(self) -> MediumHead: ...

    @property
    def result(self) -> CacheResult: ...

    @property
    def name(self) -> str:
        """The object's name."""
        ...

    def is_current(self) -> bool:
        """Whether the object was neither written nor invalidated since the medium was opened.

        Otherwise a seek opens it again.
        """
        ...

    def provenance(self) -> Provenance:
        """The data that revocations of running plays are matched against."""
        ...

    async def locate(self, time_ms: int) -> Position:
        """The position to start from so that ``time_ms`` can be shown: a keyframe, if there is
        video.

        For a time beyond the end it is the last keyframe. Raises OriginError, MediaError.
        """
        ...

    async def locate_after(self, time_ms: int) -> Position:
        """The first tag later than ``time_ms``, keyframe or not. Raises as ``locate``."""
        ...

    def sequence_headers(self, mark: Position) -> tuple[tuple[int, bytes], ...]:
        """Tag types and bodies of the codec headers that apply at a located position."""
        ...

    def next_run(
        self, mark: Position, length_ms: int, until_ms: int | None
    ) -> Run | Skip | NeedData | End:
        """The tags from ``mark`` on: about ``length_ms`` of media, or one tag for 0.

        No tag is later than ``until_ms``. Raises MediaError where the file is damaged.
        """
        ...

    def when_ready(
        self, span: Span, callback: Callable[[Failure | None], None]
    ) -> Callable[[], None]:
        """Calls ``callback`` once the bytes are cached, or with a failure; returns a function that
        cancels the call.
        """
        ...

    def close(self) -> None: ...
