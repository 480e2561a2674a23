"""Converts CloudFront policy documents to policies of the config.

Header fields that the edge sets itself cannot be selected (``config.schema.field_names``), and
headers that CloudFront computes for origins (``CloudFront-*``) do not exist here: naming either is
refused, not ignored. CloudFront selects Host as a header, the edge as the origin's host setting;
``forwards_host`` says whether a document selects it. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from streamedge.api.documents.documents import (
    Document,
    entries_of,
    invalid,
    not_offered,
    required,
    section,
)
from streamedge.api.errors import ApiError
from streamedge.config.schema.config import (
    CachePolicyConfig,
    OriginRequestPolicyConfig,
    ResponseHeadersPolicyConfig,
)
from streamedge.config.schema.field_names import (
    CONDITION_FIELDS,
    EDGE_OWNED,
    FRAMING_FIELDS,
    SCHEME_FIELDS,
    dashed_name,
)

DEFAULT_TTL_S = 86_400
MAX_TTL_S = 31_536_000
ALL_METHODS = ("GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE")
CORS_MAX_AGE_S = 600
_HSTS = "Strict-Transport-Security"
_MODES = {"whitelist": "only", "allExcept": "except"}


def cache_policy(document: Document) -> CachePolicyConfig:
    """The section of a CachePolicyConfig. Raises ApiError."""
    parameters = document.get("ParametersInCacheKeyAndForwardedToOrigin") or {}
    return section(
        CachePolicyConfig,
        {
            **ttls(document),
            "query_strings": _selection(parameters.get("QueryStringsConfig"), "QueryString"),
            "cookies": _selection(parameters.get("CookiesConfig"), "Cookie"),
            "headers": keyed_headers(_names(parameters.get("HeadersConfig"), "Headers")),
        },
        "CachePolicyConfig",
    )


def ttls(document: Document) -> dict[str, float]:
    """MinTTL, DefaultTTL and MaxTTL. Raises ApiError if they are not in this order.

    If DefaultTTL or MaxTTL is absent, it is CloudFront's default, or the TTL before it if that is
    longer.
    """
    min_ttl = required(document, "MinTTL")
    default_ttl = document.get("DefaultTTL")
    default_ttl = max(DEFAULT_TTL_S, min_ttl) if default_ttl is None else default_ttl
    max_ttl = document.get("MaxTTL")
    max_ttl = max(MAX_TTL_S, default_ttl) if max_ttl is None else max_ttl
    if not min_ttl <= default_ttl <= max_ttl:
        text = (
            f"MinTTL {min_ttl}, DefaultTTL {default_ttl} and MaxTTL {max_ttl} are not in this order"
        )
        raise ApiError(
            "InvalidTTLOrder" if "ForwardedValues" in document else "InvalidArgument", text
        )
    return {"min_ttl": min_ttl, "default_ttl": default_ttl, "max_ttl": max_ttl}


def compresses(document: Document) -> bool:
    """Whether a behavior's Compress has an effect with this cache policy."""
    parameters = document.get("ParametersInCacheKeyAndForwardedToOrigin") or {}
    names = ("EnableAcceptEncodingGzip", "EnableAcceptEncodingBrotli")
    return any(parameters.get(name) for name in names)


def origin_request_policy(document: Document) -> OriginRequestPolicyConfig:
    """The section of an OriginRequestPolicyConfig. Raises ApiError."""
    return section(
        OriginRequestPolicyConfig,
        {
            "query_strings": _selection(document.get("QueryStringsConfig"), "QueryString"),
            "cookies": _selection(document.get("CookiesConfig"), "Cookie"),
            "headers": _forwarded_headers(document.get("HeadersConfig") or {}),
        },
        "OriginRequestPolicyConfig",
    )


def forwards_host(document: Document) -> bool:
    """Whether the document of a cache or origin request policy selects the viewer's Host."""
    parameters = document.get("ParametersInCacheKeyAndForwardedToOrigin") or document
    config = parameters.get("HeadersConfig") or {}
    names = {name.lower() for name in entries_of(config, "Headers")}
    match config.get("HeaderBehavior"):
        case "whitelist":
            return "host" in names
        case "allExcept":
            return "host" not in names
        case "allViewer" | "allViewerAndWhitelistCloudFront":
            return True
    return False


def keyed_headers(names: Iterable[str]) -> list[str]:
    """The names of headers in the cache key; Host is allowed. Raises ApiError."""
    return list(_selectable(names, allowed={"host"}))


def selected(names: Iterable[str], kind: str) -> dict[str, list[str]] | str:
    """The selection of ``names`` of query parameters or cookies. Raises ApiError for a wildcard."""
    selection = list(names)
    _refuse_wildcards(selection, kind)
    return {"only": selection} if selection else "none"


def _refuse_wildcards(names: Iterable[str], kind: str) -> None:
    for name in names:
        if "*" in name:
            raise not_offered(f"a wildcard in a name ({kind} {name})")


