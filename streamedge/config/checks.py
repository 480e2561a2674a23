"""Mistakes that no single key shows: names that lead nowhere, and two things that claim one place.

Judges the document as it was read, not the validated config, so that these mistakes are told along
with all others. Whatever has the wrong shape is passed over here: the schema reports it. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from ipaddress import ip_address

from streamedge.config.lines import Key
from streamedge.config.schema import DistributionConfig, ListenConfig, RtmpDistributionConfig
from streamedge.config.units import QUOTE_LIMIT_CHARACTERS, format_address, parse_address

# "s4" is as near to "s3" as one letter in two can be.
_LIKENESS = 0.5


@dataclass(frozen=True, slots=True)
class Mistake:
    """What is wrong at ``key``, in words that never repeat a secret."""

    key: Key
    text: str


def nearest(name: str, known: tuple[str, ...], otherwise: str) -> str:
    """``did you mean "…"?`` for the name in ``known`` most like ``name``, else ``otherwise``."""
    matches = get_close_matches(name[:QUOTE_LIMIT_CHARACTERS], known, n=1, cutoff=_LIKENESS)
    return f"did you mean {json.dumps(matches[0])}?" if matches else otherwise


def cross_mistakes(document: dict[str, object]) -> Iterator[Mistake]:
    """Every mistake between keys of ``document``, a TOML file as ``tomllib`` gives it."""
    yield from _origins_missing(document)
    yield from _ids_repeated(document)
    yield from _aliases_claimed_twice(document)
    yield from _addresses_listened_twice(document)
    yield from _keys_incomplete(document)


def _origins_missing(document: dict[str, object]) -> Iterator[Mistake]:
    known = tuple(_table(document.get("origins")))
    listed = ", ".join(map(json.dumps, known[:8])) or "none"
    for key, table in _distributions(document):
        origin = table.get("origin")
        if isinstance(origin, str) and origin not in known:
            advice = nearest(origin, known, f"known under [origins]: {listed}")
            text = f"no origin has the name {_short(origin)}; {advice}"
            yield Mistake((*key, "origin"), text)


def _ids_repeated(document: dict[str, object]) -> Iterator[Mistake]:
    seen: set[str] = set()
    for key, table in _distributions(document):
        identifier = table.get("id")
        if not isinstance(identifier, str):
            continue
        if identifier in seen:
            text = f"another distribution has the id {_short(identifier)}; each needs its own"
            yield Mistake((*key, "id"), text)
        seen.add(identifier)


def _aliases_claimed_twice(document: dict[str, object]) -> Iterator[Mistake]:
    """A request must lead to one distribution: by host name (web), or by that and application."""
    owners: dict[tuple[str, str, str], str] = {}
    for key, table in _distributions(document):
        kind = table.get("type")
        if not isinstance(kind, str):
            continue
        applications: tuple[str, ...] = ("",)
        if kind == "rtmp":
            applications = _strings(table, "application", RtmpDistributionConfig)
        owner = _short(table.get("id", f"number {key[-1]}"))
        for alias in _strings(table, "aliases", DistributionConfig):
            for application in applications:
                claim = (kind, alias.lower(), application)
                if claim in owners:
                    what = f"alias {_short(alias)}"
                    if application:
                        what += f" with application {_short(application)}"
                    text = f"{what} is claimed by distribution {owners[claim]} already"
                    yield Mistake((*key, "aliases"), text)
                    break  # one clash of an alias says enough
                owners.setdefault(claim, owner)


def _addresses_listened_twice(document: dict[str, object]) -> Iterator[Mistake]:
    listen = _table(document.get("listen"))
    taken: list[tuple[Key, tuple[str, int]]] = []
    for key, address in _addresses(listen):
        for other, occupied in taken:
            if _overlap(address, occupied):
                name = ".".join(str(part) for part in other if isinstance(part, str))
                text = f"{format_address(address)} is listened on already, by {name}"
                yield Mistake(key, f"{text} as {format_address(occupied)}")
                break
        taken.append((key, address))


def _keys_incomplete(document: dict[str, object]) -> Iterator[Mistake]:
    for name, value in _table(document.get("origins")).items():
        table = _table(value)
        if table.get("type") != "s3":
            continue
        key: Key = ("origins", name)
        identifier, secret = table.get("access_key_id"), table.get("secret_access_key")
        for given, absent in ((identifier, "secret_access_key"), (secret, "access_key_id")):
            if given and not table.get(absent):
                text = "missing; both keys or neither: without them, the AWS credential chain signs"
                yield Mistake((*key, absent), text)
        if table.get("anonymous") is True and (identifier or secret):
            text = "true means unsigned requests, yet a key to sign with is given; choose one"
            yield Mistake((*key, "anonymous"), text)


def _addresses(listen: dict[str, object]) -> Iterator[tuple[Key, tuple[str, int]]]:
    """Every address that is listened on, the defaults of what is left out among them."""
    entries: list[tuple[Key, object]] = []
    for name in ("http", "rtmp"):
        value = listen.get(name, ListenConfig.model_fields[name].default)
        if isinstance(value, list | tuple):
            entries += [(("listen", name, index), entry) for index, entry in enumerate(value)]
    admin = listen.get("admin", ListenConfig.model_fields["admin"].default)
    for key, entry in (*entries, (("listen", "admin"), admin)):
        try:
            yield key, parse_address(entry)
        except ValueError:
            continue  # the schema reports it, with its line


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
        return False  # host names: the system says at bind what they lead to
    return len({a.version for a in addresses}) == 1 and any(a.is_unspecified for a in addresses)


def _distributions(document: dict[str, object]) -> Iterator[tuple[Key, dict[str, object]]]:
    value = document.get("distributions")
    for index, table in enumerate(value if isinstance(value, list) else ()):
        yield ("distributions", index), _table(table)


def _table(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _strings(
    table: dict[str, object], key: str, section: type[DistributionConfig]
) -> tuple[str, ...]:
    value = table.get(key, section.model_fields[key].default)
    entries = value if isinstance(value, list | tuple) else ()
    return tuple(entry for entry in entries if isinstance(entry, str))


def _short(value: object) -> str:
    """A name in quotes, cut to a length that keeps the message on one line."""
    return json.dumps(str(value)[:QUOTE_LIMIT_CHARACTERS])
