"""Converts a DistributionConfig to a web distribution of the config with all its parts.

CloudFront features that this edge does not have (functions, web ACLs, real-time logs, ACM and IAM
certificates …) are refused by name. Only settings without an effect here are ignored: PriceClass,
IsIPV6Enabled, OriginShield, SmoothStreaming, the caching of OPTIONS, ConnectionAttempts, keep-alive
times and the default ViewerCertificate. Methods that an origin type never supports (PATCH of a
bucket) are not served. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from streamedge.api.documents.documents import (
    Document,
    entries_of,
    invalid,
    not_offered,
    required,
    section,
)
from streamedge.api.documents.inventory import API_PREFIX, Inventory
from streamedge.api.documents.trust import trusted_key_groups
from streamedge.api.errors import ApiError
from streamedge.api.to_config import policy_sections
from streamedge.api.to_config.log_sections import log_section
from streamedge.api.to_config.origin_sections import OriginSections
from streamedge.config.checks.web import UNSUPPORTED_METHODS
from streamedge.config.managed import FORWARD_HOST
from streamedge.config.schema.config import (
    AnyOriginConfig,
    BehaviorConfig,
    CachePolicyConfig,
    ErrorPageConfig,
    OriginGroupConfig,
    OriginRequestPolicyConfig,
    WebDistributionConfig,
    WebLogConfig,
)
from streamedge.control.resources import Kind

DEFAULT_ERROR_TTL_S = 10
BEHAVIORS_MAX = 500
ALIASES_MAX = 500
_METHOD_SETS = (
    frozenset({"GET", "HEAD"}),
    frozenset({"GET", "HEAD", "OPTIONS"}),
    frozenset(policy_sections.ALL_METHODS),
)
_NO_CACHING = {"min_ttl": 0, "default_ttl": 0, "max_ttl": 0, "error_ttl": 0}
# Members for features that the edge does not have, and the values that do not use the feature.
_NOT_OFFERED: Mapping[str, tuple[object, ...]] = {
    "WebACLId": ("",),
    "ContinuousDeploymentPolicyId": ("",),
    "Staging": (False,),
    "AnycastIpListId": ("",),
    "TenantConfig": ({},),
    "ConnectionMode": ("direct",),
    "ViewerMtlsConfig": ({},),
    "ConnectionFunctionAssociation": ({},),
}
_BEHAVIOR_NOT_OFFERED: Mapping[str, tuple[object, ...]] = {
    "FieldLevelEncryptionId": ("",),
    "RealtimeLogConfigArn": ("",),
}


@dataclass(frozen=True, slots=True)
class WebSections:
    """A distribution, and the other sections that it needs in the config."""

    distribution: WebDistributionConfig
    origins: Mapping[str, AnyOriginConfig]
    groups: Mapping[str, OriginGroupConfig]
    cache_policies: Mapping[str, CachePolicyConfig]
    origin_request_policies: Mapping[str, OriginRequestPolicyConfig]


@dataclass(slots=True)
class _Builder:
    """Collects the sections of one document."""

    inventory: Inventory
    distribution_id: str
    origins: OriginSections
    cache_policies: dict[str, CachePolicyConfig] = field(default_factory=dict)
    origin_request_policies: dict[str, OriginRequestPolicyConfig] = field(default_factory=dict)


def web_sections(inventory: Inventory, identifier: str, document: Document) -> WebSections:
    """The sections of a complete document. Raises ApiError."""
    _refuse_not_offered(document, _NOT_OFFERED, "")
    _refuse_aws_services(document)
    builder = _Builder(inventory, identifier, OriginSections(inventory, identifier, document))
    values = _behavior(builder, required(document, "DefaultCacheBehavior"), 0)
    values |= {
        "id": identifier,
        "type": "web",
        "enabled": bool(document.get("Enabled")),
        "aliases": aliases(inventory, identifier, document),
        "countries": _countries(inventory, document),
        "default_root_object": _root_object(document),
        "behaviors": _behaviors(builder, document),
        "error_pages": _error_pages(document),
        "http2": document.get("HttpVersion") != "http1.1",
        "log": log_section(WebLogConfig, inventory, document),
        "cache_tag_header": (document.get("CacheTagConfig") or {}).get("HeaderName", ""),
    }
    return WebSections(
        section(WebDistributionConfig, values, "DistributionConfig"),
        builder.origins.origins,
        builder.origins.groups,
        builder.cache_policies,
        builder.origin_request_policies,
    )


def aliases(inventory: Inventory, identifier: str, document: Document) -> list[str]:
    """The host names of a distribution: its domain name, then its Aliases. Raises ApiError."""
    names = [alias.lower() for alias in entries_of(document, "Aliases")]
    if len(names) > ALIASES_MAX:
        text = f"a distribution has at most {ALIASES_MAX} aliases"
        raise ApiError("TooManyDistributionCNAMEs", text)
    if len(set(names)) != len(names):
        raise invalid("Aliases: an alias is repeated")
    return list(dict.fromkeys((inventory.domain_name(identifier), *names)))


def _behaviors(builder: _Builder, document: Document) -> list[BehaviorConfig]:
    documents = entries_of(document, "CacheBehaviors")
    if len(documents) > BEHAVIORS_MAX:
        raise ApiError(
            "TooManyCacheBehaviors", f"a distribution has at most {BEHAVIORS_MAX} behaviors"
        )
    patterns = [required(behavior, "PathPattern") for behavior in documents]
    if len({pattern.removeprefix("/") for pattern in patterns}) != len(patterns):
        raise invalid("CacheBehaviors: a PathPattern is repeated")
    return [
        section(
            BehaviorConfig,
            {"path": pattern, **_behavior(builder, behavior, number)},
            f"CacheBehaviors: {pattern}",
        )
        for number, (pattern, behavior) in enumerate(zip(patterns, documents, strict=True), 1)
    ]


def _behavior(builder: _Builder, document: Document, number: int) -> dict[str, Any]:
    """The values of BehaviorRules except countries, which belong to the distribution."""
    where = f"the cache behavior {document.get('PathPattern', '*')}"
    _refuse_not_offered(document, _BEHAVIOR_NOT_OFFERED, where)
    for member in ("LambdaFunctionAssociations", "FunctionAssociations"):
        if entries_of(document, member):
            raise not_offered(f"{where}: {member}")
    if (document.get("GrpcConfig") or {}).get("Enabled"):
        raise not_offered(f"{where}: GrpcConfig")
    viewer_protocol = required(document, "ViewerProtocolPolicy")
    needs_https = viewer_protocol != "allow-all"
    from_file = builder.inventory.from_file
    if needs_https and not from_file.serves_https and not from_file.listen.proxies:
        text = "this edge does not listen for HTTPS and has no proxy in front of it"
        raise invalid(f"{where}: ViewerProtocolPolicy: {text}")
    policies = _policies(builder, document, number, where)
    origin = builder.origins.name_of(
        required(document, "TargetOriginId"),
        sends_viewer_host=policies.sends_viewer_host,
        needs_https=needs_https,
    )
    refused = UNSUPPORTED_METHODS.get(builder.origins.kind_of(origin), ())
    return {
        "origin": origin,
        "trusted_key_groups": trusted_key_groups(builder.inventory, document, where),
        "viewer_protocol": viewer_protocol,
        "methods": [method for method in _methods(document, where) if method not in refused],
        "compress": bool(document.get("Compress")) and policies.compresses,
        "cache_policy": policies.cache,
        "origin_request_policy": policies.origin_request,
        "response_headers_policy": policies.response_headers,
    }


@dataclass(frozen=True, slots=True)
class _Policies:
    cache: str
    origin_request: str
    response_headers: str
    compresses: bool = True
    sends_viewer_host: bool = False


def _policies(builder: _Builder, document: Document, number: int, where: str) -> _Policies:
    inventory = builder.inventory
    response_headers = document.get("ResponseHeadersPolicyId") or ""
    if response_headers:
        response_headers = inventory.policy_name(Kind.RESPONSE_HEADERS_POLICY, response_headers)
    forwarded = document.get("ForwardedValues")
    identifier = document.get("CachePolicyId") or ""
    if bool(identifier) == (forwarded is not None):
        raise invalid(f"{where}: use CachePolicyId or ForwardedValues, and not both")
    request_identifier = document.get("OriginRequestPolicyId") or ""
    if forwarded is not None:
        if request_identifier:
            raise invalid(f"{where}: OriginRequestPolicyId needs a CachePolicyId")
        name = f"{API_PREFIX}{builder.distribution_id}:{number}"
        return _legacy(builder, document, name, response_headers, where)
    cache = inventory.policy_name(Kind.CACHE_POLICY, identifier)
    cache_document = inventory.policy_document(Kind.CACHE_POLICY, identifier)
    compresses = _managed_compresses(cache)
    sends_host = _is_managed_with_host(inventory.from_file.cache_policies, cache)
    if cache_document is not None:
        compresses = policy_sections.compresses(cache_document)
        sends_host = policy_sections.forwards_host(cache_document)
    origin_request = ""
    if request_identifier:
        origin_request = inventory.policy_name(Kind.ORIGIN_REQUEST_POLICY, request_identifier)
        request_document = inventory.policy_document(Kind.ORIGIN_REQUEST_POLICY, request_identifier)
        if request_document is None:
            file_policies = inventory.from_file.origin_request_policies
            sends_host = sends_host or _is_managed_with_host(file_policies, origin_request)
        else:
            sends_host = sends_host or policy_sections.forwards_host(request_document)
    return _Policies(cache, origin_request, response_headers, compresses, sends_host)


def _is_managed_with_host(file_policies: Mapping[str, object], name: str) -> bool:
    """Whether ``name`` is a managed policy that sends Host, not one of ``file_policies``."""
    return name in FORWARD_HOST and name not in file_policies


def _managed_compresses(name: str) -> bool:
    """Whether a policy without a document allows compression: all but two managed ones do."""
    return name not in {"CachingDisabled", "CachingOptimizedForUncompressedObjects"}


def _legacy(
    builder: _Builder, document: Document, name: str, response_headers: str, where: str
) -> _Policies:
    """The policies of ForwardedValues and the TTLs of a behavior, CloudFront's older settings."""
    forwarded = document["ForwardedValues"]
    cookies = forwarded.get("Cookies") or {}
    headers = entries_of(forwarded, "Headers")
    cookie_selection: object = cookies.get("Forward", "none")
    if cookie_selection == "whitelist":
        names = entries_of(cookies, "WhitelistedNames")
        if not names:
            raise ApiError(
                "InvalidForwardCookies", f"{where}: no cookie is named in WhitelistedNames"
            )
        cookie_selection = policy_sections.selected(names, "cookie")
    key_names = entries_of(forwarded, "QueryStringCacheKeys")
    if key_names and not forwarded.get("QueryString"):
        text = f"{where}: QueryStringCacheKeys needs QueryString true"
        raise ApiError("InvalidQueryStringParameters", text)
    query: object = "all" if forwarded.get("QueryString") else "none"
    ttls = policy_sections.ttls(
        {"MinTTL": 0, "ForwardedValues": forwarded}
        | {name: document[name] for name in ("MinTTL", "DefaultTTL", "MaxTTL") if name in document}
    )
    values: dict[str, Any] = {**ttls, "cookies": cookie_selection, "query_strings": query}
    request_values: dict[str, Any] = {}
    if key_names and "*" not in key_names:
        values["query_strings"] = policy_sections.selected(key_names, "query parameter")
        request_values["query_strings"] = "all"
    if "*" in headers:  # every request goes to the origin with all headers of the viewer
        if ttls["min_ttl"]:
            raise invalid(f'{where}: MinTTL must be 0 if the header "*" is forwarded')
        values |= _NO_CACHING
        request_values["headers"] = "all"
    else:
        values["headers"] = policy_sections.keyed_headers(headers)
    builder.cache_policies[name] = section(CachePolicyConfig, values, where)
    if request_values:
        builder.origin_request_policies[name] = section(
            OriginRequestPolicyConfig, request_values, where
        )
    sends_host = any(header.lower() in {"host", "*"} for header in headers)
    return _Policies(
        name,
        name if request_values else "",
        response_headers,
        sends_viewer_host=sends_host,
    )


