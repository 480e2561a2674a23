"""Policies that need no table in the file: CloudFront's managed ones, by its names and ids.

Owns their contents (Amazon CloudFront Developer Guide, "Using the managed cache policies", "…
origin request policies", "… response headers policies"), so that what names one means the same
here, and the finding of policies by name, the file's own first. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from streamedge.config.schema import (
    CachePolicyConfig,
    CorsConfig,
    OriginRequestPolicyConfig,
    ResponseHeadersPolicyConfig,
    Section,
)
from streamedge.config.selection import ALL, NONE, Kept, Selection

IDS: dict[str, str] = {
    "658327ea-f89d-4fab-a63d-7e88639e58f6": "CachingOptimized",
    "4135ea2d-6df8-44a3-9df3-4b5a84be39ad": "CachingDisabled",
    "b2884449-e4de-46a7-ac36-70bc7f1ddd6d": "CachingOptimizedForUncompressedObjects",
    "216adef6-5c7f-47e4-b989-5492eafa07d3": "AllViewer",
    "b689b0a8-53d0-40ab-baf2-68738e2966ac": "AllViewerExceptHostHeader",
    "88a5eaf4-2fd4-4709-b370-b4c650ea3fcf": "CORS-S3Origin",
    "60669652-455b-4ae9-85a4-c4c02393f86c": "SimpleCORS",
    "67f7725c-6f97-4210-82d7-5512b31e9d03": "SecurityHeadersPolicy",
}

_OPTIMIZED = CachePolicyConfig(min_ttl=1.0, query_strings=NONE)

CACHE_POLICIES: dict[str, CachePolicyConfig] = {
    # The two differ in Accept-Encoding alone, which here is the business of compress.
    "CachingOptimized": _OPTIMIZED,
    "CachingOptimizedForUncompressedObjects": _OPTIMIZED,
    "CachingDisabled": CachePolicyConfig(
        min_ttl=0.0, default_ttl=0.0, max_ttl=0.0, query_strings=NONE, error_ttl=0.0
    ),
}
ORIGIN_REQUEST_POLICIES: dict[str, OriginRequestPolicyConfig] = {
    # Host is the origin's own key "host" here, so the two are one.
    "AllViewer": OriginRequestPolicyConfig(query_strings=ALL, headers=ALL, cookies=ALL),
    "AllViewerExceptHostHeader": OriginRequestPolicyConfig(
        query_strings=ALL, headers=Selection(Kept.EXCEPT, ("Host",)), cookies=ALL
    ),
    "CORS-S3Origin": OriginRequestPolicyConfig(
        headers=Selection(
            Kept.ONLY,
            ("Origin", "Access-Control-Request-Headers", "Access-Control-Request-Method"),
        )
    ),
}
RESPONSE_HEADERS_POLICIES: dict[str, ResponseHeadersPolicyConfig] = {
    "SimpleCORS": ResponseHeadersPolicyConfig(cors=CorsConfig(origins=("*",), override=False)),
    "SecurityHeadersPolicy": ResponseHeadersPolicyConfig(
        set={"X-Content-Type-Options": "nosniff"},
        add={
            "Referrer-Policy": "strict-origin-when-cross-origin",
            "X-Frame-Options": "SAMEORIGIN",
            "X-XSS-Protection": "1; mode=block",
        },
        hsts="max-age=31536000",
    ),
}
MANAGED: dict[str, Mapping[str, Section]] = {
    "cache_policies": CACHE_POLICIES,
    "origin_request_policies": ORIGIN_REQUEST_POLICIES,
    "response_headers_policies": RESPONSE_HEADERS_POLICIES,
}
"""By the table of the file that holds an operator's own."""
POLICY_TABLES = {
    "cache_policy": "cache_policies",
    "origin_request_policy": "origin_request_policies",
    "response_headers_policy": "response_headers_policies",
}
"""From the key that names a policy to the table of the file that holds an operator's own."""

Policy = TypeVar("Policy", bound=Section)


def find(name: str, own: Mapping[str, Policy], managed: Mapping[str, Policy]) -> Policy:
    """The policy that ``name``, a name or a managed one's id, means. KeyError for none."""
    return own[name] if name in own else managed[IDS.get(name, name)]


def spoken_name(name: str) -> str:
    """``name``, or for a managed policy's id its name."""
    return IDS.get(name, name)


def managed_names(table: str) -> tuple[str, ...]:
    """Names and ids of the managed policies beside those of the file's ``table``."""
    names = MANAGED[table]
    return (*names, *(identifier for identifier, name in IDS.items() if name in names))
