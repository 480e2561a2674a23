"""Checks of the keys of a fleet: tiers, and what an edge needs to be part of one. Pure.

Like ``references``, it checks the parsed document before validation and ignores values of the wrong
type. ``files`` reads the fleet's certificate files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from streamedge.config.errors.mistakes import (
    Mistake,
    named,
    nearest,
    quoted_list,
    short,
    string,
    table,
)
from streamedge.config.errors.toml_lines import Key
from streamedge.config.schema.config import EdgeConfig

TLS_FILES = ("ca", "certificate", "key")
_DATABASE = re.compile(r"/?|/\d{1,5}", re.ASCII)
_DEFAULT_NAME = EdgeConfig.model_fields["name"].default


def fleet_mistakes(document: dict[str, object]) -> Iterator[Mistake]:
    """All mistakes of the keys of a fleet in ``document``."""
    fleet = table(document.get("fleet"))
    yield from _engine_mistakes(document, fleet)
    yield from _tier_mistakes(document, fleet)
    yield from _file_mistakes(document, fleet)
    yield from _origin_mistakes(document, tuple(table(fleet.get("tiers"))))


def _engine_mistakes(document: dict[str, object], fleet: dict[str, object]) -> Iterator[Mistake]:
    engine = string(fleet, "engine")
    if not engine:
        return
    if edge_name(document) == _DEFAULT_NAME:
        text = (
            f'expected a name that no other edge of the fleet has, such as "fra-1": {_DEFAULT_NAME}'
            " is every edge's default"
        )
        yield Mistake(("edge", "name"), text)
    try:
        parts = urlsplit(engine)
        is_valid = bool(parts.hostname) and parts.port != 0
        is_valid = is_valid and _DATABASE.fullmatch(parts.path) is not None
    except ValueError:  # its text could show a part of the password
        is_valid = False
    if not is_valid:
        text = 'expected a host, a port and a database number, as in "redis://127.0.0.1:6379/0"'
        yield Mistake(("fleet", "engine"), text)


def _tier_mistakes(document: dict[str, object], fleet: dict[str, object]) -> Iterator[Mistake]:
    tiers = table(fleet.get("tiers"))
    for name, members in tiers.items():
        key = ("fleet", "tiers", name)
        if members == []:
            yield Mistake(key, "expected the name of at least one edge")
        elif isinstance(members, list):
            names = [member for member in members if isinstance(member, str)]
            for index, member in enumerate(members):
                if isinstance(member, str) and member in names[:index]:
                    yield Mistake(key, f"{short(member)} is in this tier twice")
                    break
            own = edge_name(document)
            if own in names and not table(document.get("listen")).get("fleet"):
                text = f"missing; tier {short(name)} names this edge, so other edges connect here"
                yield Mistake(("listen", "fleet"), text)
    if tiers and not fleet.get("engine"):
        yield Mistake(("fleet", "engine"), "missing; the edges of a tier find each other by it")


def _file_mistakes(document: dict[str, object], fleet: dict[str, object]) -> Iterator[Mistake]:
    listens = bool(table(document.get("listen")).get("fleet"))
    if not listens and not table(fleet.get("tiers")):
        return
    reason = "listen.fleet" if listens else "fleet.tiers"
    for name in TLS_FILES:
        if fleet.get(name) is None:
            text = (
                f"missing; {reason} needs it. streamedge fleet certificate NAME --ca fleet-ca.pem"
                " makes all three files"
            )
            yield Mistake(("fleet", name), text)
    if listens and not fleet.get("engine") and not table(fleet.get("tiers")):
        yield Mistake(("fleet", "engine"), "missing; listen.fleet serves the edges that share it")


def _origin_mistakes(document: dict[str, object], tiers: tuple[str, ...]) -> Iterator[Mistake]:
    places = [*named(document, "origins"), *named(document, "origin_groups")]
    for key, origin in places:
        tier = string(origin, "tier")
        if origin.get("type") == "directory" and "tier" in origin:
            text = "a folder of this machine has no tier: other edges cannot read it"
            yield Mistake((*key, "tier"), text)
        elif tier and tier not in tiers:
            advice = nearest(tier, tiers, f"known under [fleet.tiers]: {quoted_list(tiers)}")
            yield Mistake((*key, "tier"), f"no tier has the name {short(tier)}; {advice}")
        elif tier and key[0] == "origin_groups":
            yield from _group_mistakes(document, key, origin)


def _group_mistakes(
    document: dict[str, object], key: Key, group: dict[str, object]
) -> Iterator[Mistake]:
    members = group.get("origins")
    origins = table(document.get("origins"))
    for name in members if isinstance(members, list) else ():
        if isinstance(name, str) and table(origins.get(name)).get("type") == "directory":
            text = f"{short(name)} is a folder of this machine, which other edges cannot read"
            yield Mistake((*key, "tier"), text)


def edge_name(document: dict[str, object]) -> str:
    """The name of this edge, also the default."""
    name = table(document.get("edge")).get("name", _DEFAULT_NAME)
    return name if isinstance(name, str) else ""
