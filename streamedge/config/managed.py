"""CloudFront's managed policies, by name and id; they need no table in the file.

Contents: Amazon CloudFront Developer Guide, "Using the managed cache policies", "… origin request
policies", "… response headers policies". A policy of the file comes first. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from streamedge.config.schema.config import (
    CachePolicyConfig,
    CorsConfig,
    OriginRequestPolicyConfig,
    ResponseHeadersPolicyConfig,
    Section,
)
from streamedge.config.schema.selection import SELECT_ALL, SELECT_NONE, Selection, SelectionMode

MANAGED_IDS: dict[str, str] = {
    "658327ea-f89d-4fab-a63d-7e88639e58f6": "CachingOptimized",
    "4135ea2d-6df8-44a3-9df3-4b5a84be39ad": "CachingDisabled",
    "b2884449-e4de-46a7-ac36-70bc7f1ddd6d": "CachingOptimizedForUncompressedObjects",
    "08627262-05a9-4f76-9ded-b50ca2e3a84f": "Elemental-MediaPackage",
    "83da9c7e-98b4-4e11-a168-04f0df8e2c65": "UseOriginCacheControlHeaders",
    "4cc15a8a-d715-48a4-82b8-cc0b614638fe": "UseOriginCacheControlHeaders-QueryStrings",
    "216adef6-5c7f-47e4-b989-5492eafa07d3": "AllViewer",
    "b689b0a8-53d0-40ab-baf2-68738e2966ac": "AllViewerExceptHostHeader",
    "59781a5b-3903-41f3-afcb-af62929ccde1": "CORS-CustomOrigin",
    "88a5eaf4-2fd4-4709-b370-b4c650ea3fcf": "CORS-S3Origin",
    "775133bc-15f2-49f9-abea-afb2e0bf67d2": "Elemental-MediaTailor-PersonalizedManifests",
    "bf0718e1-ba1e-49d1-88b1-f726733018ae": "HostHeaderOnly",
    "acba4595-bd28-49b8-b9fe-13317c0390fa": "UserAgentRefererHeaders",
    "60669652-455b-4ae9-85a4-c4c02393f86c": "SimpleCORS",
    "67f7725c-6f97-4210-82d7-5512b31e9d03": "SecurityHeadersPolicy",
    "5cc3b908-e619-4b99-88e5-2cf7f45965bd": "CORS-With-Preflight",
    "e61eb60c-9c35-4d20-a928-2b84e02af89c": "CORS-and-SecurityHeadersPolicy",
    "eaab4381-ed33-4a86-88ca-d9558dc6cd63": "CORS-with-preflight-and-SecurityHeadersPolicy",
}
NOT_OFFERED: dict[str, str] = {
    "2e54312d-136d-493c-8eb9-b001f22f67d2": "Amplify",
    "33f36d7e-f396-46d9-90e0-52428a34d9dc": "AllViewerAndCloudFrontHeaders-2022-06",
}
"""Managed policies that send headers computed by CloudFront (``CloudFront-*``) to origins."""
FORWARD_HOST = frozenset(
    {
        "AllViewer",
        "HostHeaderOnly",
        "UseOriginCacheControlHeaders",
        "UseOriginCacheControlHeaders-QueryStrings",
    }
)
"""Managed policies that send the viewer's Host to origins."""

_OPTIMIZED = CachePolicyConfig(min_ttl=1.0, query_strings=SELECT_NONE)
_BY_THE_ORIGIN = CachePolicyConfig(
    default_ttl=0.0,
    query_strings=SELECT_NONE,
    headers=("Host", "Origin", "X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"),
    cookies=SELECT_ALL,
)

