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
from streamedge.config.managed import MANAGED, POLICY_TABLES, managed_names
from streamedge.config.schema.config import (
    BehaviorRules,
    CachePolicyConfig,
    CorsConfig,
    OriginGroupConfig,
    ResponseHeadersPolicyConfig,
)
from streamedge.config.schema.field_names import CONDITIONS, EDGE_OWNED, FRAMING, dashed_name
from streamedge.config.schema.units import format_duration_s, parse_duration_s

# An object has no parts to change, and a folder no uploads to begin.
METHODS_NOT_TAKEN = {"s3": ("PATCH",), "directory": ("POST", "PATCH")}


def web_mistakes(document: dict[str, object]) -> Iterator[Mistake]:
    """Every mistake between keys of ``document`` that concerns web distributions alone."""
    yield from _https_incomplete(document)
    yield from _tls_of_origins(document)
    yield from _groups(document)
    yield from _managed_names_taken(document)
    yield from _times_contradict(document)
    yield from _headers_not_theirs(document)
    yield from _cors(document)
    for key, declared in entries(document, ("distributions",)):
        if declared.get("type") == "web":
            yield from _web_distribution(document, key, declared)


def _https_incomplete(document: dict[str, object]) -> Iterator[Mistake]:
    if table(document.get("listen")).get("https") and not document.get("certificates"):
        text = "no certificate to show: a [[certificates]] table is missing"
        yield Mistake(("listen", "https"), text)


def _tls_of_origins(document: dict[str, object]) -> Iterator[Mistake]:
    for key, origin in named(document, "origins"):
        if origin.get("type") != "http":
            continue
        pair = ("client_certificate", "client_key")
        for given, absent in (pair, pair[::-1]):
            if given in origin and absent not in origin:
                yield Mistake((*key, absent), f"missing; {given} does not do without it")
        if not (string(origin, "url") or "").startswith("http://"):
            continue
        for name in ("ca", *pair, "verify"):
            if name in origin and origin[name] is not True:
                yield Mistake((*key, name), "has no meaning: the url begins with http://")


def _groups(document: dict[str, object]) -> Iterator[Mistake]:
    known = tuple(table(document.get("origins")))
    for key, group in named(document, "origin_groups"):
        if key[-1] in known:
            yield Mistake(key, f"an origin has the name {short(key[-1])} too; choose another")
        seen: set[str] = set()
        for name in strings(group, "origins", OriginGroupConfig):
            if name not in known:
                advice = nearest(name, known, f"known under [origins]: {quoted_list(known)}")
                yield Mistake((*key, "origins"), f"no origin has the name {short(name)}; {advice}")
            elif name in seen:
                yield Mistake((*key, "origins"), f"the origin {short(name)} stands here twice")
            seen.add(name)


def _managed_names_taken(document: dict[str, object]) -> Iterator[Mistake]:
    for name in MANAGED:
        taken = managed_names(name)
        for key in table(document.get(name)):
            if key in taken:
                text = f"a managed policy has the name {short(key)}; choose another"
                yield Mistake((name, key), text)


def _times_contradict(document: dict[str, object]) -> Iterator[Mistake]:
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
    """The duration at ``name``, its default where it is left out or has the wrong shape."""
    default: float = CachePolicyConfig.model_fields[name].default
    try:
        return parse_duration_s(policy.get(name, default))
    except ValueError:
        return default  # the schema reports it, with its line


def _headers_not_theirs(document: dict[str, object]) -> Iterator[Mistake]:
    """Headers that are the edge's own, whatever a policy asks."""
    owned = EDGE_OWNED | CONDITIONS
    for key, policy in named(document, "cache_policies"):
        # Host may tell responses apart; which one is sent is the origin's own business.
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
            if name.lower() in FRAMING:
                text = f"the header {short(name)} is the edge's own, it cannot be removed"
                yield Mistake((*key, "remove"), text)


