"""Builds the rules of web distributions from a config, including all defaults. Pure.

A behavior inherits from its distribution; a policy is the config's own or a managed policy of
CloudFront, and ``strict`` changes defaults.
"""

from __future__ import annotations

from streamedge.build.access_rules import access_rules
from streamedge.config import managed
from streamedge.config.schema.config import (
    BehaviorRules,
    Config,
    CorsConfig,
    HttpOriginConfig,
    OriginRequestPolicyConfig,
    ResponseHeadersPolicyConfig,
    WebDistributionConfig,
)
from streamedge.config.schema.selection import Selection
from streamedge.delivery.http.policy.behaviors import (
    Behavior,
    CachePolicy,
    ErrorPage,
    OriginRequestPolicy,
    ViewerProtocol,
    WriteMode,
)
from streamedge.delivery.http.policy.response_headers import (
    NO_POLICY,
    CorsPolicy,
    ResponseHeadersPolicy,
)

ALWAYS_SERVED = frozenset({"GET", "HEAD"})


def writes_back(config: Config) -> bool:
    """Whether any behavior answers writes before their origin has them."""
    return any(
        rules.write == "back"
        for section in config.distributions
        if isinstance(section, WebDistributionConfig)
        for rules in (section, *map(section.rules_for, section.behaviors))
    )


def web_behaviors(config: Config, distribution: WebDistributionConfig) -> tuple[Behavior, ...]:
    """The distribution's behaviors in their order; the last is its default, with pattern "*"."""
    behaviors = [
        _behavior(config, behavior.path, distribution.rules_for(behavior))
        for behavior in distribution.behaviors
    ]
    return (*behaviors, _behavior(config, "*", distribution.rules_for()))


def error_pages(distribution: WebDistributionConfig) -> dict[int, ErrorPage]:
    """The distribution's error pages by the status that they replace."""
    return {
        page.status: ErrorPage(
            page.status, page.path, page.response_status or page.status, page.ttl
        )
        for page in distribution.error_pages
    }


def origin_names(config: Config, name: str) -> tuple[str, ...]:
    """The origins of ``name``: those of a group, in its order, or a single one."""
    group = config.origin_groups.get(name)
    return group.origins if group else (name,)


def _behavior(config: Config, pattern: str, rules: BehaviorRules) -> Behavior:
    return Behavior(
        pattern=pattern,
        origin=rules.origin,
        methods=ALWAYS_SERVED.union(rules.methods),
        viewer_protocol=ViewerProtocol(rules.viewer_protocol),
        cache=_cache_policy(config, rules),
        origin_request=_origin_request_policy(config, rules.origin_request_policy),
        response_headers=_response_headers_policy(config, rules.response_headers_policy),
        compress=rules.compress,
        write=WriteMode(rules.write),
        lists_objects="PUT" in rules.methods if rules.s3_listing is None else rules.s3_listing,
        access=access_rules(config, rules.trusted_key_groups, rules.countries),
    )


def _cache_policy(config: Config, rules: BehaviorRules) -> CachePolicy:
    name = rules.cache_policy
    # An origin that is sent the viewer's Host may answer each host differently.
    host = ("host",) if _sends_viewers_host(config, rules.origin) else ()
    if not name:
        return CachePolicy(default_ttl_s=rules.default_ttl, headers=host)
    policy = managed.find(name, config.cache_policies, managed.CACHE_POLICIES)
    strict, keys = policy.strict, policy.model_fields_set
    headers = tuple(dict.fromkeys((*host, *map(str.lower, policy.headers))))
    return CachePolicy(
        name=managed.display_name(name),
        strict=strict,
        viewer_directives=policy.viewer_directives if "viewer_directives" in keys else strict,
        min_ttl_s=policy.min_ttl,
        default_ttl_s=0.0 if strict and "default_ttl" not in keys else policy.default_ttl,
        max_ttl_s=policy.max_ttl,
        error_ttl_s=policy.error_ttl,
        query_strings=policy.query_strings,
        headers=headers,
        cookies=policy.cookies,
    )


def _sends_viewers_host(config: Config, name: str) -> bool:
    origins = [config.origins[member] for member in origin_names(config, name)]
    return any(isinstance(o, HttpOriginConfig) and o.host == "viewer" for o in origins)


def _origin_request_policy(config: Config, name: str) -> OriginRequestPolicy:
    if not name:
        return OriginRequestPolicy()
    own = config.origin_request_policies
    policy: OriginRequestPolicyConfig = managed.find(name, own, managed.ORIGIN_REQUEST_POLICIES)
    headers = policy.headers
    return OriginRequestPolicy(
        name=managed.display_name(name),
        query_strings=policy.query_strings,
        headers=Selection(headers.mode, tuple(map(str.lower, headers.names))),
        cookies=policy.cookies,
    )


def _response_headers_policy(config: Config, name: str) -> ResponseHeadersPolicy:
    if not name:
        return NO_POLICY
    own = config.response_headers_policies
    policy: ResponseHeadersPolicyConfig = managed.find(name, own, managed.RESPONSE_HEADERS_POLICIES)
    return ResponseHeadersPolicy(
        name=managed.display_name(name),
        removed=frozenset(map(str.lower, policy.remove)),
        replaced=tuple(policy.set.items()),
        added=tuple(policy.add.items()),
        hsts=policy.hsts,
        cors=_cors(policy.cors) if policy.cors.origins else None,
        server_timing_percent=policy.server_timing,
    )


def _cors(section: CorsConfig) -> CorsPolicy:
    return CorsPolicy(
        origins=section.origins,
        methods=section.methods,
        headers=section.headers,
        exposed=section.expose,
        max_age_s=int(section.max_age),
        credentials=section.credentials,
        overrides=section.override,
    )
