"""Makes assets and requests to origins from the descriptions of other edges.

The description has been made by ``delivery.hosts.describe`` from an asset of the same kind.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from streamedge.cache.rfc9111.freshness import TtlRules
from streamedge.cache.storage.records import Asset, InvalidationTarget
from streamedge.delivery.hosts import OriginBinding
from streamedge.delivery.http.request.origin_request import loop_id
from streamedge.keys import join_key
from streamedge.origin import Fields, OriginRequest, Upstream
from streamedge.origin.peer.protocol import PeerRequest
from streamedge.origin.peer.tier import Tier, TieredObject


class PeerAsset(NamedTuple):
    """What another edge requests: the asset, its upstream, and the request to the origin."""

    asset: Asset
    upstream: Upstream
    request: OriginRequest


def find_binding(request: PeerRequest, bindings: dict[str, OriginBinding]) -> OriginBinding | None:
    """The origin of a request: the one of that name, or another one with the same identity."""
    identity = request.asset.identity
    named = bindings.get(request.asset.origin_name)
    if named is not None and named.identity == identity:
        return named
    return next((one for one in bindings.values() if one.identity == identity), None)


def peer_asset(
    request: PeerRequest, binding: OriginBinding, tier: Tier, edge_name: str
) -> PeerAsset | None:
    """What ``request`` is for; None if its key is not one of the origin's."""
    described = request.asset
    if not described.key.startswith(join_key(described.identity)):
        return None
    sent = OriginRequest(
        "GET",
        described.name,
        request.query,
        tuple(_with_hop(list(request.fields), edge_name)),
        path=request.path,
    )
    upstream = tier.upstream(described, binding.upstream, binding.is_pending)
    asset = Asset(
        described.key,
        described.name,
        TieredObject(binding.name, upstream, sent),
        binding.name,
        TtlRules(*described.rules),
        described.parent_keys,
        InvalidationTarget(described.scope, described.target, described.tag_field),
    )
    return PeerAsset(asset, upstream, replace(sent, method=request.method))


def variant_of(target: PeerAsset, key: str) -> Asset:
    """The asset of a variant, whose key the other edge knows; "" for no variant."""
    asset, origin = target.asset, target.asset.origin
    if not key or not isinstance(origin, TieredObject):
        return asset
    parent_keys = (asset.key, *asset.parent_keys)
    return replace(asset, key=key, origin=origin.for_variant(key), parent_keys=parent_keys)


def _with_hop(fields: Fields, edge_name: str) -> Fields:
    """A request's fields with this edge in Via and CDN-Loop, where they have these fields."""
    hops = {"via": f"1.1 {edge_name} (StreamEdge)", "cdn-loop": loop_id(edge_name)}
    return [
        (name, f"{value}, {hops[name.lower()]}" if name.lower() in hops else value)
        for name, value in fields
    ]