CACHE_POLICIES: dict[str, CachePolicyConfig] = {
    # The two differ in Accept-Encoding only, which here the key compress handles.
    "CachingOptimized": _OPTIMIZED,
    "CachingOptimizedForUncompressedObjects": _OPTIMIZED,
    "CachingDisabled": CachePolicyConfig(
        min_ttl=0.0, default_ttl=0.0, max_ttl=0.0, query_strings=SELECT_NONE, error_ttl=0.0
    ),
    "Elemental-MediaPackage": CachePolicyConfig(
        headers=("Origin",),
        query_strings=Selection(SelectionMode.ONLY, ("aws.manifestfilter", "start", "end", "m")),
    ),
    "UseOriginCacheControlHeaders": _BY_THE_ORIGIN,
    "UseOriginCacheControlHeaders-QueryStrings": _BY_THE_ORIGIN.model_copy(
        update={"query_strings": SELECT_ALL}
    ),
}
_CORS_HEADERS = ("Origin", "Access-Control-Request-Headers", "Access-Control-Request-Method")
ORIGIN_REQUEST_POLICIES: dict[str, OriginRequestPolicyConfig] = {
    # Host is the origin's own key "host" here, so the two are one.
    "AllViewer": OriginRequestPolicyConfig(
        query_strings=SELECT_ALL, headers=SELECT_ALL, cookies=SELECT_ALL
    ),
    "AllViewerExceptHostHeader": OriginRequestPolicyConfig(
        query_strings=SELECT_ALL,
        headers=Selection(SelectionMode.EXCEPT, ("Host",)),
        cookies=SELECT_ALL,
    ),
    "CORS-CustomOrigin": OriginRequestPolicyConfig(
        headers=Selection(SelectionMode.ONLY, ("Origin",))
    ),
    "CORS-S3Origin": OriginRequestPolicyConfig(
        headers=Selection(SelectionMode.ONLY, _CORS_HEADERS)
    ),
    "Elemental-MediaTailor-PersonalizedManifests": OriginRequestPolicyConfig(
        query_strings=SELECT_ALL,
        headers=Selection(SelectionMode.ONLY, (*_CORS_HEADERS, "User-Agent")),
    ),
    "HostHeaderOnly": OriginRequestPolicyConfig(),
    "UserAgentRefererHeaders": OriginRequestPolicyConfig(
        headers=Selection(SelectionMode.ONLY, ("User-Agent", "Referer"))
    ),
}
EDGE_HEADERS: dict[str, tuple[str, ...]] = {
    "Elemental-MediaTailor-PersonalizedManifests": ("X-Forwarded-For",),
    "HostHeaderOnly": ("Host",),
}
"""Headers of managed origin request policies that a selection cannot have: the edge always sends
X-Forwarded-For, and Host is a setting of the origin."""
_SIMPLE_CORS = CorsConfig(origins=("*",), override=False)
_PREFLIGHT_CORS = CorsConfig(
    origins=("*",),
    methods=("GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"),
    expose=("*",),
    override=False,
)
_SECURITY_HEADERS = ResponseHeadersPolicyConfig(
    set={"X-Content-Type-Options": "nosniff"},
    add={
        "Referrer-Policy": "strict-origin-when-cross-origin",
        "X-Frame-Options": "SAMEORIGIN",
        "X-XSS-Protection": "1; mode=block",
    },
    hsts="max-age=31536000",
)
RESPONSE_HEADERS_POLICIES: dict[str, ResponseHeadersPolicyConfig] = {
    "SimpleCORS": ResponseHeadersPolicyConfig(cors=_SIMPLE_CORS),
    "SecurityHeadersPolicy": _SECURITY_HEADERS,
    "CORS-With-Preflight": ResponseHeadersPolicyConfig(cors=_PREFLIGHT_CORS),
    "CORS-and-SecurityHeadersPolicy": _SECURITY_HEADERS.model_copy(update={"cors": _SIMPLE_CORS}),
    "CORS-with-preflight-and-SecurityHeadersPolicy": _SECURITY_HEADERS.model_copy(
        update={"cors": _PREFLIGHT_CORS}
    ),
}
MANAGED_POLICIES: dict[str, Mapping[str, Section]] = {
    "cache_policies": CACHE_POLICIES,
    "origin_request_policies": ORIGIN_REQUEST_POLICIES,
    "response_headers_policies": RESPONSE_HEADERS_POLICIES,
}
"""By the table of the file that has the operator's own policies."""
POLICY_TABLES = {
    "cache_policy": "cache_policies",
    "origin_request_policy": "origin_request_policies",
    "response_headers_policy": "response_headers_policies",
}
"""From the key that names a policy to the table of the file with the operator's own policies."""

Policy = TypeVar("Policy", bound=Section)


def find(name: str, own: Mapping[str, Policy], managed: Mapping[str, Policy]) -> Policy:
    """The policy with this name or managed id. Raises KeyError."""
    return own[name] if name in own else managed[MANAGED_IDS.get(name, name)]


def display_name(name: str) -> str:
    """The name of a policy, given its name or managed id."""
    return MANAGED_IDS.get(name, name)


def managed_names(table: str) -> tuple[str, ...]:
    """Names and ids of the managed policies of the same kind as those in ``table``."""
    names = MANAGED_POLICIES[table]
    return (*names, *(identifier for identifier, name in MANAGED_IDS.items() if name in names))
