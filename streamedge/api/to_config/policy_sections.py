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
from streamedge.config.schema.field_names import CONDITIONS, EDGE_OWNED, FRAMING, dashed_name

STANDARD_TTL_S = 86_400
MOST_TTL_S = 31_536_000
ALL_METHODS = ("GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE")
CORS_MAX_AGE_S = 600
_HSTS = "Strict-Transport-Security"
_KEPT = {"whitelist": "only", "allExcept": "except"}


def cache_policy(document: Document) -> CachePolicyConfig:
    """The section of a CachePolicyConfig. Raises ApiError."""
    parameters = document.get("ParametersInCacheKeyAndForwardedToOrigin") or {}
    return section(
        CachePolicyConfig,
        {
            **times(document),
            "query_strings": _selection(parameters.get("QueryStringsConfig"), "QueryString"),
            "cookies": _selection(parameters.get("CookiesConfig"), "Cookie"),
            "headers": keyed_headers(_named(parameters.get("HeadersConfig"), "Headers")),
        },
        "CachePolicyConfig",
    )


def times(document: Document) -> dict[str, float]:
    """MinTTL, DefaultTTL and MaxTTL; the last two are CloudFront's where left out, or the least
    that MinTTL allows. Raises ApiError for times out of order."""
    least = required(document, "MinTTL")
    standard = document.get("DefaultTTL")
    standard = max(STANDARD_TTL_S, least) if standard is None else standard
    most = document.get("MaxTTL")
    most = max(MOST_TTL_S, standard) if most is None else most
    if not least <= standard <= most:
        text = f"MinTTL {least}, DefaultTTL {standard} and MaxTTL {most} are not in this order"
        raise ApiError(
            "InvalidTTLOrder" if "ForwardedValues" in document else "InvalidArgument", text
        )
    return {"min_ttl": least, "default_ttl": standard, "max_ttl": most}


def compresses(document: Document) -> bool:
    """Whether a behavior's Compress counts with this cache policy."""
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
    """Whether a cache or origin request policy's document asks for the viewer's Host."""
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
    """Headers that may tell responses apart; Host among them. Raises ApiError."""
    return list(_selectable(names, allowed={"host"}))


def selected(names: Iterable[str], what: str) -> dict[str, list[str]] | str:
    """Only ``names`` of query parameters or cookies. Raises ApiError for a wildcard."""
    found = list(names)
    for name in found:
        if "*" in name:
            raise not_offered(f"a wildcard in a name ({what} {name})")
    return {"only": found} if found else "none"


def response_headers_policy(document: Document) -> ResponseHeadersPolicyConfig:
    """The section of a ResponseHeadersPolicyConfig. Raises ApiError."""
    security = document.get("SecurityHeadersConfig") or {}
    replaced: dict[str, str] = {}
    added: dict[str, str] = {}
    removed = [entry["Header"] for entry in entries_of(document, "RemoveHeadersConfig")]
    for name in removed:
        if name.lower() in FRAMING:
            raise invalid(f"RemoveHeadersConfig: {name} is the edge's own, it cannot be removed")
    for member, (header, spell) in _SECURITY_HEADERS.items():
        if said := security.get(member):
            (replaced if said.get("Override") else added)[header] = spell(said)
    for entry in entries_of(document, "CustomHeadersConfig"):
        (replaced if entry.get("Override") else added)[entry["Header"]] = entry["Value"]
    hsts = ""
    if said := security.get("StrictTransportSecurity"):
        hsts = _hsts(said)
        if said.get("Override"):
            removed.append(_HSTS)  # removed first, so that the origin sent none
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


def _named(config: Document | None, member: str) -> list[str]:
    """The names of a selection that has a list of them, none for "none"."""
    return [] if config is None else entries_of(config, member)


def _selection(config: Document | None, what: str) -> object:
    """A selection of query parameters or cookies, as the config writes it."""
    if config is None:
        return "none"
    behavior = config.get(f"{what}Behavior", "none")
    if behavior not in _KEPT:
        return behavior
    names = entries_of(config, "QueryStrings" if what == "QueryString" else "Cookies")
    if not names:
        raise invalid(f"{what}Behavior is {behavior}, and no name is given")
    said = selected(names, what)
    assert isinstance(said, dict)
    return {_KEPT[behavior]: said["only"]}


def _forwarded_headers(config: Document) -> object:
    names = entries_of(config, "Headers")
    match config.get("HeaderBehavior", "none"):
        case "whitelist":
            kept = list(_selectable((name for name in names if name.lower() != "host"), set()))
            if not names:
                raise invalid("HeaderBehavior is whitelist, and no name is given")
            return kept or "none"
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
        if lowered.startswith("cloudfront-"):
            raise not_offered(f"the header {name}")
        if dashed_name(name) in (EDGE_OWNED | CONDITIONS) - allowed:
            raise invalid(f"Headers: {name} is the edge's own, it cannot be selected")
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
    for name, said in lists.items():
        if credentials and "*" in said:
            raise invalid(f'CorsConfig: "*" in {name} is not for requests with credentials')
    methods = entries_of(config, "AccessControlAllowMethods")
    max_age_s = config.get("AccessControlMaxAgeSec")
    return {
        **lists,
        "origins": [origin for said in lists["origins"] for origin in _with_scheme(said)],
        "methods": list(ALL_METHODS) if "ALL" in methods else methods,
        "max_age": CORS_MAX_AGE_S if max_age_s is None else max_age_s,
        "credentials": credentials,
        "override": bool(config.get("OriginOverride")),
    }


def _with_scheme(origin: str) -> tuple[str, ...]:
    """CloudFront takes a host alone too, for both schemes."""
    if origin in {"*", "null"} or "://" in origin:
        return (origin,)
    return (f"https://{origin}", f"http://{origin}")


def _hsts(said: Document) -> str:
    text = f"max-age={said['AccessControlMaxAgeSec']}"
    if said.get("IncludeSubdomains"):
        text += "; includeSubDomains"
    return text + ("; preload" if said.get("Preload") else "")


def _xss_protection(said: Document) -> str:
    if not said.get("Protection"):
        return "0"
    text = "1; mode=block" if said.get("ModeBlock") else "1"
    return text + (f"; report={said['ReportUri']}" if said.get("ReportUri") else "")


_SECURITY_HEADERS: dict[str, tuple[str, Callable[[Document], str]]] = {
    "ContentSecurityPolicy": (
        "Content-Security-Policy",
        lambda said: str(said["ContentSecurityPolicy"]),
    ),
    "ContentTypeOptions": ("X-Content-Type-Options", lambda _said: "nosniff"),
    "FrameOptions": ("X-Frame-Options", lambda said: str(said["FrameOption"])),
    "ReferrerPolicy": ("Referrer-Policy", lambda said: str(said["ReferrerPolicy"])),
    "XSSProtection": ("X-XSS-Protection", _xss_protection),
}
