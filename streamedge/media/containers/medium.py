"""A container file as a medium: its segments, one after the other.

``SegmentedTitle`` is shared by all viewers of a version in a worker: it has the head, and the
tables of the segments that were used last. ``SegmentedMedium`` is one viewer's access.

Positions count each segment as POSITIONS_PER_SEGMENT bytes long, because the size of a segment is
unknown until it was made.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

from streamedge.cache.objects import Cache
from streamedge.cache.open_object import Failure
from streamedge.cache.reader import Reader
from streamedge.cache.storage.records import Asset
from streamedge.errors import CacheFullError, MediaError, OriginError
from streamedge.media.containers import segment as segments
from streamedge.media.containers.head import (
    HEAD_BYTES_MAX,
    ChosenTracks,
    ContainerHead,
    choose_tracks,
    medium_head,
    parse_head,
)
from streamedge.media.containers.packager import ContainerFile
from streamedge.media.containers.segment import SegmentFlag, SegmentTable
from streamedge.media.faults import invalid
from streamedge.media.flv import tags as flv
from streamedge.media.flv.index import boundary_ms
from streamedge.media.flv.tags import TagType
from streamedge.media.index_memory import Lease
from streamedge.media.medium import (
    RUN_BYTES_MAX,
    End,
    MediumHead,
    NeedData,
    Position,
    Run,
    Skip,
)
from streamedge.media.track_choice import TrackChoice
from streamedge.origin import OriginHead
from streamedge.spans import Span

POSITIONS_PER_SEGMENT = 1 << 32
TAGS_REMEMBERED = 1 << 14  # in the tables of one title: some minutes, or one segment with more
KEYFRAME_SEGMENTS = 150  # searched before a time for a keyframe
BEYOND_END_MS = 10_000  # … and a quarter of the duration: searched for the real end
TITLE_BYTES = 256 << 10  # the memory of a title with its tables, usually

_FIRST_READ = Span(0, 64 << 10)


async def _read_all(reader: Reader, limit_bytes: int) -> bytes:
    if reader.size_bytes > limit_bytes:
        raise invalid("the helper made too large a head")
    return await reader.read(Span(0, reader.size_bytes))


async def open_title(cache: Cache, file: ContainerFile, choice: TrackChoice) -> SegmentedTitle:
    """Opens a container file with the chosen tracks.

    Raises MediaError, OriginError, CacheFullError.
    """
    try:
        reader = await cache.open(file.head_asset(), _FIRST_READ)
        try:
            head = parse_head(await _read_all(reader, HEAD_BYTES_MAX))
        finally:
            reader.close()
    except OriginError as exc:
        raise _cause(file, exc) from exc
    return SegmentedTitle(cache, file, head, choose_tracks(head, choice))


def _cause(file: ContainerFile, failure: OriginError) -> MediaError | OriginError:
    """Why a part could not be made."""
    return failure if file.fault is None else MediaError(file.fault.fault, str(file.fault))


class Segment:
    """A segment that is cached: its asset, version and table."""

    __slots__ = ("asset", "head", "number", "table")

    def __init__(self, number: int, asset: Asset, head: OriginHead, table: SegmentTable) -> None:
        self.number = number
        self.asset = asset
        self.head = head
        self.table = table

    @property
    def is_beyond_end(self) -> bool:
        """Whether the medium ends before it."""
        return self.table.count == 0 and self.table.following is None

    def position(self, row: int) -> int:
        """The position of a tag in the medium."""
        return self.number * POSITIONS_PER_SEGMENT + self.table.positions[row]


class SegmentedTitle:
    """A version of a container file with its chosen tracks."""

    def __init__(
        self, cache: Cache, file: ContainerFile, head: ContainerHead, chosen: ChosenTracks
    ) -> None:
        self.head: MediumHead = medium_head(head, chosen)
        self.faults = head.faults
        self.segment_ms = head.segment_ms
        self.memory_size_bytes = TITLE_BYTES
        self.cache = cache
        bodies = [(int(codec.kind), flv.sequence_header_body(codec)) for codec in chosen.codecs]
        self.sequence_headers = tuple((kind, body) for kind, body in bodies if body is not None)
        self._file = file
        self._chosen = chosen
        self._segments: OrderedDict[int, Segment] = OrderedDict()
        self._tags = 0  # of the segments, and one for each segment
        self._loads: dict[int, asyncio.Task[Segment]] = {}

    def segment(self, number: int) -> Segment | None:
        """A segment, if it was loaded."""
        segment = self._segments.get(number)
        if segment is not None:
            self._segments.move_to_end(number)
        return segment

    def load(self, number: int) -> asyncio.Task[Segment]:
        """Loads a segment once for all viewers.

        The task raises MediaError, OriginError, CacheFullError. It goes on without waiters.
        """
        task = self._loads.get(number)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._load(number), name="segment")
            self._loads[number] = task
            task.add_done_callback(lambda done: self._loaded(number, done))
        return task

    def prefetch(self, number: int) -> None:
        """Begins to load a segment that a viewer will need."""
        if number not in self._segments and number not in self._loads:
            self.load(number)

    async def wait(self, number: int) -> Segment:
        """A segment. Raises MediaError, OriginError, CacheFullError."""
        segment = self.segment(number)
        if segment is not None:
            return segment
        try:
            return await asyncio.shield(self.load(number))
        except MediaError as exc:
            raise MediaError(exc.fault, str(exc)) from exc
        except OriginError as exc:
            raise exc.clone() from exc
        except CacheFullError as exc:
            raise CacheFullError(str(exc)) from exc

    async def close(self) -> None:
        """Cancels the running loads."""
        loads = list(self._loads.values())
        for task in loads:
            task.cancel()
        await asyncio.gather(*loads, return_exceptions=True)

    async def _load(self, number: int) -> Segment:
        chosen = self._chosen
        asset = self._file.segment_asset(number, chosen.indexes, chosen.selection)
        try:
            reader = await self.cache.open(asset, _FIRST_READ)
            try:
                header = await reader.read(Span(0, segments.HEADER.size))
                size_bytes = segments.table_size_bytes(header, reader.size_bytes)
                table = segments.parse_table(await reader.read(Span(0, size_bytes)))
                if table.following is not None and table.following <= number:
                    raise invalid("the helper made segments without order")
                return Segment(number, asset, reader.head, table)
            finally:
                reader.close()
        except OriginError as exc:
            raise _cause(self._file, exc) from exc

    def _loaded(self, number: int, task: asyncio.Task[Segment]) -> None:
        del self._loads[number]
        if task.cancelled() or task.exception() is not None:  # marks it as retrieved
            return
        segment = self._segments[number] = task.result()
        self._tags += segment.table.count + 1
        while self._tags > TAGS_REMEMBERED and len(self._segments) > 1:
            _number, oldest = self._segments.popitem(last=False)
            self._tags -= oldest.table.count + 1


class SegmentedMedium:
    """``source`` is a reader of the file: a title belongs to its version and does not change.

    ``owned`` are closed with the medium: the lease on its title, and a reader of a source without a
    validator, so that its running response continues while the medium plays. The row of a position
    counts the tags of its segment.
    """

    def __init__(
        self, name: str, title: SegmentedTitle, source: Reader, *owned: Reader | Lease[Any]
    ) -> None:
        self.name = name
        self.head = title.head
        self.result = source.result
        self.is_current = source.is_current
        self.provenance = source.provenance
        self._title = title
        self._owned = owned
        # The reader of the segment that is sent, and the one before, whose last run may be under
        # way.
        self._readers: deque[tuple[int, Reader]] = deque()
        self._failure: BaseException | None = None  # of a load, raised by the next run

    async def locate(self, time_ms: int) -> Position:
        if time_ms <= 0:
            return Position(0, 0)
        if self.head.duration_ms:  # an estimate in files without an index
            time_ms = min(time_ms, self.head.duration_ms * 5 // 4 + BEYOND_END_MS)
        segment = await self._last_before(time_ms // self._title.segment_ms)
        first_number = max(0, segment.number - KEYFRAME_SEGMENTS)
        target = Position(segment.position(0), segment.number * self._title.segment_ms)
        while True:
            row = segment.table.last_start(time_ms, has_video=self.head.has_video)
            if row is not None:
                return Position(segment.position(row), segment.table.times_ms[row], row)
            if segment.number <= first_number:
                return Position(0, 0) if segment.number == 0 else target
            segment = await self._title.wait(segment.number - 1)

    async def _last_before(self, number: int) -> Segment:
        """A segment; if the medium ends before it, the last one with tags."""
        segment = await self._title.wait(number)
        low, high = 0, number  # ``high`` is beyond the end, ``low`` is not
        step = 1
        while segment.is_beyond_end and high - low > 1:
            # Usually the end is near: a duration is a little too long.
            middle = max(high - step, (low + high) // 2)
            step *= 2
            probe = await self._title.wait(middle)
            if probe.is_beyond_end:
                high = middle
            else:
                low = middle
        return await self._title.wait(low) if segment.is_beyond_end else segment

    async def locate_after(self, time_ms: int) -> Position:
        number = max(0, time_ms) // self._title.segment_ms
        while True:
            segment = await self._title.wait(number)
            row = segment.table.row_after(time_ms)
            if row < segment.table.count:
                return Position(segment.position(row), segment.table.times_ms[row], row)
            if segment.table.following is None:
                return Position(segment.position(row), time_ms, row)
            number = segment.table.following

    def sequence_headers(self, mark: Position) -> tuple[tuple[int, bytes], ...]:
        return self._title.sequence_headers

    def next_run(
        self, mark: Position, length_ms: int, until_ms: int | None
    ) -> Run | Skip | NeedData | End:
        title = self._title
        if self._failure is not None:
            raise self._failure
        number = mark.position // POSITIONS_PER_SEGMENT
        segment = title.segment(number)
        if segment is None:
            return NeedData(Span(mark.position, mark.position + 1))
        table, first = segment.table, mark.row
        if table.following is not None:
            title.prefetch(table.following)
        if first >= table.count:
            return End() if table.following is None else Skip(self._start_of(table.following))
        time_ms = table.times_ms[first]
        if until_ms is not None and time_ms > until_ms:
            return End()
        reader = self._reader(segment)
        start, first_end = table.positions[first], table.positions[first + 1]
        limit = first_end if length_ms == 0 else max(first_end, start + RUN_BYTES_MAX)
        limit = min(limit, table.positions[-1])
        ready_end = reader.ready_end(start, limit)
        if ready_end < first_end:
            base = number * POSITIONS_PER_SEGMENT
            return NeedData(Span(base + ready_end, base + table.positions[-1]))
        last = first + 1
        if length_ms:
            last = table.row_at(boundary_ms(time_ms, length_ms, until_ms))
            last = max(first + 1, min(last, table.last_row_within(first, ready_end)))
        flags = table.flags[first:last]
        has_video = any(flag & SegmentFlag.VIDEO for flag in flags)
        if last < table.count:
            following = Position(segment.position(last), table.times_ms[last], last)
        elif table.following is not None:
            following = self._start_of(table.following)
        else:
            following = Position(segment.position(last), table.times_ms[-1], last)
        tag_type = None
        if last == first + 1:
            tag_type = TagType.VIDEO if has_video else TagType.AUDIO
        return Run(
            reader,
            Span(start, table.positions[last]),
            None,
            tag_type,
            has_video,
            time_ms,
            following,
        )

    def when_ready(
        self, span: Span, callback: Callable[[Failure | None], None]
    ) -> Callable[[], None]:
        number, start = divmod(span.start, POSITIONS_PER_SEGMENT)
        segment = self._title.segment(number)
        if segment is not None:
            want = Span(start, max(start + 1, start + span.size))
            return self._reader(segment).when_ready(want, callback, eager=True)

        def loaded(task: asyncio.Task[Segment]) -> None:
            failure = None if task.cancelled() else task.exception()
            if isinstance(failure, OriginError):
                callback(failure.clone())
            elif isinstance(failure, CacheFullError):
                callback(CacheFullError(str(failure)))
            else:
                self._failure = _copy(failure)
                callback(None)

        task = self._title.load(number)
        task.add_done_callback(loaded)
        return lambda: _remove_callback(task, loaded)

    def close(self) -> None:
        for _number, reader in self._readers:
            reader.close()
        self._readers.clear()
        for each in self._owned:
            each.close()

    def _start_of(self, number: int) -> Position:
        """The start of a segment, whose tags are not earlier than its number says."""
        return Position(number * POSITIONS_PER_SEGMENT, number * self._title.segment_ms)

    def _reader(self, segment: Segment) -> Reader:
        for number, reader in self._readers:
            if number == segment.number:
                return reader
        reader = self._title.cache.open_version(segment.asset, segment.head)
        self._readers.append((segment.number, reader))
        if len(self._readers) > 2:
            self._readers.popleft()[1].close()
        return reader


def _copy(failure: BaseException | None) -> BaseException | None:
    """A copy to raise for another viewer: a shared exception would collect tracebacks."""
    return MediaError(failure.fault, str(failure)) if isinstance(failure, MediaError) else failure


def _remove_callback(
    task: asyncio.Task[Segment], callback: Callable[[asyncio.Task[Segment]], None]
) -> None:
    task.remove_done_callback(callback)
