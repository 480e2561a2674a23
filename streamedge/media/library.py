"""Opens assets as media: detects the kind of file, and builds its index once for all viewers.

The library has the indexes of a worker in memory, by version; ``index_memory`` bounds them,
including those in use by players and by packaging. The first bytes of a file decide its kind, not
its name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from streamedge.cache.objects import VERSION_ONLY, Cache
from streamedge.cache.reader import Reader
from streamedge.cache.storage.records import Asset
from streamedge.errors import (
    CacheFullError,
    MediaError,
    MediaFault,
    OriginError,
    OriginFailure,
)
from streamedge.media.containers.medium import SegmentedMedium, SegmentedTitle, open_title
from streamedge.media.containers.packager import ContainerFile
from streamedge.media.containers.process import HelperLimits, HelperPool
from streamedge.media.flv import head as flv_head
from streamedge.media.flv.index import LayoutIndex, TagIndex
from streamedge.media.flv.layout import FlvLayout
from streamedge.media.flv.medium import FlvMedium, medium_head
from streamedge.media.flv.scan_index import ScanIndex
from streamedge.media.fragment_reader import read_moofs
from streamedge.media.index_memory import IndexMemory, Lease
from streamedge.media.medium import Medium, MediumHead, track_maps
from streamedge.media.mp3 import head as mp3_head
from streamedge.media.mp3.head import Mp3Head
from streamedge.media.mp3.medium import Mp3Medium
from streamedge.media.mp4.codecs import CodecConfiguration
from streamedge.media.mp4.fragment_search import Section
from streamedge.media.mp4.moov import is_fragmented, locate_moov, parse_fragmented, parse_moov
from streamedge.media.mp4.title import build_title
from streamedge.media.packager import packaged_asset
from streamedge.media.parsing import run_parser
from streamedge.media.sniffing import FileKind, sniff
from streamedge.media.track_choice import DEFAULT_TRACKS, TrackChoice, no_such_audio
from streamedge.origin import OriginHead, Version
from streamedge.spans import Span

FIRST_READ = Span(0, 64 * 1024)
# RFC 9110 §8.4.1 and its registry; other values ("utf-8") are mistakes of the uploader, and the
# bytes are not coded.
_CODINGS = frozenset(
    {"br", "compress", "dcb", "dcz", "deflate", "gzip", "x-compress", "x-gzip", "zstd"}
)
CONCURRENT_BUILDS_MAX = 2  # building an MP4 index takes several times the memory of the result
_MP3_HEAD_BYTES = 4096
# libavformat's names of the containers that a media helper reads.
FORMATS = {
    FileKind.MATROSKA: "matroska",
    FileKind.MPEG_TS: "mpegts",
    FileKind.ADTS: "aac",
}


@dataclass(frozen=True, slots=True, eq=False)
class _Flv:
    """The index of an FLV: the asset to read it from, its head, its tags, and its layout if it is
    packaged."""

    asset: Asset
    head: MediumHead
    index: TagIndex
    layout: FlvLayout | None = None


_Index = _Flv | Mp3Head | SegmentedTitle
_Key = tuple[str, Version, TrackChoice]


@dataclass(slots=True, eq=False)
class _IndexBuild:
    """A running build of an index, and the number of its waiters."""

    task: asyncio.Task[Lease[_Index]]
    waiting: int = 0

    def close_unused_lease(self) -> None:
        """Closes the task's own lease once all waiters have theirs."""
        if self.waiting or not self.task.done() or self.task.cancelled():
            return
        if self.task.exception() is None:  # marks the exception as retrieved, even without waiters
            self.task.result().close()


