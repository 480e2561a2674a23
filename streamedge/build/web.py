"""Builds the HTTP server from a config: its distributions, limits and access logs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from streamedge.build.parts import ServerParts
from streamedge.build.web_rules import error_pages, web_behaviors
from streamedge.cache.rfc9111.freshness import TtlRules
from streamedge.config.schema.config import (
    Config,
    DistributionConfig,
    WebDistributionConfig,
)
from streamedge.delivery.hosts import HostTable, OriginBinding
from streamedge.delivery.http.handler import HandlerRules, HttpHandler
from streamedge.delivery.http.listeners import TimeLimits
from streamedge.delivery.http.policy.behaviors import Behavior, CachePolicy, ErrorPage
from streamedge.delivery.http.request.routing import Rule, WebDistribution
from streamedge.delivery.http.response.cloudfront_log import LogRules
from streamedge.delivery.http.server import WebServer
from streamedge.delivery.net.accept import AcceptRules
from streamedge.logs.spool_names import LogFormat, SpoolTarget


def web_server(config: Config, parts: ServerParts) -> WebServer:
    """The HTTP server for the config's web distributions. Raises KeyFileError."""
    limits = config.limits
    handler = HttpHandler(
        config.edge.name,
        _handler_rules(config, web_distributions(config, parts.bindings)),
        parts.cache,
        parts.log,
        parts.counts,
        write_queue=parts.write_queue,
        countries=parts.countries,
        signature_bytes=limits.signature,
        proxies=config.listen.proxies,
        nearest=parts.nearest,
        spool=parts.spool,
    )
    rules = AcceptRules(
        config.listen.proxies,
        limits.http_connections,
        limits.http_connections_per_address,
        parts.descriptors_end,
    )
    return WebServer(
        handler, parts.log, parts.counts, rules, _time_limits(config), limits.http_connections
    )


def replace_web(
    server: WebServer, config: Config, distributions: HostTable[WebDistribution]
) -> None:
    """Replaces the config and the distributions of a running server."""
    server.handler.replace(_handler_rules(config, distributions))
    server.limit(_time_limits(config), config.limits.http_connections_per_address)


def _handler_rules(config: Config, distributions: HostTable[WebDistribution]) -> HandlerRules:
    limits = config.limits
    return HandlerRules(
        distributions,
        request_body_bytes=limits.request_body,
        url_bytes=limits.url,
        ranges_max=limits.ranges,
        memory_bytes=limits.request_memory,
        alt_svc=config.listen.alt_svc,
        log_rules=_log_rules(config),
        logs_responses=config.edge.log_responses,
    )


def _time_limits(config: Config) -> TimeLimits:
    limits = config.limits
    return TimeLimits(
        limits.tls_handshake, limits.http_idle, limits.http_stall, limits.http_body_rate
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
        if not isinstance(section, WebDistributionConfig) or not section.enabled:
            continue
        pages = error_pages(section)
        yield WebDistribution(
            section.id,
            section.aliases,
            tuple(
                Rule(behavior, bindings[behavior.origin], ttl_rules(behavior.cache, pages))
                for behavior in web_behaviors(config, section)
            ),
            root_object=section.default_root_object,
            error_pages=pages,
            cache_tag_header=section.cache_tag_header.lower(),
            http2=section.http2,
            nearest_from_bytes=section.nearest_from
            if section.nearest and config.fleet.engine
            else None,
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
