"""Builds the HTTP server from a config: its distributions, limits and access logs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from streamedge.access.geo import CountryDatabase
from streamedge.build.web_rules import error_pages, web_behaviors
from streamedge.cache.objects import Cache
from streamedge.cache.rfc9111.freshness import TtlRules
from streamedge.config.schema.config import (
    Config,
    DistributionConfig,
    WebDistributionConfig,
)
from streamedge.delivery.hosts import HostTable, OriginBinding
from streamedge.delivery.http.handler import HttpHandler
from streamedge.delivery.http.policy.behaviors import Behavior, CachePolicy, ErrorPage
from streamedge.delivery.http.request.routing import Rule, WebDistribution
from streamedge.delivery.http.response.cloudfront_log import LogRules, WebLog
from streamedge.delivery.http.server import WebServer
from streamedge.delivery.nearest import NearestEdges
from streamedge.logs.spool import SpoolWriter
from streamedge.logs.spool_names import LogFormat, SpoolTarget
from streamedge.ops.log import Log
from streamedge.ops.metrics import Counts
from streamedge.write_back.queue import WriteQueue


def web_server(
    config: Config,
    bindings: dict[str, OriginBinding],
    cache: Cache,
    log: Log,
    counts: Counts,
    write_queue: WriteQueue | None = None,
    countries: CountryDatabase | None = None,
    descriptors_end: int = 0,
    nearest: NearestEdges | None = None,
    spool: SpoolWriter | None = None,
) -> WebServer:
    """The HTTP server for the config's web distributions; ``nearest``: None in a fleet of one.

    ``spool`` takes the lines of access logs.
    """
    limits = config.limits
    handler = HttpHandler(
        config.edge.name,
        web_distributions(config, bindings),
        cache,
        log,
        counts,
        write_queue=write_queue,
        request_body_bytes=limits.request_body,
        url_bytes=limits.url,
        ranges_max=limits.ranges,
        proxies=config.listen.proxies,
        countries=countries,
        signature_bytes=limits.signature,
        memory_bytes=limits.request_memory,
        alt_svc=config.listen.alt_svc,
        nearest=nearest,
        web_log=WebLog(
            config.edge.name,
            spool,
            _unknown_country if countries is None else countries.country,
            _log_rules(config),
        ),
        logs_responses=config.edge.log_responses,
    )
    return WebServer(
        handler,
        log,
        counts,
        connections_max=limits.http_connections,
        handshake_s=limits.tls_handshake,
        idle_s=limits.http_idle,
        stall_s=limits.http_stall,
        body_rate=limits.http_body_rate,
        per_address_max=limits.http_connections_per_address,
        descriptors_end=descriptors_end,
    )


def replace_web(
    server: WebServer, config: Config, distributions: HostTable[WebDistribution]
) -> None:
    """Replaces the config and the distributions of a running server."""
    limits = config.limits
    server.handler.replace(
        distributions,
        request_body_bytes=limits.request_body,
        url_bytes=limits.url,
        ranges_max=limits.ranges,
        memory_bytes=limits.request_memory,
        alt_svc=config.listen.alt_svc,
        log_rules=_log_rules(config),
        logs_responses=config.edge.log_responses,
    )
    server.limit(
        limits.tls_handshake,
        limits.http_idle,
        limits.http_stall,
        limits.http_body_rate,
        limits.http_connections_per_address,
    )


def web_distributions(
    config: Config, bindings: Mapping[str, OriginBinding]
) -> HostTable[WebDistribution]:
    """The web distributions that are enabled, by host name. Raises KeyFileError."""
    return HostTable(_distributions(config, bindings))


def _distributions(
    config: Config, bindings: Mapping[str, OriginBinding]
) -> Iterator[WebDistribution]:
    for section in config.distributions:
        if isinstance(section, WebDistributionConfig) and section.enabled:
            yield WebDistribution(
                section.id,
                section.aliases,
                tuple(
                    Rule(
                        behavior,
                        bindings[behavior.origin],
                        ttl_rules(behavior.cache, error_pages(section)),
                    )
                    for behavior in web_behaviors(config, section)
                ),
                section.default_root_object,
                error_pages(section),
                section.cache_tag_header.lower(),
                section.http2,
                section.nearest_from if section.nearest and config.fleet.engine else None,
            )


def ttl_rules(policy: CachePolicy, pages: Mapping[int, ErrorPage]) -> TtlRules:
    """A cache policy's times, with those of a distribution's error pages."""
    return TtlRules(
        policy.min_ttl_s,
        policy.default_ttl_s,
        policy.max_ttl_s,
        policy.error_ttl_s,
        policy.strict,
        tuple((status, page.ttl_s) for status, page in pages.items()),
    )


_LOG_FORMATS = {"standard": LogFormat.WEB, "realtime": LogFormat.REALTIME}


def _log_rules(config: Config) -> Mapping[str, LogRules]:
    """The access logs of the config's web distributions, by id."""
    return {
        section.id: LogRules(
            SpoolTarget(section.id, _LOG_FORMATS[section.log.format], section.log.interval),
            _log_domain(config, section),
            section.log.cookies,
            _patterns(section) if section.log.format == "realtime" else (),
        )
        for section in config.distributions
        if isinstance(section, WebDistributionConfig) and section.log.origin
    }


def _patterns(section: WebDistributionConfig) -> tuple[Behavior, ...]:
    return tuple(Behavior(pattern, "") for pattern in [*(b.path for b in section.behaviors), "*"])


def _log_domain(config: Config, section: DistributionConfig) -> str:
    """The name of a distribution in cs(Host): its first alias that is a host name.

    The API gives its distributions a name of their own as the first alias; one without any has a
    name of the same form.
    """
    names = (alias for alias in section.aliases if "*" not in alias)
    return next(names, f"{section.id}.{config.edge.name}.streamedge".lower())


def _unknown_country(_address: str) -> str:
    return ""
