"""Selection of the stored response for a request, by key and Vary (RFC 9111 §4, §4.1).

The record under the primary key says by which fields the responses vary. The response that a
request selects is stored under the key of its variant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple, Protocol

from streamedge.cache.bounded_map import BoundedMap
from streamedge.cache.lookup.reuse_decision import Versions, is_refused
from streamedge.cache.origin_requests import CacheRequest
from streamedge.cache.rfc9111.vary import variant_key
from streamedge.cache.storage.records import Asset, Record
from streamedge.cache.storage.store import Store
from streamedge.origin.peer.tier import TieredObject


class VaryingVersions(Versions, Protocol):
    """The parts of the cache used here.

    ``varying``: the fields by which the responses of a key vary, as this worker has seen them.
    """

    store: Store
    varying: BoundedMap[tuple[str, ...]]

    def begin_to_vary(self, key: str, varies_by: tuple[str, ...]) -> None: ...


class Selected(NamedTuple):
    """The stored response that a request selects (RFC 9111 §4.1).

    ``asset`` is that of the variant. ``why`` is Cache-Status's fwd reason if a request to the
    origin is needed. ``lookups_ended``: how many lookups of the key had ended before the record was
    read from the disk; None: it was in memory, or not looked for.
    """

    asset: Asset
    record: Record | None
    why: str
    lookups_ended: int | None = None


def select(cache: VaryingVersions, request: CacheRequest) -> Selected:
    """Selects the stored response of a request's variant."""
    asset = request.asset
    record, lookups_ended = _usable_record(cache, asset)
    why = "uri-miss"
    if record is not None and record.varies_by:
        _update_vary(cache, asset.key, record.varies_by)
        asset = select_variant(asset, record.varies_by, request.selected_by)
        record, lookups_ended = _usable_record(cache, asset)
        why = "vary-miss"
    if record is None:
        return Selected(asset, None, why, lookups_ended)
    if record.is_marker:
        return Selected(asset, None, "uri-miss", lookups_ended)
    return Selected(asset, record, "stale", lookups_ended)


def select_variant(asset: Asset, varies_by: tuple[str, ...], fields: Mapping[str, str]) -> Asset:
    """The asset of the variant that request fields select."""
    key = variant_key(asset.key, varies_by, fields)
    origin = asset.origin
    if isinstance(origin, TieredObject):
        origin = origin.for_variant(key)
    return replace(asset, key=key, origin=origin, parent_keys=(asset.key, *asset.parent_keys))


def key_of_variant(
    cache: VaryingVersions, key: str, origin_fields: Callable[[], Mapping[str, str]]
) -> str:
    """The key of the variant that a request selects, as far as this worker has seen its Vary.

    ``origin_fields`` returns the fields that the origin would be sent.
    """
    varies_by = cache.varying.get(key)
    return key if varies_by is None else variant_key(key, varies_by, origin_fields())


def save_vary(cache: VaryingVersions, key: str, varies_by: tuple[str, ...]) -> None:
    """Saves the fields by which the responses of a key vary, if they are new."""
    if not varies_by:
        cache.varying.pop(key)
        return
    _update_vary(cache, key, varies_by)
    stored = cache.store.load_record(key)
    if stored is None or stored.varies_by != varies_by:
        cache.begin_to_vary(key, varies_by)


def _usable_record(cache: VaryingVersions, asset: Asset) -> tuple[Record | None, int | None]:
    """The record stored under the asset's key, unless it was refused; and, if it was read from the
    disk, how many lookups of the key had ended before.
    """
    open_object = cache.find_open(asset.key, asset.subject)
    # If its files were removed or replaced, the stored record counts: it may be another one.
    if open_object is not None and not open_object.files.evicted:
        return open_object.record, None
    ended = cache.store.changes.lookups_ended(asset.key)
    record = cache.store.load_record(asset.key)
    if record is not None and is_refused(cache, asset, record):
        record = None
    return record, ended


def _update_vary(cache: VaryingVersions, key: str, varies_by: tuple[str, ...]) -> None:
    if cache.varying.get(key) != varies_by:
        cache.varying.put(key, varies_by, sum(map(len, varies_by)))
