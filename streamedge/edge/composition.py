"""From a config to the things it names: origins, and what serves HTTP.

Owns construction alone; nothing here runs. What serves RTMP is put together in
``rtmp_composition``.
"""

from __future__ import annotations

from collections.abc import Iterator

from streamedge.cache.cache import Cache
from streamedge.cache.freshness import TtlRules
from streamedge.config.schema import (
    AnyOriginConfig,
    Config,
    DirectoryOriginConfig,
    HttpOriginConfig,
    WebDistributionConfig,
)
from streamedge.delivery.distributions import HostTable, OriginBinding
from streamedge.delivery.web.behaviors import CachePolicy
from streamedge.delivery.web.routes import Rule, WebDistribution
from streamedge.delivery.web.server import WebServer
from streamedge.delivery.web.site import Site
from streamedge.edge.web_composition import error_pages, web_behaviors
from streamedge.ops.log import Log
from streamedge.ops.metrics import Counts
from streamedge.origin import Origin
from streamedge.origin.directory import DirectoryOrigin
from streamedge.origin.http import HttpOrigin
from streamedge.origin.objects import ObjectUpstream
from streamedge.origin.s3 import S3Origin


def bind_origins(config: Config) -> dict[str, OriginBinding]:
    """All origins of the config, by name."""
    return {name: _bind(name, origin) for name, origin in config.origins.items()}


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
        log,
        counts,
        connections_max=limits.http_connections,
        handshake_s=limits.tls_handshake,
        idle_s=limits.http_idle,
        stall_s=limits.http_stall,
    )


def _web_distributions(
    config: Config, bindings: dict[str, OriginBinding]
) -> Iterator[WebDistribution]:
    for declared in config.distributions:
        if isinstance(declared, WebDistributionConfig):
            yield WebDistribution(
                declared.id,
                declared.aliases,
                tuple(
                    Rule(behavior, bindings[behavior.origin], ttl_rules(behavior.cache))
                    for behavior in web_behaviors(config, declared)
                ),
                declared.default_root_object,
                error_pages(declared),
            )


def ttl_rules(policy: CachePolicy) -> TtlRules:
    """A cache policy's times."""
    return TtlRules(
        policy.min_ttl_s,
        policy.default_ttl_s,
        policy.max_ttl_s,
        policy.error_ttl_s,
        policy.strict,
    )


def _bind(name: str, declared: AnyOriginConfig) -> OriginBinding:
    origin = _origin(declared)
    if isinstance(origin, HttpOrigin):
        assert isinstance(declared, HttpOriginConfig)
        return OriginBinding(
            name,
            _identity(declared),
            origin,
            origin,
            is_site=True,
            sends_viewer_host=declared.host == "viewer",
        )
    return OriginBinding(name, _identity(declared), origin, ObjectUpstream(origin))


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
