"""Checks between keys of web distributions: policies, groups, behaviors, HTTPS.

Like ``references``, it checks the parsed document before validation. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator

from streamedge.config.checks.bucket_policies import not_for_buckets
from streamedge.config.errors.mistakes import (
    Mistake,
    entries,
    named,
    nearest,
    quoted_list,
    short,
    string,
    strings,
    table,
)
from streamedge.config.errors.toml_lines import Key
from streamedge.config.managed import MANAGED_POLICIES, POLICY_TABLES, managed_names
from streamedge.config.schema.config import (
    BehaviorRules,
    CachePolicyConfig,
    CorsConfig,
    OriginGroupConfig,
    ResponseHeadersPolicyConfig,
)
from streamedge.config.schema.field_names import (
    CONDITION_FIELDS,
    EDGE_OWNED,
    FRAMING_FIELDS,
    dashed_name,
)
from streamedge.config.schema.units import format_duration_s, parse_duration_s

# An object cannot be changed in part, and a folder has no multipart uploads.
UNSUPPORTED_METHODS = {"s3": ("PATCH",), "directory": ("POST", "PATCH")}


def web_mistakes(document: dict[str, object]) -> Iterator[Mistake]:
    """All mistakes between keys of ``document`` that concern web distributions only."""
    yield from _https_incomplete(document)
    yield from _tls_of_origins(document)
    yield from _groups(document)
    yield from _managed_names_reused(document)
    yield from _contradictory_times(document)
    yield from _headers_owned_by_edge(document)
    yield from _cors(document)
    for key, distribution in entries(document, ("distributions",)):
        if distribution.get("type") == "web":
            yield from _web_distribution(document, key, distribution)


def _https_incomplete(document: dict[str, object]) -> Iterator[Mistake]:
    for name in ("https", "rtmps"):
        if table(document.get("listen")).get(name) and not document.get("certificates"):
            text = "no certificate to show: a [[certificates]] table is missing"
            yield Mistake(("listen", name), text)


def _tls_of_origins(document: dict[str, object]) -> Iterator[Mistake]:
    for key, origin in named(document, "origins"):
        if origin.get("type") != "http":
            continue
        pair = ("client_certificate", "client_key")
        for present, absent in (pair, pair[::-1]):
            if present in origin and absent not in origin:
                yield Mistake((*key, absent), f"missing; {present} needs it")
        if not (string(origin, "url") or "").startswith("http://"):
            continue
        for name in ("ca", *pair, "verify"):
            if name in origin and origin[name] is not True:
                yield Mistake((*key, name), "has no effect: the url begins with http://")


def _groups(document: dict[str, object]) -> Iterator[Mistake]:
    origins = tuple(table(document.get("origins")))
    for key, group in named(document, "origin_groups"):
        if key[-1] in origins:
            yield Mistake(key, f"an origin has the name {short(key[-1])} too; choose another")
        seen: set[str] = set()
        for name in strings(group, "origins", OriginGroupConfig):
            if name not in origins:
                advice = nearest(name, origins, f"known under [origins]: {quoted_list(origins)}")
                yield Mistake((*key, "origins"), f"no origin has the name {short(name)}; {advice}")
            elif name in seen:
                yield Mistake((*key, "origins"), f"the origin {short(name)} is listed twice")
            seen.add(name)


def _managed_names_reused(document: dict[str, object]) -> Iterator[Mistake]:
    for name in MANAGED_POLICIES:
        reserved = managed_names(name)
        for key in table(document.get(name)):
            if key in reserved:
                text = f"a managed policy has the name {short(key)}; choose another"
                yield Mistake((name, key), text)


def _contradictory_times(document: dict[str, object]) -> Iterator[Mistake]:
    for key, policy in named(document, "cache_policies"):
        least, standard, most = (
            _seconds(policy, name) for name in ("min_ttl", "default_ttl", "max_ttl")
        )
        if least > most:
            text = f"is above max_ttl, {format_duration_s(most)}"
            yield Mistake((*key, "min_ttl"), text)
        elif "default_ttl" in policy and not least <= standard <= most and standard:
            bounds = f"{format_duration_s(least)} to {format_duration_s(most)}"
            yield Mistake((*key, "default_ttl"), f"is outside min_ttl to max_ttl, {bounds}")


def _seconds(policy: dict[str, object], name: str) -> float:
    """The duration at ``name``, or its default if it is omitted or invalid."""
    default: float = CachePolicyConfig.model_fields[name].default
    try:
        return parse_duration_s(policy.get(name, default))
    except ValueError:
        return default  # the schema reports it, with its line


def _headers_owned_by_edge(document: dict[str, object]) -> Iterator[Mistake]:
    """Headers that the edge sets itself, so a policy cannot select or remove them."""
    owned = EDGE_OWNED | CONDITION_FIELDS
    for key, policy in named(document, "cache_policies"):
        # Host may be in the cache key; which Host is sent is a setting of the origin.
        for name in strings(policy, "headers", CachePolicyConfig):
            if dashed_name(name) in owned - {"host"}:
                yield Mistake((*key, "headers"), _owned(name))
    for key, policy in named(document, "origin_request_policies"):
        headers = policy.get("headers")
        for name in headers if isinstance(headers, list) else ():
            if isinstance(name, str) and dashed_name(name) in owned:
                yield Mistake((*key, "headers"), _owned(name))
    for key, policy in named(document, "response_headers_policies"):
        for name in strings(policy, "remove", ResponseHeadersPolicyConfig):
            if name.lower() in FRAMING_FIELDS:
                text = f"the header {short(name)} is the edge's own and cannot be removed"
                yield Mistake((*key, "remove"), text)


def _owned(name: str) -> str:
    advice = {
        "cookie": '; select them with the key "cookies"',
        "host": '; an origin sets it with its key "host"',
        "accept-encoding": '; the key "compress" sets it',
    }.get(name.lower(), "")
    return f"the header {short(name)} is the edge's own{advice}"


def _cors(document: dict[str, object]) -> Iterator[Mistake]:
    for key, policy in named(document, "response_headers_policies"):
        cors = table(policy.get("cors"))
        if cors.get("credentials") is not True:
            continue
        for name in ("origins", "headers", "expose"):
            if "*" in strings(cors, name, CorsConfig):
                text = '"*" is not allowed with credentials; list the names'
                yield Mistake((*key, "cors", name), text)


def _web_distribution(
    document: dict[str, object], key: Key, distribution: dict[str, object]
) -> Iterator[Mistake]:
    yield from _rules(document, key, distribution, {})
    yield from _unreachable_behaviors(key, distribution)
    for place, behavior in entries(distribution, (*key, "behaviors")):
        yield from _rules(document, place, behavior, distribution)
        if "default_ttl" in behavior and "cache_policy" not in behavior:
            policy = distribution.get("cache_policy")
            if policy:
                text = f"has no effect: the distribution's cache_policy {short(policy)} applies"
                yield Mistake((*place, "default_ttl"), text)
    yield from _error_pages(key, distribution)


def _rules(
    document: dict[str, object],
    key: Key,
    rules: dict[str, object],
    inherited: dict[str, object],
) -> Iterator[Mistake]:
    """Mistakes in the rules of a distribution or behavior, including inherited ones."""
    for name, policies in POLICY_TABLES.items():
        policy = string(rules, name)
        own = tuple(table(document.get(policies)))
        names = own + managed_names(policies)
        if policy and policy not in names:
            beside = "" if own else f" (or a table under [{policies}])"
            advice = nearest(policy, names, f"known: {quoted_list(names)}{beside}")
            yield Mistake((*key, name), f"no policy has the name {short(policy)}; {advice}")
    needs_tls = string(rules, "viewer_protocol") in {"https-only", "redirect-to-https"}
    listen = table(document.get("listen"))
    has_https = listen.get("https") or (listen.get("mixed") and document.get("certificates"))
    if needs_tls and not has_https:
        yield Mistake((*key, "viewer_protocol"), "no HTTPS listener: listen.https is empty")
    if rules.keys() & {"methods", "origin"}:
        yield from _unsupported_methods(document, key, rules, inherited)
    yield from _not_for_buckets(document, key, rules, inherited)


def _not_for_buckets(
    document: dict[str, object], key: Key, rules: dict[str, object], inherited: dict[str, object]
) -> Iterator[Mistake]:
    """Policies with names that are never sent to a bucket."""
    whole = inherited | rules
    origins, groups = table(document.get("origins")), table(document.get("origin_groups"))
    name = string(whole, "origin") or ""
    members = strings(table(groups[name]), "origins", OriginGroupConfig) if name in groups else ()
    kinds = {string(table(origins.get(member)), "type") for member in (*members, name)}
    if "s3" not in kinds:
        return
    for place, policies in POLICY_TABLES.items():
        policy = table(table(document.get(policies)).get(string(whole, place) or ""))
        if place == "response_headers_policy" or (place not in rules and "origin" not in rules):
            continue
        query, headers = table(policy.get("query_strings")).get("only"), policy.get("headers")
        refused = not_for_buckets(_texts(query), _texts(headers))
        if refused:
            text = f"the policy names {short(refused)}, which is never sent to a bucket: remove it"
            yield Mistake((*key, place if place in rules else "origin"), text)


def _texts(value: object) -> list[str]:
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []


def _unsupported_methods(
    document: dict[str, object], key: Key, rules: dict[str, object], inherited: dict[str, object]
) -> Iterator[Mistake]:
    whole = inherited | rules
    origins, groups = table(document.get("origins")), table(document.get("origin_groups"))
    name = string(whole, "origin") or ""
    if name in groups:  # writes go to its first origin
        members = strings(table(groups[name]), "origins", OriginGroupConfig)
        name = members[0] if members else ""
    kind = string(table(origins.get(name)), "type") or ""
    for method in strings(whole, "methods", BehaviorRules):
        if method in UNSUPPORTED_METHODS.get(kind, ()):
            place = "methods" if "methods" in rules else "origin"
            text = f"the origin {short(name)} has the type {short(kind)}: {method} is not supported"
            yield Mistake((*key, place), text)
            break


def _unreachable_behaviors(key: Key, distribution: dict[str, object]) -> Iterator[Mistake]:
    """Behaviors that no request reaches, because an earlier one matches the same paths."""
    before: list[str] = []
    for place, behavior in entries(distribution, (*key, "behaviors")):
        path = string(behavior, "path")
        if path is None:
            continue
        pattern = path.removeprefix("/")
        for earlier in before:
            if earlier == pattern:
                yield Mistake((*place, "path"), "another behavior before it has the same path")
                break
            if earlier and not earlier.strip("*"):
                text = f"is never reached: the behavior {short(earlier)} before it matches all"
                yield Mistake((*place, "path"), text)
                break
        before.append(pattern)


def _error_pages(key: Key, distribution: dict[str, object]) -> Iterator[Mistake]:
    seen: set[int] = set()
    for place, page in entries(distribution, (*key, "error_pages")):
        status, response = page.get("status"), page.get("response_status")
        if isinstance(status, int):
            if status in seen:
                yield Mistake((*place, "status"), f"another page replaces {status} already")
            seen.add(status)
        if isinstance(response, int) and 0 < response < 200:
            text = f"expected 0 or a status from 200 to 599, found {response}"
            yield Mistake((*place, "response_status"), text)
        elif response and not page.get("path"):
            yield Mistake((*place, "response_status"), "has no effect without path")
