"""Checks between keys: references to unknown names, and conflicts over a name or an address.

It checks the parsed document before validation, so that these errors are reported together with all
others. Values of the wrong type are ignored here: the schema reports them. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import ip_address

from streamedge.config.checks.access import access_mistakes
from streamedge.config.checks.admin import admin_mistakes
from streamedge.config.checks.fleet import fleet_mistakes
from streamedge.config.checks.logs import log_mistakes
from streamedge.config.checks.web import web_mistakes
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
from streamedge.config.schema.config import DistributionConfig, ListenConfig, RtmpDistributionConfig
from streamedge.config.schema.units import format_address, parse_admin_address

# A bucket name that can be part of a host name (Amazon S3 User Guide, "Bucket naming rules").
_HOST_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


def cross_mistakes(document: dict[str, object]) -> Iterator[Mistake]:
    """All mistakes between keys of ``document``, a TOML file parsed by ``tomllib``."""
    yield from _origins_missing(document)
    yield from _ids_repeated(document)
    yield from _aliases_claimed_twice(document)
    yield from _addresses_listened_twice(document)
    yield from _buckets_unreachable(document)
    yield from web_mistakes(document)
    yield from access_mistakes(document)
    yield from admin_mistakes(document)
    yield from fleet_mistakes(document)
    yield from log_mistakes(document)


def _origins_missing(document: dict[str, object]) -> Iterator[Mistake]:
    origins, groups = (tuple(table(document.get(name))) for name in ("origins", "origin_groups"))
    names = origins + groups
    where = "[origins] and [origin_groups]" if groups else "[origins]"
    for key, distribution in entries(document, ("distributions",)):
        is_web = distribution.get("type") == "web"
        behaviors = entries(distribution, (*key, "behaviors")) if is_web else ()
        for place, holder in ((key, distribution), *behaviors):
            origin = string(holder, "origin")
            if origin is not None and origin not in names:
                advice = nearest(origin, names, f"known under {where}: {quoted_list(names)}")
                text = f"no origin has the name {short(origin)}; {advice}"
                yield Mistake((*place, "origin"), text)


def _ids_repeated(document: dict[str, object]) -> Iterator[Mistake]:
    seen: set[str] = set()
    for key, distribution in entries(document, ("distributions",)):
        identifier = distribution.get("id")
        if not isinstance(identifier, str):
            continue
        if identifier in seen:
            text = f"another distribution has the id {short(identifier)}; each needs its own"
            yield Mistake((*key, "id"), text)
        seen.add(identifier)


def _aliases_claimed_twice(document: dict[str, object]) -> Iterator[Mistake]:
    """A request must match one distribution: by host name (web), or host name and application."""
    owners: dict[tuple[str, str, str], str] = {}
    for key, distribution in entries(document, ("distributions",)):
        kind = distribution.get("type")
        if not isinstance(kind, str):
            continue
        applications: tuple[str, ...] = ("",)
        if kind == "rtmp":
            applications = strings(distribution, "application", RtmpDistributionConfig)
        owner = short(distribution.get("id", f"number {key[-1]}"))
        for alias in strings(distribution, "aliases", DistributionConfig):
            for application in applications:
                claim = (kind, alias.lower(), application)
                if claim in owners:
                    what = f"alias {short(alias)}"
                    if application:
                        what += f" with application {short(application)}"
                    text = f"{what} is claimed by distribution {owners[claim]} already"
                    yield Mistake((*key, "aliases"), text)
                    break  # one mistake for each alias is enough
                owners.setdefault(claim, owner)


def _addresses_listened_twice(document: dict[str, object]) -> Iterator[Mistake]:
    listen = table(document.get("listen"))
    used: list[tuple[Key, tuple[str, int]]] = []
    for key, address in _addresses(listen):
        for other, other_address in used:
            if _overlap(address, other_address):
                name = ".".join(str(part) for part in other if isinstance(part, str))
                text = f"{format_address(address)} is in use already, by {name}"
                yield Mistake(key, f"{text} as {format_address(other_address)}")
                break
        used.append((key, address))


def _buckets_unreachable(document: dict[str, object]) -> Iterator[Mistake]:
    for key, origin in named(document, "origins"):
        if origin.get("type") != "s3":
            continue
        identifier, secret = origin.get("access_key_id"), origin.get("secret_access_key")
        for present, absent in ((identifier, "secret_access_key"), (secret, "access_key_id")):
            if present and not origin.get(absent):
                text = "missing; both keys or neither: without them, the AWS credential chain signs"
                yield Mistake((*key, absent), text)
        bucket = string(origin, "bucket")
        if origin.get("path_style") is False and bucket and not _HOST_NAME.fullmatch(bucket):
            text = "false puts the bucket's name into the host name, where it is not valid"
            yield Mistake((*key, "path_style"), text)
        if origin.get("anonymous") is True and (identifier or secret):
            text = (
                "true means unsigned requests, but a signing key is configured; use one of the two"
            )
            yield Mistake((*key, "anonymous"), text)


def _addresses(listen: dict[str, object]) -> Iterator[tuple[Key, tuple[str, int]]]:
    """Every listen address, including the defaults of missing keys."""
    places: list[tuple[Key, object]] = []
    for name in ("http", "https", "rtmp", "rtmps", "mixed"):
        value = listen.get(name, ListenConfig.model_fields[name].default)
        if isinstance(value, list | tuple):
            places += [(("listen", name, index), entry) for index, entry in enumerate(value)]
    for name in ("admin", "fleet"):
        places.append((("listen", name), listen.get(name, ListenConfig.model_fields[name].default)))
    for key, entry in places:
        try:
            address = parse_admin_address(entry)
        except ValueError:
            continue  # the schema reports it, with its line
        if isinstance(address, tuple):
            yield key, address


def _overlap(one: tuple[str, int], other: tuple[str, int]) -> bool:
    """Whether two listeners would share a port of the same address; port 0 is never shared."""
    hosts = {one[0], other[0]}
    if one[1] != other[1] or one[1] == 0:
        return False
    if len(hosts) == 1:
        return True
    try:
        addresses = [ip_address(host) for host in hosts]
    except ValueError:
        return False  # host names are only resolved at bind
    return len({a.version for a in addresses}) == 1 and any(a.is_unspecified for a in addresses)
