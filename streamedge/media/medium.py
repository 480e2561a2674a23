"""The interface between media and delivery: a head, positions to start at, and runs of FLV tags.

A run is one or more whole FLV tags: a span of a cached FLV (sent without copying) or bytes built in
memory (MP3). Only ``locate`` and ``locate_after`` wait: ``next_run`` returns at once, and the bytes
that it needs are awaited with ``when_ready``.
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

RUN_MS = 1000  # media in one run, about, until the viewer's buffer is full
LONG_RUN_MS = 2000  # … and then: fewer, larger messages cost less
# A single larger tag makes a run of its own. nginx-rtmp, pulling, ends at a message over 1 MiB.
RUN_BYTES_MAX = 1024 * 1024


class Position(NamedTuple):
    """The position of a tag: its offset in the FLV or MP3, its time, and its row in a title.

    ``timeline``: the time line of an FLV file's tags up to there.
    """

    position: int
    time_ms: int
    row: int = 0
    timeline: Timeline = Timeline()


class Run(NamedTuple):
    """Consecutive whole tags that can be sent now.

    ``span`` are their bytes in ``reader``'s object, or ``body`` the bytes themselves. ``tag_type``
    is that of the only tag, None when there are several. ``following`` is the next
    position; its time is the end of the run.
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


@dataclass(frozen=True, slots=True, eq=False)
class MediumHead:
    """What a player needs before the first picture.

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
        """Whether the object was neither written nor invalidated since this was opened.

        If it was, a seek opens it again.
        """
        ...

    def provenance(self) -> Provenance:
        """The data that revocations of running plays are matched against."""
        ...

    async def locate(self, time_ms: int) -> Position:
        """Where to start so that ``time_ms`` can be shown: a keyframe, if there is video.

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