def _methods(document: Document, where: str) -> tuple[str, ...]:
    allowed = document.get("AllowedMethods")
    if allowed is None:
        return ("GET", "HEAD")
    methods = frozenset(allowed.get("Items") or ())
    if methods not in _METHOD_SETS:
        text = "GET and HEAD, these and OPTIONS, or all seven"
        raise invalid(f"{where}: AllowedMethods must be {text}")
    cached = frozenset((allowed.get("CachedMethods") or {}).get("Items") or ("GET", "HEAD"))
    if cached not in _METHOD_SETS[:2] or not cached <= methods:
        raise invalid(
            f"{where}: CachedMethods must be GET and HEAD, or these and OPTIONS if allowed"
        )
    return tuple(method for method in policy_sections.ALL_METHODS if method in methods)


def _countries(inventory: Inventory, document: Document) -> dict[str, Any]:
    restriction = (document.get("Restrictions") or {}).get("GeoRestriction") or {}
    kind = restriction.get("RestrictionType", "none")
    codes = list(restriction.get("Items") or ())
    if kind == "none":
        if codes:
            text = "GeoRestriction of the type none must have no Items"
            raise ApiError("InvalidGeoRestrictionParameter", text)
        return {}
    if not codes:
        text = f"GeoRestriction of the type {kind} must name countries"
        raise ApiError("InvalidGeoRestrictionParameter", text)
    if inventory.from_file.countries.database is None:
        reason = "set countries.database in config.toml"
        raise not_offered("GeoRestriction", reason)
    return {"allow" if kind == "whitelist" else "deny": codes}


