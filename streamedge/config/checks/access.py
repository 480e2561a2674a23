"""Checks between keys that concern access: public keys, key groups, countries, proxies.

Like ``references``, it checks the parsed document before validation. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator

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
from streamedge.config.schema.config import AccessConfig, KeyGroupConfig, ListenConfig
from streamedge.config.schema.countries import parse_country_list
from streamedge.config.schema.units import format_address, parse_address

Address = tuple[str, int]


def access_mistakes(document: dict[str, object]) -> Iterator[Mistake]:
    """All mistakes between keys of ``document`` that concern access only."""
    yield from _keys_incomplete(document)
    yield from _names_unknown(document)
    yield from _countries_without_database(document)
    yield from _proxies(document)


def _keys_incomplete(document: dict[str, object]) -> Iterator[Mistake]:
    for key, public_key in named(document, "public_keys"):
        if public_key.get("file") and public_key.get("pem"):
            yield Mistake((*key, "pem"), "file has the key already; use one of the two")
        elif not public_key.get("file") and not public_key.get("pem"):
            yield Mistake((*key, "file"), "missing; a key needs file or pem")


def _names_unknown(document: dict[str, object]) -> Iterator[Mistake]:
    keys, groups = (tuple(table(document.get(name))) for name in ("public_keys", "key_groups"))
    for key, group in named(document, "key_groups"):
        names = strings(group, "keys", KeyGroupConfig)
        yield from _unknown((*key, "keys"), names, keys, "public_keys", "public key")
    for key, holder in _holders(document):
        names = strings(holder, "trusted_key_groups", AccessConfig)
        yield from _unknown((*key, "trusted_key_groups"), names, groups, "key_groups", "key group")


def _unknown(
    key: Key, names: tuple[str, ...], defined: tuple[str, ...], table_name: str, what: str
) -> Iterator[Mistake]:
    """The first of ``names`` that is not in ``defined``, or that is repeated."""
    for index, name in enumerate(names):
        if name not in defined:
            advice = nearest(name, defined, f"known under [{table_name}]: {quoted_list(defined)}")
            yield Mistake(key, f"no {what} has the name {short(name)}; {advice}")
            return
        if name in names[:index]:
            yield Mistake(key, f"the {what} {short(name)} is listed twice")
            return


def _countries_without_database(document: dict[str, object]) -> Iterator[Mistake]:
    if string(table(document.get("countries")), "database"):
        return
    for key, holder in _holders(document):
        try:
            is_open = parse_country_list(holder.get("countries", {})).is_open
        except ValueError:
            continue  # the schema reports it, with its line
        if not is_open:
            text = "viewers' countries cannot be looked up: countries.database is missing"
            yield Mistake((*key, "countries"), text)


def _proxies(document: dict[str, object]) -> Iterator[Mistake]:
    listen = table(document.get("listen"))
    proxied = listen.get("proxy_protocol")
    if not proxied or not isinstance(proxied, list):
        return
    listeners = [
        address
        for name in ("http", "https", "rtmp", "rtmps", "mixed")
        for address in _addresses(listen.get(name, ListenConfig.model_fields[name].default))
    ]
    for index, entry in enumerate(proxied):
        for address in _addresses([entry]):
            if address not in listeners:
                addresses = quoted_list(tuple(map(format_address, listeners)))
                text = f"no listener has the address {format_address(address)}; known: {addresses}"
                yield Mistake(("listen", "proxy_protocol", index), text)
    if not listen.get("proxies"):
        text = "no PROXY header would be trusted: listen.proxies is empty"
        yield Mistake(("listen", "proxy_protocol"), text)


def _addresses(value: object) -> list[Address]:
    """The valid addresses of a list; the schema reports the other entries."""
    addresses = []
    for entry in value if isinstance(value, list | tuple) else ():
        try:
            addresses.append(parse_address(entry))
        except ValueError:
            continue
    return addresses


def _holders(document: dict[str, object]) -> Iterator[tuple[Key, dict[str, object]]]:
    """Every distribution and behavior: the tables with access rules."""
    for key, distribution in entries(document, ("distributions",)):
        yield key, distribution
        if distribution.get("type") == "web":
            yield from entries(distribution, (*key, "behaviors"))
