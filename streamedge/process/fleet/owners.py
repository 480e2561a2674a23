"""Which edges of a tier own the parts of an object, by its URL."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from streamedge.admin.fleet import OwnerError
from streamedge.build.origins import bind_origins
from streamedge.build.rtmp import rtmp_distributions
from streamedge.build.web import web_distributions
from streamedge.config.schema.config import Config
from streamedge.delivery.hosts import OriginBinding
from streamedge.delivery.http.request.cache_request import asset_key
from streamedge.delivery.http.request.request import web_request
from streamedge.delivery.http.request.routing import Route, find_route
from streamedge.delivery.rtmp.stream_names import candidates, choose_application, stream_names
from streamedge.fleet.members import Member
from streamedge.fleet.ownership import owners, ranks
from streamedge.keys import join_key
from streamedge.ops.log import Log
from streamedge.ops.metrics import Counts
from streamedge.origin.peer.tier import TIER_EXTENT_BYTES

PARTS_SHOWN = 4


def find_owners(
    config: Config, log: Log, url: str, members: Mapping[str, Member]
) -> dict[str, Any]:
    """The object of a URL, its tier, and for its first parts the members by rank.

    Raises OwnerError.
    """
    bindings = bind_origins(config, log, Counts())
    scheme = urlsplit(url).scheme
    if scheme in {"http", "https"}:
        name, origin, key = _web_object(config, bindings, url)
    elif scheme in {"rtmp", "rtmps"}:
        name, origin, key = _stream(config, bindings, url)
    else:
        raise OwnerError(f"{url[:100]!a} is no URL: write http://HOST/PATH or rtmp://HOST/APP/NAME")
    section = config.origins.get(origin) or config.origin_groups[origin]
    tier = getattr(section, "tier", "")
    if not tier:
        raise OwnerError(f"the origin {origin} has no tier: each edge requests it directly")
    present = owners(config.fleet.tiers.get(tier, ()), members)
    if not present:
        raise OwnerError(f"no edge of the tier {tier} serves now: see streamedge fleet")
    return {
        "object": name,
        "origin": origin,
        "tier": tier,
        "part_bytes": TIER_EXTENT_BYTES,
        "parts": [
            [member.name for member in ranks(key, part, present)] for part in range(PARTS_SHOWN)
        ],
    }


def _web_object(
    config: Config, bindings: dict[str, OriginBinding], url: str
) -> tuple[str, str, str]:
    """The name, the origin and the cache key of a request that has only a URL."""
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    request = web_request(
        "GET",
        target.encode(),
        [(b"host", parts.netloc.rpartition("@")[2].encode())],
        client="",
        address="",
        proxies=(),
        keep_alive=False,
        started_s=time.monotonic(),
        secure=parts.scheme == "https",
        http_version="1.1",
    )
    route = find_route(
        web_distributions(config, bindings), request.host, request.path, request.query
    )
    if not isinstance(route, Route):
        raise OwnerError(f"no distribution serves {url[:100]!a}: {route.reason}")
    behavior = route.rule.behavior
    return route.name, route.rule.binding.name, asset_key(route, behavior.cache, request)


def _stream(config: Config, bindings: dict[str, OriginBinding], url: str) -> tuple[str, str, str]:
    """The likeliest object of a stream, its origin and its cache key."""
    parts = urlsplit(url)
    path = parts.path.strip("/")
    distributions = rtmp_distributions(config, bindings).find(parts.hostname or "")
    segments = path.split("/")
    # The application is the longest one that the path begins with.
    for length in range(len(segments) - 1, 0, -1):
        application = "/".join(segments[:length])
        offers = [distribution.applications for distribution in distributions]
        choice = choose_application(application, "", offers)
        if choice is None or choice[1].missing:
            continue
        distribution, match = distributions[choice[0]], choice[1]
        for stream in stream_names(match, "/".join(segments[length:])):
            for name in candidates(stream):
                binding = distribution.binding
                return name, binding.name, join_key(binding.identity, binding.key_part(name))
    raise OwnerError(f"no distribution has the application of {url[:100]!a}")