def _root_object(document: Document) -> str:
    name: str = document.get("DefaultRootObject") or ""
    if name.startswith("/"):
        text = 'DefaultRootObject must not begin with "/"'
        raise ApiError("InvalidDefaultRootObject", text)
    return name


def _error_pages(document: Document) -> list[ErrorPageConfig]:
    pages = []
    statuses: set[int] = set()
    for entry in entries_of(document, "CustomErrorResponses"):
        status = required(entry, "ErrorCode")
        if status in statuses or not 400 <= status <= 599:
            text = f"CustomErrorResponses: {status} is repeated or not an error status"
            raise ApiError("InvalidErrorCode", text)
        statuses.add(status)
        path, response = entry.get("ResponsePagePath") or "", entry.get("ResponseCode") or "0"
        if bool(path) != (response != "0"):
            text = (
                f"CustomErrorResponses: {status}: ResponsePagePath and ResponseCode need each other"
            )
            raise invalid(text)
        if not (response.isascii() and response.isdigit()) or (
            path and not 200 <= int(response) <= 599
        ):
            text = f"CustomErrorResponses: {status}: ResponseCode must be a status from 200 to 599"
            raise ApiError("InvalidResponseCode", text)
        ttl_s = entry.get("ErrorCachingMinTTL")
        values = {
            "status": status,
            "path": path,
            "response_status": int(response),
            "ttl": DEFAULT_ERROR_TTL_S if ttl_s is None else ttl_s,
        }
        pages.append(section(ErrorPageConfig, values, f"CustomErrorResponses: {status}"))
    return pages


def _refuse_not_offered(
    document: Document, members: Mapping[str, tuple[object, ...]], where: str
) -> None:
    for member, unused_values in members.items():
        if document.get(member) is not None and document[member] not in unused_values:
            raise not_offered(f"{where}: {member}" if where else member)


def _refuse_aws_services(document: Document) -> None:
    certificate = document.get("ViewerCertificate") or {}
    for member in ("ACMCertificateArn", "IAMCertificateId", "Certificate"):
        if certificate.get(member):
            reason = "declare certificates in config.toml, under [[certificates]]"
            raise not_offered(f"ViewerCertificate: {member}", reason)
