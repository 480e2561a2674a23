"""From an asset to a medium: what kind of file it is, and its index, made once for all viewers.

Owns the indexes that a worker has in memory, by version (``index_memory`` bounds them, those in use
by players and by packaging included). What a file is, its first bytes say, not its name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

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
from streamedge.media.flv import head as flv_head
from streamedge.media.flv.index import LayoutIndex, TagIndex
from streamedge.media.flv.layout import FlvLayout
from streamedge.media.flv.medium import FlvMedium, medium_head
from streamedge.media.flv.scan_index import ScanIndex
from streamedge.media.index_memory import IndexMemory, Lease
from streamedge.media.medium import Medium, MediumHead
from streamedge.media.mp3 import head as mp3_head
from streamedge.media.mp3.head import Mp3Head
from streamedge.media.mp3.medium import Mp3Medium
from streamedge.media.mp4.codecs import CodecConfiguration
from streamedge.media.mp4.moov import locate_moov, parse_moov
from streamedge.media.mp4.title import build_title
from streamedge.media.packager import packaged_asset
from streamedge.media.sniffing import FileKind, sniff
from streamedge.origin import OriginHead, Version
from streamedge.spans import Span

FIRST_READ = Span(0, 64 * 1024)
# RFC 9110 §8.4.1 and its registry; other words ("utf-8") are a mistake, and the bytes plain.
_CODINGS = frozenset(
    {"br", "compress", "dcb", "dcz", "deflate", "gzip", "x-compress", "x-gzip", "zstd"}
)
PARSED_AT_ONCE = 2  # MP4 indexes; making one takes several times the memory that it keeps
_MP3_HEAD_BYTES = 4096


@dataclass(frozen=True, slots=True, eq=False)
class _Flv:
    """What is kept of an FLV: the asset it is read from, its head, its tags, and its layout if it
    is packaged."""

    asset: Asset
    head: MediumHead
    index: TagIndex
    layout: FlvLayout | None = None


_Index = _Flv | Mp3Head
_Key = tuple[str, Version]


@dataclass(slots=True, eq=False)
class _Making:
    """An index that is being made, and how many wait for it."""

    task: asyncio.Task[Lease[_Index]]
    waiting: int = 0

    def settle(self) -> None:
        """Ends the task's own use of the index when those who waited have theirs."""
        if self.waiting or not self.task.done() or self.task.cancelled():
            return
        if self.task.exception() is None:  # seen, even if everybody who waited has left
            self.task.result().close()