def response_headers_policy(document: Document) -> ResponseHeadersPolicyConfig:
    """The section of a ResponseHeadersPolicyConfig. Raises ApiError."""
    security = document.get("SecurityHeadersConfig") or {}
    replaced: dict[str, str] = {}
    added: dict[str, str] = {}
    removed = [entry["Header"] for entry in entries_of(document, "RemoveHeadersConfig")]
    for name in removed:
        if name.lower() in FRAMING_FIELDS:
            raise invalid(f"RemoveHeadersConfig: {name} is set by the edge and cannot be removed")
    for member, (header, header_value) in _SECURITY_HEADERS.items():
        if settings := security.get(member):
            (replaced if settings.get("Override") else added)[header] = header_value(settings)
    for entry in entries_of(document, "CustomHeadersConfig"):
        (replaced if entry.get("Override") else added)[entry["Header"]] = entry["Value"]
    hsts = ""
    if settings := security.get("StrictTransportSecurity"):
        hsts = _hsts(settings)
        if settings.get("Override"):
            removed.append(_HSTS)  # removes the origin's header, because hsts does not replace one
    timing = document.get("ServerTimingHeadersConfig") or {}
    return section(
        ResponseHeadersPolicyConfig,
        {
            "remove": removed,
            "set": replaced,
            "add": added,
            "hsts": hsts,
            "cors": _cors(document.get("CorsConfig") or {}),
            "server_timing": float(timing.get("SamplingRate") or 0)
            if timing.get("Enabled")
            else 0.0,
        },
        "ResponseHeadersPolicyConfig",
    )


def _names(config: Document | None, member: str) -> list[str]:
    """The names in the list of a selection; [] without a list."""
    return [] if config is None else entries_of(config, member)


def _selection(config: Document | None, kind: str) -> object:
    """A selection of query parameters or cookies, in the form of the config."""
    if config is None:
        return "none"
    behavior = config.get(f"{kind}Behavior", "none")
    if behavior not in _MODES:
        return behavior
    names = entries_of(config, "QueryStrings" if kind == "QueryString" else "Cookies")
    if not names:
        raise invalid(f"{kind}Behavior is {behavior}, so a name is required")
    _refuse_wildcards(names, kind)
    return {_MODES[behavior]: names}


def _forwarded_headers(config: Document) -> object:
    names = entries_of(config, "Headers")
    match config.get("HeaderBehavior", "none"):
        case "whitelist":
            forwarded = list(_selectable((name for name in names if name.lower() != "host"), set()))
            if not names:
                raise invalid("HeaderBehavior is whitelist, so a name is required")
            return forwarded or "none"
        case "allExcept":
            return {"except": names}
        case "allViewer":
            return "all"
        case "allViewerAndWhitelistCloudFront":
            if names:
                raise not_offered(f"the header {names[0]}")
            return "all"
    return "none"


def _selectable(names: Iterable[str], allowed: set[str]) -> Iterable[str]:
    for name in names:
        lowered = name.lower()
        if lowered.startswith("cloudfront-") and lowered not in SCHEME_FIELDS:
            raise not_offered(f"the header {name}")
        if dashed_name(name) in (EDGE_OWNED | CONDITION_FIELDS) - allowed:
            raise invalid(f"Headers: {name} is set by the edge and cannot be selected")
        yield name


def _cors(config: Document) -> dict[str, Any]:
    if not config:
        return {}
    lists = {
        name: entries_of(config, member)
        for name, member in (
            ("origins", "AccessControlAllowOrigins"),
            ("headers", "AccessControlAllowHeaders"),
            ("expose", "AccessControlExposeHeaders"),
        )
    }
    credentials = bool(config.get("AccessControlAllowCredentials"))
    for name, entries in lists.items():
        if credentials and "*" in entries:
            raise invalid(f'CorsConfig: "*" in {name} is not allowed with credentials')
    methods = entries_of(config, "AccessControlAllowMethods")
    max_age_s = config.get("AccessControlMaxAgeSec")
    return {
        **lists,
        "origins": [origin for entry in lists["origins"] for origin in _with_scheme(entry)],
        "methods": list(ALL_METHODS) if "ALL" in methods else methods,
        "max_age": CORS_MAX_AGE_S if max_age_s is None else max_age_s,
        "credentials": credentials,
        "override": bool(config.get("OriginOverride")),
    }


def _with_scheme(origin: str) -> tuple[str, ...]:
    """The origins of an entry: a host without a scheme means both schemes."""
    if origin in {"*", "null"} or "://" in origin:
        return (origin,)
    return (f"https://{origin}", f"http://{origin}")


def _hsts(settings: Document) -> str:
    text = f"max-age={settings['AccessControlMaxAgeSec']}"
    if settings.get("IncludeSubdomains"):
        text += "; includeSubDomains"
    return text + ("; preload" if settings.get("Preload") else "")


def _xss_protection(settings: Document) -> str:
    if not settings.get("Protection"):
        return "0"
    text = "1; mode=block" if settings.get("ModeBlock") else "1"
    return text + (f"; report={settings['ReportUri']}" if settings.get("ReportUri") else "")


_SECURITY_HEADERS: dict[str, tuple[str, Callable[[Document], str]]] = {
    "ContentSecurityPolicy": (
        "Content-Security-Policy",
        lambda settings: str(settings["ContentSecurityPolicy"]),
    ),
    "ContentTypeOptions": ("X-Content-Type-Options", lambda _settings: "nosniff"),
    "FrameOptions": ("X-Frame-Options", lambda settings: str(settings["FrameOption"])),
    "ReferrerPolicy": ("Referrer-Policy", lambda settings: str(settings["ReferrerPolicy"])),
    "XSSProtection": ("X-XSS-Protection", _xss_protection),
}
