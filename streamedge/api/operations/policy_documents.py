"""Policies of the config, managed or from the file, as CloudFront documents.

This is the inverse of ``policy_sections``: a document from here means the same when it is sent
back. Settings that CloudFront does not have (strict, viewer_directives, error_ttl) are left out.
Pure.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from streamedge.api.documents.documents import listing
from streamedge.config.schema.config import (
    CachePolicyConfig,
    CorsConfig,
    OriginRequestPolicyConfig,
    ResponseHeadersPolicyConfig,
)
from streamedge.config.schema.selection import Selection, SelectionMode

_BEHAVIORS = {
    SelectionMode.ONLY: "whitelist",
    SelectionMode.EXCEPT: "allExcept",
    SelectionMode.ALL: "all",
    SelectionMode.NONE: "none",
}
_HSTS = re.compile(r"max-age=([0-9]{1,10})(; includeSubDomains)?(; preload)?")
_XSS_PROTECTION = re.compile(r"([01])(; mode=block)?(?:; report=(.+))?")


def cache_policy_document(
    name: str, policy: CachePolicyConfig, *, gzip: bool = True, brotli: bool = True
) -> dict[str, Any]:
    """A CachePolicyConfig; ``gzip``, ``brotli``: whether a behavior's Compress has an effect."""
    headers: dict[str, Any] = {"HeaderBehavior": "none"}
    if policy.headers:
        headers = {"HeaderBehavior": "whitelist", "Headers": listing(policy.headers)}
    return {
        "Name": name,
        "Comment": "",
        "MinTTL": _seconds(policy.min_ttl),
        "DefaultTTL": _seconds(policy.default_ttl),
        "MaxTTL": _seconds(policy.max_ttl),
        "ParametersInCacheKeyAndForwardedToOrigin": {
            "EnableAcceptEncodingGzip": gzip,
            "EnableAcceptEncodingBrotli": brotli,
            "HeadersConfig": headers,
            "CookiesConfig": _selection(policy.cookies, "Cookie", "Cookies"),
            "QueryStringsConfig": _selection(policy.query_strings, "QueryString", "QueryStrings"),
        },
    }


def origin_request_policy_document(
    name: str, policy: OriginRequestPolicyConfig, *, edge_headers: Sequence[str] = ()
) -> dict[str, Any]:
    """An OriginRequestPolicyConfig; ``edge_headers`` are listed after those of the policy."""
    headers = _selection(policy.headers, "Header", "Headers")
    if edge_headers:
        names = (*policy.headers.names, *edge_headers)
        headers = {"HeaderBehavior": "whitelist", "Headers": listing(names)}
    if policy.headers.mode is SelectionMode.ALL:
        headers["HeaderBehavior"] = "allViewer"
    return {
        "Name": name,
        "Comment": "",
        "HeadersConfig": headers,
        "CookiesConfig": _selection(policy.cookies, "Cookie", "Cookies"),
        "QueryStringsConfig": _selection(policy.query_strings, "QueryString", "QueryStrings"),
    }


def response_headers_policy_document(
    name: str, policy: ResponseHeadersPolicyConfig
) -> dict[str, Any]:
    """A ResponseHeadersPolicyConfig."""
    security: dict[str, Any] = {}
    custom: list[dict[str, Any]] = []
    for headers, override in ((policy.set, True), (policy.add, False)):
        for header, value in headers.items():
            member, settings = _security_header(header, value)
            if member and member not in security:
                security[member] = {"Override": override, **settings}
            else:
                custom.append({"Header": header, "Value": value, "Override": override})
    removed = list(policy.remove)
    if policy.hsts:
        override = "Strict-Transport-Security" in removed
        if match := _HSTS.fullmatch(policy.hsts):
            if override:
                removed.remove("Strict-Transport-Security")
            security["StrictTransportSecurity"] = {
                "Override": override,
                "IncludeSubdomains": bool(match[2]),
                "Preload": bool(match[3]),
                "AccessControlMaxAgeSec": int(match[1]),
            }
        else:
            custom.append(
                {
                    "Header": "Strict-Transport-Security",
                    "Value": policy.hsts,
                    "Override": False,
                }
            )
    document: dict[str, Any] = {"Name": name, "Comment": ""}
    if policy.cors.origins:
        document["CorsConfig"] = _cors(policy.cors)
    if security:
        document["SecurityHeadersConfig"] = security
    document["ServerTimingHeadersConfig"] = {
        "Enabled": policy.server_timing > 0,
        "SamplingRate": policy.server_timing,
    }
    document["CustomHeadersConfig"] = listing(custom)
    document["RemoveHeadersConfig"] = listing([{"Header": header} for header in removed])
    return document


def _seconds(duration_s: float) -> int:
    return round(duration_s)


def _selection(selection: Selection, name: str, member: str) -> dict[str, Any]:
    document: dict[str, Any] = {f"{name}Behavior": _BEHAVIORS[selection.mode]}
    if selection.names:
        document[member] = listing(selection.names)
    return document


def _security_header(header: str, value: str) -> tuple[str, dict[str, Any]]:
    """The member of SecurityHeadersConfig for a header, and its settings; "" if there is none."""
    match header.lower():
        case "content-security-policy":
            return "ContentSecurityPolicy", {"ContentSecurityPolicy": value}
        case "x-content-type-options" if value == "nosniff":
            return "ContentTypeOptions", {}
        case "x-frame-options" if value in {"DENY", "SAMEORIGIN"}:
            return "FrameOptions", {"FrameOption": value}
        case "referrer-policy":
            return "ReferrerPolicy", {"ReferrerPolicy": value}
        case "x-xss-protection":
            if match := _XSS_PROTECTION.fullmatch(value):
                xss: dict[str, Any] = {"Protection": match[1] == "1", "ModeBlock": bool(match[2])}
                return "XSSProtection", xss | ({"ReportUri": match[3]} if match[3] else {})
    return "", {}


def _cors(cors: CorsConfig) -> dict[str, Any]:
    lists: dict[str, Sequence[str]] = {
        "AccessControlAllowOrigins": cors.origins,
        "AccessControlAllowHeaders": cors.headers,
        "AccessControlAllowMethods": cors.methods,
        "AccessControlExposeHeaders": cors.expose,
    }
    return {
        **{member: listing(entries) for member, entries in lists.items()},
        "AccessControlAllowCredentials": cors.credentials,
        "AccessControlMaxAgeSec": _seconds(cors.max_age),
        "OriginOverride": cors.override,
    }