class MediaLibrary:
    """A worker's media.

    ``memory_bytes`` bounds what indexes take, those in use included, ``index_bytes`` what a single
    one does; ``moov_bytes`` is how much of a file is read for one. ``report`` is told the name of
    an object and what of it is left out, once for each index that is made.
    """

    def __init__(
        self,
        cache: Cache,
        *,
        memory_bytes: int,
        index_bytes: int,
        moov_bytes: int,
        report: Callable[[str, tuple[str, ...]], None] | None = None,
    ) -> None:
        self._cache = cache
        self._report = report
        self._parsing = asyncio.Semaphore(PARSED_AT_ONCE)
        self._index_bytes = index_bytes
        self._moov_bytes = moov_bytes
        self._indexes = IndexMemory[_Key, _Index](memory_bytes)
        self._making: dict[_Key, _Making] = {}

    def forget(self) -> None:
        """Makes every index anew when it is next asked for; what plays has its own."""
        self._indexes.forget()

    @property
    def memory_bytes(self) -> int:
        """What all indexes take that are kept or in use."""
        return self._indexes.used_bytes

    async def open(self, asset: Asset) -> Medium:
        """The medium that an asset is. Raises OriginError, CacheFullError, MediaError."""
        reader = await self._cache.open(asset, FIRST_READ)
        try:
            _require_plain(reader.head)
            lease = await self._index(asset, reader.head)
            try:
                index = lease.value
                if isinstance(index, Mp3Head):
                    lease.close()
                    return Mp3Medium(asset.name, index, reader.again(), reader)
                packaged = await self._cache.open(index.asset, VERSION_ONLY)
            except BaseException:
                lease.close()
                raise
            held = (reader.again(),) if reader.head.version.id else ()
            return FlvMedium(asset.name, index.head, index.index, packaged, reader, lease, *held)
        finally:
            reader.close()

    async def close(self) -> None:
        """Ends what is being made."""
        tasks = [making.task for making in self._making.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _index(self, asset: Asset, head: OriginHead) -> Lease[_Index]:
        """The index of the version with ``head``; made once, whoever leaves meanwhile."""
        key = (asset.key, head.version)
        lease = self._indexes.lease(key)
        if lease is not None:
            return lease
        making = self._making.get(key)
        if making is None:
            task = asyncio.get_running_loop().create_task(self._make(asset, head), name="index")
            making = self._making[key] = _Making(task)
            task.add_done_callback(lambda _done: self._made(key))
        making.waiting += 1
        try:
            return (await asyncio.shield(making.task)).again()
        except MediaError as exc:
            raise MediaError(exc.fault, str(exc)) from exc
        except OriginError as exc:
            raise OriginError(exc.failure, str(exc)) from exc
        except CacheFullError as exc:
            raise CacheFullError(str(exc)) from exc
        finally:
            making.waiting -= 1
            making.settle()

    async def _layout_of(self, asset: Asset, head: OriginHead) -> Lease[FlvLayout]:
        """The layout of a packaged title. Raises OriginError, CacheFullError, MediaError."""
        lease = await self._index(asset, head)
        try:
            if isinstance(lease.value, Mp3Head) or lease.value.layout is None:
                raise OriginError(OriginFailure.CHANGED, f"{asset.name}: it is no MP4 any more")
            return lease.of(lease.value.layout)
        finally:
            lease.close()

    def _made(self, key: _Key) -> None:
        self._making.pop(key).settle()

    async def _make(self, asset: Asset, head: OriginHead) -> Lease[_Index]:
        index = await self._read_index(asset, head)
        return self._indexes.keep((asset.key, head.version), index, _memory_size_bytes(index))

    async def _read_index(self, asset: Asset, head: OriginHead) -> _Index:
        reader = self._cache.reopen(asset, head)
        size_bytes = reader.size_bytes
        try:
            kind = await run_parser(sniff(size_bytes), reader)
            if kind is FileKind.FLV:
                flv = await run_parser(flv_head.read_head(size_bytes), reader)
                return _Flv(asset, medium_head(flv), ScanIndex(flv, size_bytes))
            if kind is FileKind.MP3:
                return await run_parser(mp3_head.read_head(size_bytes), reader)
            moov = await reader.read(
                await run_parser(locate_moov(size_bytes, self._moov_bytes), reader)
            )
        finally:
            reader.close()
        async with self._parsing:
            # Beside the event loop: few bytes can stand for many samples.
            layout = await asyncio.to_thread(build_layout, moov, size_bytes, self._index_bytes)
        if layout.title.faults and self._report is not None:
            self._report(asset.name, layout.title.faults)
        layouts = partial(self._layout_of, asset, head)
        packaged = packaged_asset(self._cache, asset, head, layout.size_bytes, layouts)
        return _Flv(packaged, _layout_head(layout), LayoutIndex(layout), layout)


def build_layout(moov: bytes, file_size_bytes: int, memory_bytes: int) -> FlvLayout:
    """The FLV form of the MP4 with this index. Raises MediaError."""
    return FlvLayout(build_title(parse_moov(moov), file_size_bytes, memory_bytes))


def _layout_head(layout: FlvLayout) -> MediumHead:
    """What a player is told of a packaged title."""
    title = layout.title
    return MediumHead(
        duration_ms=title.duration_ms,
        metadata={
            name: value for name, value in layout.metadata.items() if not isinstance(value, dict)
        },
        enhanced=frozenset(codec.four_cc for codec in _codecs(layout) if codec.classic_id is None),
        has_video=title.video is not None,
    )


def _codecs(layout: FlvLayout) -> list[CodecConfiguration]:
    return [codec for codec in (layout.title.video, layout.title.audio) if codec is not None]


def _require_plain(head: OriginHead) -> None:
    """Raises MediaError for an object that is stored in a content coding (RFC 9110 §8.4)."""
    said = head.headers.get("content-encoding", "")
    codings = {coding.strip().lower() for coding in said.split(",")}
    if not codings.isdisjoint(_CODINGS):
        raise MediaError(
            MediaFault.CODED,
            f"The object is stored with Content-Encoding {said[:40]}; store it plain to play it.",
        )


def _memory_size_bytes(index: _Index) -> int:
    if isinstance(index, Mp3Head):
        return _MP3_HEAD_BYTES
    return index.index.memory_size_bytes


Answer = TypeVar("Answer")


async def run_parser(parser: Generator[Span, bytes, Answer], reader: Reader) -> Answer:
    """Runs a parser to its end. Raises what it raises, and the reader's failures."""
    try:
        span = next(parser)
        while True:
            span = parser.send(await reader.read(span))
    except StopIteration as stop:
        answer: Answer = stop.value
        return answer
    finally:
        parser.close()
