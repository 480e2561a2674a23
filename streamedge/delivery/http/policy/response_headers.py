"""Response headers policies: how a behavior changes the fields of a response, CORS included.

The changes are applied in this order: remove, set, add, HSTS, CORS (Fetch standard, "CORS
protocol"). The config check rejects policies that name a framing field. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from urllib.parse import urlsplit

Field = tuple[str, str]

HSTS = "strict-transport-security"
CORS_FIELDS = frozenset(
    {
        "access-control-allow-credentials",
        "access-control-allow-headers",
        "access-control-allow-methods",
        "access-control-allow-origin",
        "access-control-expose-headers",
        "access-control-max-age",
    }
)


class Cors(Enum):
    """The kind of a CORS request."""

    SIMPLE = "simple"  # any other request, also one without Origin
    PREFLIGHT = "preflight"  # a browser checks whether it may send the real request


@dataclass(frozen=True, slots=True)
class CorsPolicy:
    """Which pages may read responses. ``origins``: "*", origins, or "scheme://*.host".

    ``overrides``: the origin's CORS fields are replaced. Otherwise they stay, all of them, if the
    origin sends Access-Control-Allow-Origin.
    """

    origins: tuple[str, ...]
    methods: tuple[str, ...] = ("GET", "HEAD")
    headers: tuple[str, ...] = ()
    exposed: tuple[str, ...] = ()
    max_age_s: int = 600
    credentials: bool = False
    overrides: bool = True


@dataclass(frozen=True, slots=True)
class ResponseHeadersPolicy:
    """Changes to a response's fields. ``removed``: names in lower case. ``hsts``: "" means none."""

    name: str = ""
    removed: frozenset[str] = frozenset()
    replaced: tuple[Field, ...] = ()
    added: tuple[Field, ...] = ()
    hsts: str = ""
    cors: CorsPolicy | None = None
    server_timing_percent: float = 0.0

    def for_errors(self) -> ResponseHeadersPolicy:
        """The part that applies to the edge's own errors and redirects: CORS and HSTS.

        The rest is for content: a Cache-Control of a year would cache an error for a year.
        """
        if self.cors is None and not self.hsts:
            return NO_POLICY
        return ResponseHeadersPolicy(hsts=self.hsts, cors=self.cors)


NO_POLICY = ResponseHeadersPolicy()


def cors_kind(method: str, fields: Iterable[Field]) -> Cors:
    """PREFLIGHT for OPTIONS with Origin and Access-Control-Request-Method (Fetch §3.2.2)."""
    if method != "OPTIONS":
        return Cors.SIMPLE
    names = {name.lower() for name, _ in fields}
    is_preflight = {"origin", "access-control-request-method"} <= names
    return Cors.PREFLIGHT if is_preflight else Cors.SIMPLE


def apply_response_policy(
    policy: ResponseHeadersPolicy,
    fields: Iterable[Field],
    *,
    secure: bool,
    origin_field: str | None,
    cors: Cors = Cors.SIMPLE,
) -> list[Field]:
    """The response's ``fields`` with the policy applied, in their order, new fields at the end.

    ``secure``: the request came over TLS. ``origin_field``: the request's Origin; None if there is
    none, or more than one.
    """
    if policy is NO_POLICY:
        return list(fields)
    replaced = {name.lower() for name, _ in policy.replaced}
    removed = policy.removed | replaced
    if policy.hsts and not secure:
        removed |= {HSTS}  # never over plain HTTP (RFC 6797 §7.2)
    if policy.cors is not None and policy.cors.overrides:
        removed |= CORS_FIELDS
    result = [field for field in fields if field[0].lower() not in removed]
    result += policy.replaced
    _add_missing(result, policy.added)
    if policy.hsts and secure:
        _add_missing(result, (("Strict-Transport-Security", policy.hsts),))
    if policy.cors is not None:
        _add_cors(result, policy.cors, origin_field, cors)
    return result


def allowed_origin(policy: CorsPolicy, origin_field: str | None) -> str | None:
    """The value of Access-Control-Allow-Origin for ``origin_field``, or None for no such field."""
    if origin_field is None:
        return None
    if "*" in policy.origins and not policy.credentials:
        return "*"
    matches = any(_matches(allowed, origin_field) for allowed in policy.origins)
    return origin_field if matches else None


def _add_cors(
    result: list[Field], policy: CorsPolicy, origin_field: str | None, kind: Cors
) -> None:
    if any(name.lower() == "access-control-allow-origin" for name, _ in result):
        return
    if "*" not in policy.origins or policy.credentials:
        _vary_by_origin(result)
    allowed = allowed_origin(policy, origin_field)
    if allowed is None:
        return
    new = [("Access-Control-Allow-Origin", allowed)]
    if policy.credentials:
        new.append(("Access-Control-Allow-Credentials", "true"))
    if kind is Cors.PREFLIGHT:
        new.append(("Access-Control-Allow-Methods", ", ".join(policy.methods)))
        if policy.headers:
            new.append(("Access-Control-Allow-Headers", ", ".join(policy.headers)))
        new.append(("Access-Control-Max-Age", str(policy.max_age_s)))
    elif policy.exposed:
        new.append(("Access-Control-Expose-Headers", ", ".join(policy.exposed)))
    _add_missing(result, new)


def _vary_by_origin(result: list[Field]) -> None:
    """Adds Origin to Vary, so that caches keep the responses apart (Fetch §3.2.5)."""
    field_names = {
        member.strip().lower()
        for name, value in result
        if name.lower() == "vary"
        for member in value.split(",")
    }
    if not field_names & {"*", "origin"}:
        result.append(("Vary", "Origin"))


def _matches(allowed: str, origin: str) -> bool:
    """Whether ``allowed`` matches ``origin``; "https://*.example.com" matches any subdomain."""
    scheme, star, suffix = allowed.partition("://*.")
    if not star:
        return allowed == origin
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return (
        parts.scheme == scheme
        and origin == f"{parts.scheme}://{parts.netloc}"
        and "@" not in parts.netloc
        and parts.netloc.endswith(f".{suffix}")
        and parts.netloc != f".{suffix}"
    )


def _add_missing(result: list[Field], new: Iterable[Field]) -> None:
    present = {name.lower() for name, _ in result}
    result += [field for field in new if field[0].lower() not in present]
