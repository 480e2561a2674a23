"""What a player sees of any medium: a head, places to begin, and runs of FLV tags from there.

Owns the words between media and delivery. A run is whole FLV tags one after the other, either a
span of a cached FLV (sent by the byte mover) or bytes made on the spot (MP3). Nothing here waits
but ``locate``: ``next_run`` answers at once, and what it lacks is asked for with ``when_ready``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from streamedge.cache.open_object import Failure
from streamedge.cache.reader import CacheResult, Reader
from streamedge.cache.storage.records import Provenance
from streamedge.media.flv.timeline import Timeline
from streamedge.media.script_data import ScriptObject
from streamedge.spans import Span

RUN_MS = 1000  # media in one run, about, while a viewer has less than its buffer holds
LONG_RUN_MS = 2000  # … and when it has all that: fewer, larger messages cost less
# A single larger tag makes a run of its own. nginx-rtmp, pulling, ends at a message over 1 MiB.
RUN_BYTES_MAX = 1024 * 1024


class Position(NamedTuple):
    """A tag's place: where it begins in the FLV (or MP3), its time, and its row where rows are.

    ``timeline`` is how the times of an FLV file's tags go on from there.
    """

    position: int
    time_ms: int
    row: int = 0
    timeline: Timeline = Timeline()


class Run(NamedTuple):
    """Consecutive whole tags that can be sent now.

    ``span`` are their bytes in ``reader``'s object, or ``body`` the bytes themselves. ``tag_type``
    is that of the only tag, None when there are several. ``following`` is where to go on;
    its time is how far the run reaches.
    """

    reader: Reader
    span: Span
    body: bytes | None
    tag_type: int | None
    has_video: bool
    time_ms: int
    following: Position


class Skip(NamedTuple):
    """There is nothing to send at a mark; go on from another one."""

    following: Position


class NeedData(NamedTuple):
    """Bytes that must come before there is another run."""

    span: Span


class End(NamedTuple):
    """There is nothing after a mark."""


@dataclass(frozen=True, slots=True, eq=False)
class MediumHead:
    """What a player is told before the first picture.

    ``metadata`` is for onMetaData; ``enhanced`` are the FourCCs that only Enhanced RTMP can carry.
    """

    duration_ms: int
    metadata: ScriptObject
    enhanced: frozenset[str]
    has_video: bool


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
        """Whether the object was neither written to nor invalidated since this was opened.

        At a seek after that it is to be opened anew.
        """
        ...

    def provenance(self) -> Provenance:
        """What invalidations that end running plays are matched against."""
        ...

    async def locate(self, time_ms: int) -> Position:
        """Where to begin so that ``time_ms`` can be shown: a keyframe, if there is video.

        Times beyond the end mean the last keyframe. Raises OriginError, MediaError.
        """
        ...

    async def locate_after(self, time_ms: int) -> Position:
        """The first tag later than ``time_ms``, keyframe or not. Raises as ``locate``."""
        ...

    def sequence_headers(self, mark: Position) -> tuple[tuple[int, bytes], ...]:
        """Tag types and bodies of the codec headers in force at a mark that was located."""
        ...

    def next_run(
        self, mark: Position, length_ms: int, until_ms: int | None
    ) -> Run | Skip | NeedData | End:
        """The tags from ``mark`` on: about ``length_ms`` of them, or one tag for 0.

        None is later than ``until_ms``. Raises MediaError where the file is damaged.
        """
        ...

    def when_ready(
        self, span: Span, callback: Callable[[Failure | None], None]
    ) -> Callable[[], None]:
        """Calls ``callback`` once the bytes are there, or with a failure; returns a canceller."""
        ...

    def close(self) -> None: ...
