"""Finds the distribution of a host name, and the asset of an object name in it.

Pure lookups in the configuration. HTTP and RTMP both use them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

from streamedge.cache.rfc9111.freshness import TtlRules
from streamedge.cache.storage.records import Asset, InvalidationTarget
from streamedge.control.invalidations import target_of
from streamedge.keys import join_key
from streamedge.memo import cache_short_texts
from streamedge.origin import Origin, OriginRequest, Upstream
from streamedge.origin.names import site_path
from streamedge.origin.peer.protocol import AssetDescription, TtlParts
from streamedge.origin.peer.tier import Tier, TieredObject, never_pending
from streamedge.origin.s3.protocol import S3Relay
from streamedge.origin.writing import WritableOrigin

_HOSTS_REMEMBERED = 256
_HOST_LENGTH_REMEMBERED = 300


@dataclass(frozen=True, slots=True)
class OriginBinding:
    """An origin as distributions use it.

    ``identity`` is its address (a bucket at an endpoint, a URL, a folder). It is part of cache
    keys, so cached objects survive a rename of the origin and never belong to another one.
    ``is_site``: an HTTP server that gets any request; otherwise the origin has objects only.
    ``bucket``: its S3 name, which S3 clients put before the object's; ``relay`` makes their calls.
    ``first`` gets a group's writes; ``groups`` are the identities of the groups that contain it.
    ``tier``: what cacheable requests go through; None: they go from this edge to the origin.
    ``is_pending``: whether a write of an object waits on an edge of the fleet.
    """

    name: str
    identity: str
    origin: Origin
    upstream: Upstream
    is_site: bool = False
    sends_viewer_host: bool = False
    writer: WritableOrigin | None = None
    relay: S3Relay | None = None
    bucket: str = ""
    first: OriginBinding | None = None
    groups: tuple[str, ...] = ()
    tier: Tier | None = None
    is_pending: Callable[[str], bool] = never_pending

    def key_part(self, name: str) -> str:
        """The part of a key that identifies an object or resource within the origin."""
        return site_path(name) if self.is_site else name

    @property
    def write_target(self) -> OriginBinding:
        """The origin that a write goes to."""
        return self.first or self

    def write_keys(self, *parts: str) -> tuple[str, ...]:
        """The keys of all assets that a write changes; ``parts`` are what follows the identity."""
        target = self.write_target
        return tuple(join_key(identity, *parts) for identity in (target.identity, *target.groups))


@dataclass(frozen=True, slots=True)
class Distribution:
    """A distribution of either kind. ``aliases`` are host names, "*.suffix" or "*"."""

    id: str
    aliases: tuple[str, ...]
    binding: OriginBinding
    rules: TtlRules

    def asset(self, name: str) -> Asset:
        """The asset of an object's name."""
        binding = self.binding
        asset = Asset(
            key=join_key(binding.identity, binding.key_part(name)),
            name=name,
            origin=binding.origin,
            origin_name=binding.name,
            rules=self.rules,
            subject=InvalidationTarget(self.id, target_of(name)),
        )
        if binding.tier is None:
            return asset
        described = describe(asset, binding.identity, is_object=True)
        upstream = binding.tier.upstream(described, binding.upstream, binding.is_pending)
        return replace(
            asset, origin=TieredObject(binding.name, upstream, OriginRequest("GET", name))
        )


def describe(
    asset: Asset,
    identity: str,
    *,
    is_object: bool,
    directives: tuple[tuple[str, str], ...] = (),
) -> AssetDescription:
    """An asset for other edges; ``identity`` is its origin's."""
    return AssetDescription(
        identity,
        asset.origin_name,
        asset.key,
        asset.name,
        _parts(asset.rules),
        asset.parent_keys,
        *asset.subject,
        is_object,
        directives,
    )


def _parts(rules: TtlRules) -> TtlParts:
    return (
        rules.min_ttl_s,
        rules.default_ttl_s,
        rules.max_ttl_s,
        rules.error_ttl_s,
        rules.strict,
        rules.error_ttls,
    )


class HasAliases(Protocol):
    """Anything with host names."""

    @property
    def aliases(self) -> tuple[str, ...]: ...


Entry = TypeVar("Entry", bound=HasAliases)


class HostTable(Generic[Entry]):
    """Finds by host name: an exact alias first, then the longest "*.suffix", then "*"."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._exact: dict[str, list[Entry]] = {}
        self._suffixes: dict[str, list[Entry]] = {}
        self._any: list[Entry] = []
        self._remembered = cache_short_texts(_HOSTS_REMEMBERED, _HOST_LENGTH_REMEMBERED)(
            self._search
        )
        for entry in entries:
            for alias in entry.aliases:
                pattern = alias.lower()
                if pattern == "*":
                    self._any.append(entry)
                elif pattern.startswith("*."):
                    self._suffixes.setdefault(pattern[1:], []).append(entry)
                else:
                    self._exact.setdefault(pattern, []).append(entry)

    def has_exact(self, host: str) -> bool:
        """Whether an alias without a pattern is ``host`` (without its port)."""
        return host_name(host) in self._exact

    def find(self, host: str) -> Sequence[Entry]:
        """All entries whose aliases match ``host`` (without its port), the closest match first."""
        return self._remembered(host)

    def _search(self, host: str) -> Sequence[Entry]:
        name = host_name(host)
        entries = list(self._exact.get(name, ()))
        at = name.find(".")
        while at >= 0:
            entries += self._suffixes.get(name[at:], ())
            at = name.find(".", at + 1)
        return entries + self._any


# A name or address, and a port. A host with a "/" would begin the path: of a signed URL, too.
_HOST = re.compile(r"[A-Za-z0-9._~-]+(?::[0-9]*)?|\[[0-9A-Fa-f:.]+\](?::[0-9]*)?")


def is_host(host: str) -> bool:
    """Whether a Host header's value is a name or an address, with a port or without."""
    return _HOST.fullmatch(host) is not None


def host_name(host: str) -> str:
    """A Host header's or tcUrl's host in lower case, without port, dot at the end and brackets."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0].rstrip(".") if host.count(":") == 1 else host.rstrip(".")
