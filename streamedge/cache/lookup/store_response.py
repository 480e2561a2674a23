"""Stores a response of the origin under the key of its variant.

A small body that arrives at once is stored whole (``storage.inline_body``). Any other response
becomes an open object, and is its first fill.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from streamedge.cache.lookup.hit_for_miss import HitForMiss
from streamedge.cache.lookup.selection import VaryingVersions, save_vary, select_variant
from streamedge.cache.open_object import OpenObject
from streamedge.cache.origin_requests import CacheRequest
from streamedge.cache.rfc9111.vary import parse_vary
from streamedge.cache.storage.extent import EXTENT_BYTES
from streamedge.cache.storage.inline_body import INLINE_BYTES_MAX
from streamedge.cache.storage.records import Asset, Record
from streamedge.errors import CacheFullError
from streamedge.origin.objects import ResponseRead
from streamedge.origin.peer.tier import TieredObject

SMALL_BODY_WAIT_S = 0.02  # for the rest of a small body; after that it is stored as it comes


class StoringVersions(VaryingVersions, Protocol):
    """The parts of the cache used here: its store, and the versions that it opens."""

    hit_for_miss: HitForMiss

    def activate(self, asset: Asset, record: Record) -> OpenObject: ...

    def store_small(self, asset: Asset, record: Record, body: bytes) -> OpenObject | None: ...

    def open_unlisted(self, asset: Asset, record: Record) -> OpenObject: ...

    def drop(self, open_object: OpenObject) -> None: ...

    def remember(self, asset: Asset, record: Record) -> bool: ...


def store_response(
    cache: StoringVersions,
    request: CacheRequest,
    record: Record,
    read: ResponseRead | None,
    body: bytes | None,
    *,
    is_shared: bool,
) -> OpenObject | None:
    """Begins to store a response under the key of its variant. Only this request can
    read it unless it is ``is_shared``. ``body``: all of it, if it is small and was received.

    None: neither disk nor memory has space, so the response has to be passed through.
    """
    base, varies_by = request.asset, parse_vary(record.head.headers)
    if is_shared:
        save_vary(cache, base.key, varies_by)
    asset = select_variant(base, varies_by, request.selected_by) if varies_by else base
    record = record if record.key == asset.key else replace(record, key=asset.key)
    if body is not None:
        small_object = cache.store_small(asset, record, body)
        if small_object is not None:
            if read is not None:
                read.close_now()
            cache.hit_for_miss.end(base.key)
            return small_object
    open_version = cache.activate if is_shared else cache.open_unlisted
    open_object = open_version(asset, record)
    if read is not None:
        try:
            if not open_object.files.is_complete(read.span.start):
                open_object.extent_to_fill(read.span.start // EXTENT_BYTES)
        except CacheFullError:
            cache.drop(open_object)
            return None
        if open_object.files.ready_end(read.span.start, read.span.end) == read.span.end:
            read.close_now()  # all of this version is cached already
        else:
            is_tiered = isinstance(asset.origin, TieredObject)
            open_object.adopt(read, read.trailers, ends_with_extent=is_tiered)
    if is_shared:
        cache.hit_for_miss.end(base.key)
        if record.head.version.has_ended:
            cache.remember(asset, record)
    return open_object


async def small_body(record: Record, read: ResponseRead | None) -> bytes | None:
    """The whole body of a small response that arrives at once; None: it is stored as it comes."""
    size_bytes = record.head.version.size_bytes
    if read is None or not 0 < size_bytes <= INLINE_BYTES_MAX or read.span.size != size_bytes:
        return None
    return await read.buffered(SMALL_BODY_WAIT_S)
