"""From a config to the things it names: origins, and what serves HTTP.

Owns construction alone; nothing here runs. What serves RTMP is put together in
``rtmp_composition``.
"""

from __future__ import annotations

from collections.abc import Iterator

from streamedge.cache.cache import Cache
from streamedge.config.schema import (
    AnyOriginConfig,
    Config,
    DirectoryOriginConfig,
    HttpOriginConfig,
    WebDistributionConfig,
)
from streamedge.delivery.distributions import Distribution, HostTable, OriginBinding
from streamedge.delivery.web.server import WebServer
from streamedge.delivery.web.site import Site
from streamedge.ops.log import Log
from streamedge.ops.metrics import Counts
from streamedge.origin import Origin
from streamedge.origin.directory import DirectoryOrigin
from streamedge.origin.http import HttpOrigin
from streamedge.origin.s3 import S3Origin


def bind_origins(config: Config) -> dict[str, OriginBinding]:
    """All origins of the config, by name."""
    return {
        name: OriginBinding(name, _identity(origin), _origin(origin))
        for name, origin in config.origins.items()
    }


def web_server(
    config: Config, bindings: dict[str, OriginBinding], cache: Cache, log: Log, counts: Counts
) -> WebServer:
    """What serves the config's web distributions."""
    site = Site(
        config.edge.name, HostTable(_web_distributions(config, bindings)), cache, log, counts
    )
    limits = config.limits
    return WebServer(
        site,
        counts,
        connections_max=limits.http_connections,
        idle_s=limits.http_idle,
        stall_s=limits.http_stall,
    )


def _web_distributions(
    config: Config, bindings: dict[str, OriginBinding]
) -> Iterator[Distribution]:
    for declared in config.distributions:
        if isinstance(declared, WebDistributionConfig):
            yield Distribution(
                declared.id, declared.aliases, bindings[declared.origin], declared.default_ttl
            )


def _origin(declared: AnyOriginConfig) -> Origin:
    if isinstance(declared, DirectoryOriginConfig):
        return DirectoryOrigin(declared.path, declared.prefix)
    if isinstance(declared, HttpOriginConfig):
        return HttpOrigin(
            declared.url,
            declared.prefix,
            connect_timeout_s=declared.connect_timeout,
            read_timeout_s=declared.read_timeout,
            connections_max=declared.connections,
        )
    return S3Origin(
        declared.bucket,
        declared.prefix,
        region=declared.region,
        endpoint=declared.endpoint,
        access_key_id=declared.access_key_id,
        secret_access_key=declared.secret_access_key.get_secret_value(),
        anonymous=declared.anonymous,
        connect_timeout_s=declared.connect_timeout,
        read_timeout_s=declared.read_timeout,
        connections_max=declared.connections,
    )


def _identity(declared: AnyOriginConfig) -> str:
    """What an origin is, whatever the config calls it; no secrets."""
    if isinstance(declared, DirectoryOriginConfig):
        return f"directory {declared.path} {declared.prefix}"
    if isinstance(declared, HttpOriginConfig):
        return f"http {declared.url} {declared.prefix}"
    return f"s3 {declared.endpoint or declared.region} {declared.bucket} {declared.prefix}"