class MediaLibrary:
    """A worker's media.

    ``memory_bytes`` limits all indexes, including those in use; ``index_bytes`` limits one index;
    ``moov_bytes`` limits the bytes of a file that are read for one. ``report`` is called once for
    each index with faults: with the object's name and the reasons why parts of it are not played.
    ``helpers``: the media helpers, which read Matroska, MPEG-TS and ADTS.
    """

    def __init__(
        self,
        cache: Cache,
        *,
        memory_bytes: int,
        index_bytes: int,
        moov_bytes: int,
        report: Callable[[str, tuple[str, ...]], None] | None = None,
        helpers: HelperPool | None = None,
    ) -> None:
        self._cache = cache
        self._report = report
        self._helpers = HelperPool(HelperLimits()) if helpers is None else helpers
        self._build_slots = asyncio.Semaphore(CONCURRENT_BUILDS_MAX)
        self._index_bytes = index_bytes
        self._moov_bytes = moov_bytes
        self._indexes = IndexMemory[_Key, _Index](memory_bytes)
        self._builds: dict[_Key, _IndexBuild] = {}

    def drop_indexes(self) -> None:
        """Drops all indexes. Running plays keep theirs."""
        self._indexes.drop_all()

    @property
    def memory_bytes(self) -> int:
        """The memory of all indexes that are cached or in use."""
        return self._indexes.used_bytes

    async def open(self, asset: Asset, choice: TrackChoice = DEFAULT_TRACKS) -> Medium:
        """Opens an asset as a medium with the chosen tracks.

        Raises OriginError, CacheFullError, MediaError.
        """
        reader = await self._cache.open(asset, FIRST_READ)
        try:
            _require_plain(reader.head)
            lease = await self._index(asset, reader.head, choice)
            try:
                index = lease.value
                if isinstance(index, Mp3Head):
                    lease.close()
                    return Mp3Medium(asset.name, index, reader.clone(), reader)
                if isinstance(index, SegmentedTitle):
                    owned = _source_readers(reader)
                    return SegmentedMedium(asset.name, index, reader, lease, *owned)
                packaged = await self._cache.open(index.asset, VERSION_ONLY)
            except BaseException:
                lease.close()
                raise
            owned = _source_readers(reader)
            return FlvMedium(asset.name, index.head, index.index, packaged, reader, lease, *owned)
        finally:
            reader.close()

    async def close(self) -> None:
        """Cancels the running builds, and ends the media helpers."""
        tasks = [build.task for build in self._builds.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._helpers.close()

    async def _index(self, asset: Asset, head: OriginHead, choice: TrackChoice) -> Lease[_Index]:
        """The index of the version with ``head``; built once, also if a waiter is cancelled."""
        key = (asset.key, head.version, choice)
        lease = self._indexes.lease(key)
        if lease is not None:
            return lease
        build = self._builds.get(key)
        if build is None:
            task = asyncio.get_running_loop().create_task(
                self._build(asset, head, choice), name="index"
            )
            build = self._builds[key] = _IndexBuild(task)
            task.add_done_callback(lambda _done: self._on_build_done(key))
        build.waiting += 1
        try:
            return (await asyncio.shield(build.task)).clone()
        except MediaError as exc:
            raise MediaError(exc.fault, str(exc)) from exc
        except OriginError as exc:
            raise OriginError(exc.failure, str(exc)) from exc
        except CacheFullError as exc:
            raise CacheFullError(str(exc)) from exc
        finally:
            build.waiting -= 1
            build.close_unused_lease()

    async def _layout_of(
        self, asset: Asset, head: OriginHead, choice: TrackChoice
    ) -> Lease[FlvLayout]:
        """The layout of a packaged title. Raises OriginError, CacheFullError, MediaError."""
        lease = await self._index(asset, head, choice)
        try:
            if not isinstance(lease.value, _Flv) or lease.value.layout is None:
                raise OriginError(OriginFailure.CHANGED, f"{asset.name}: not an MP4 any more")
            return lease.of(lease.value.layout)
        finally:
            lease.close()

    def _on_build_done(self, key: _Key) -> None:
        self._builds.pop(key).close_unused_lease()

    async def _build(self, asset: Asset, head: OriginHead, choice: TrackChoice) -> Lease[_Index]:
        index = await self._read_index(asset, head, choice)
        return self._indexes.add(
            (asset.key, head.version, choice), index, _memory_size_bytes(index)
        )

    async def _read_index(self, asset: Asset, head: OriginHead, choice: TrackChoice) -> _Index:
        reader = self._cache.reopen(asset, head)
        size_bytes = reader.size_bytes
        try:
            kind = await run_parser(sniff(size_bytes), reader)
            if kind in (FileKind.FLV, FileKind.MP3) and choice.audio not in ("", "0"):
                raise no_such_audio((), choice.audio)
            if kind is FileKind.FLV:
                flv = await run_parser(flv_head.read_head(size_bytes), reader)
                return _Flv(
                    asset,
                    medium_head(flv, multitrack=choice.is_multitrack),
                    ScanIndex(flv, size_bytes, multitrack=choice.is_multitrack),
                )
            if kind is FileKind.MP3:
                return await run_parser(mp3_head.read_head(size_bytes), reader)
            if kind in FORMATS:
                file = ContainerFile(self._cache, self._helpers, asset, head, FORMATS[kind])
                title = await open_title(self._cache, file, choice)
                self._report_faults(asset.name, title.faults)
                return title
            moov_span = await run_parser(locate_moov(size_bytes, self._moov_bytes), reader)
            moov = await reader.read(moov_span)
            fragments = None
            if is_fragmented(moov):
                fragments = await read_moofs(reader, moov_span.end, self._moov_bytes)
        finally:
            reader.close()
        async with self._build_slots:
            # In a thread, because few bytes can describe many samples.
            layout = await asyncio.to_thread(
                build_layout, moov, size_bytes, self._index_bytes, fragments, choice
            )
        self._report_faults(asset.name, layout.title.faults)
        layouts = partial(self._layout_of, asset, head, choice)
        packaged = packaged_asset(
            self._cache, asset, head, layout.size_bytes, layouts, layout.title.selection
        )
        return _Flv(packaged, _layout_head(layout), LayoutIndex(layout), layout)

    def _report_faults(self, name: str, faults: tuple[str, ...]) -> None:
        if faults and self._report is not None:
            self._report(name, faults)


def build_layout(
    moov: bytes,
    file_size_bytes: int,
    memory_bytes: int,
    fragments: Section | None = None,
    choice: TrackChoice = DEFAULT_TRACKS,
) -> FlvLayout:
    """The FLV form of the MP4 with this index. Raises MediaError."""
    if fragments is None:
        movie = parse_moov(moov)
    else:
        movie = parse_fragmented(moov, fragments.moofs)
        if fragments.fault:
            movie = replace(movie, faults=(*movie.faults, f"the MP4 is {fragments.fault}"))
    return FlvLayout(build_title(movie, file_size_bytes, memory_bytes, choice))


def _layout_head(layout: FlvLayout) -> MediumHead:
    """The head of a packaged title."""
    title = layout.title
    return MediumHead(
        duration_ms=title.duration_ms,
        metadata={
            name: value for name, value in layout.metadata.items() if not isinstance(value, dict)
        },
        enhanced=frozenset(codec.four_cc for codec in _codecs(layout) if codec.classic_id is None),
        has_video=title.video is not None,
        track_maps=track_maps(layout.metadata),
        multitrack=frozenset(other.codec.four_cc for other in title.others),
    )


def _codecs(layout: FlvLayout) -> list[CodecConfiguration]:
    return [codec for codec in (layout.title.video, layout.title.audio) if codec is not None]


def _require_plain(head: OriginHead) -> None:
    """Raises MediaError for an object that is stored in a content coding (RFC 9110 §8.4)."""
    encodings = head.headers.get("content-encoding", "")
    codings = {coding.strip().lower() for coding in encodings.split(",")}
    if not codings.isdisjoint(_CODINGS):
        raise MediaError(
            MediaFault.CODED,
            f"The object has Content-Encoding {encodings[:40]}; store it without one to play it.",
        )


def _source_readers(reader: Reader) -> tuple[Reader, ...]:
    """A reader that keeps the running response of a source without a validator."""
    return (reader.clone(),) if reader.head.version.id else ()


def _memory_size_bytes(index: _Index) -> int:
    if isinstance(index, Mp3Head):
        return _MP3_HEAD_BYTES
    if isinstance(index, SegmentedTitle):
        return index.memory_size_bytes
    return index.index.memory_size_bytes