def _owned(name: str) -> str:
    advice = {
        "cookie": '; say which under "cookies"',
        "host": '; an origin says which under its key "host"',
        "accept-encoding": '; "compress" takes care of it',
    }.get(name.lower(), "")
    return f"the header {short(name)} is the edge's own{advice}"


def _cors(document: dict[str, object]) -> Iterator[Mistake]:
    for key, policy in named(document, "response_headers_policies"):
        cors = table(policy.get("cors"))
        if cors.get("credentials") is not True:
            continue
        for name in ("origins", "headers", "expose"):
            if "*" in strings(cors, name, CorsConfig):
                text = '"*" is not for requests with credentials; name them'
                yield Mistake((*key, "cors", name), text)


def _web_distribution(
    document: dict[str, object], key: Key, declared: dict[str, object]
) -> Iterator[Mistake]:
    yield from _rules(document, key, declared, {})
    yield from _behaviors_hidden(key, declared)
    for place, behavior in entries(declared, (*key, "behaviors")):
        yield from _rules(document, place, behavior, declared)
        if "default_ttl" in behavior and "cache_policy" not in behavior:
            policy = declared.get("cache_policy")
            if policy:
                text = f"has no effect: the distribution's cache_policy {short(policy)} rules"
                yield Mistake((*place, "default_ttl"), text)
    yield from _error_pages(key, declared)


def _rules(
    document: dict[str, object],
    key: Key,
    rules: dict[str, object],
    inherited: dict[str, object],
) -> Iterator[Mistake]:
    """Mistakes in what a distribution or a behavior says, with what it leaves out."""
    for name, policies in POLICY_TABLES.items():
        policy = string(rules, name)
        own = tuple(table(document.get(policies)))
        known = own + managed_names(policies)
        if policy and policy not in known:
            beside = "" if own else f" (or a table under [{policies}])"
            advice = nearest(policy, known, f"known: {quoted_list(known)}{beside}")
            yield Mistake((*key, name), f"no policy has the name {short(policy)}; {advice}")
    needs_tls = string(rules, "viewer_protocol") in {"https-only", "redirect-to-https"}
    if needs_tls and not table(document.get("listen")).get("https"):
        yield Mistake((*key, "viewer_protocol"), "nothing listens for it: listen.https is none")
    if rules.keys() & {"methods", "origin"}:
        yield from _methods_not_taken(document, key, rules, inherited)
    yield from _not_for_buckets(document, key, rules, inherited)


def _not_for_buckets(
    document: dict[str, object], key: Key, rules: dict[str, object], inherited: dict[str, object]
) -> Iterator[Mistake]:
    """Policies that name what no bucket is told."""
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
            text = f"the policy names {short(refused)}, which no bucket is told: leave it out"
            yield Mistake((*key, place if place in rules else "origin"), text)


def _texts(value: object) -> list[str]:
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []


def _methods_not_taken(
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
        if method in METHODS_NOT_TAKEN.get(kind, ()):
            place = "methods" if "methods" in rules else "origin"
            text = f"the origin {short(name)} has the type {short(kind)}, which takes no {method}"
            yield Mistake((*key, place), text)
            break


def _behaviors_hidden(key: Key, declared: dict[str, object]) -> Iterator[Mistake]:
    """Behaviors that no request reaches, because one before them matches all that they match."""
    before: list[str] = []
    for place, behavior in entries(declared, (*key, "behaviors")):
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


def _error_pages(key: Key, declared: dict[str, object]) -> Iterator[Mistake]:
    seen: set[int] = set()
    for place, page in entries(declared, (*key, "error_pages")):
        status, response = page.get("status"), page.get("response_status")
        if isinstance(status, int):
            if status in seen:
                yield Mistake((*place, "status"), f"another page is for {status} already")
            seen.add(status)
        if isinstance(response, int) and 0 < response < 200:
            text = f"expected 0 or a status from 200 to 599, found {response}"
            yield Mistake((*place, "response_status"), text)
        elif response and not page.get("path"):
            yield Mistake((*place, "response_status"), "has no effect without path")
