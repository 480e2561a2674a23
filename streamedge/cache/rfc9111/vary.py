"""Which of a resource's variants a request selects: RFC 9111 §4.1.

Pure: header fields in, names and keys out. Two requests select the same variant when the fields
that Vary names match; they match here when they differ by nothing but whitespace between the
members of a list, case and rank order of Accept-Language, and the lines a field came in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from streamedge.cache.rfc9111.cache_control import split_list
from streamedge.keys import join_key


def parse_vary(fields: Mapping[str, str]) -> tuple[str, ...]:
    """The request fields that a response was selected by: lower case, each once, sorted."""
    return tuple(sorted(set(split_list(fields.get("vary", "").lower())) - {"", "*"}))


def varies_by_everything(fields: Mapping[str, str]) -> bool:
    """Whether Vary has a member "*", so that no other request ever matches."""
    return "*" in split_list(fields.get("vary", ""))


def vary_slot_key(key: str) -> str:
    """The key in the write table that is raised when the answers of ``key`` begin to vary.

    It refuses what was stored under ``key`` itself, and none of its variants.
    """
    return join_key("vary", key)


def variant_key(key: str, names: Sequence[str], request_fields: Mapping[str, str]) -> str:
    """The key of a request's variant of what ``key`` names: ``key`` itself where nothing varies.

    ``names`` as ``parse_vary`` gives them. ``request_fields`` are those that the origin sees: a
    field that is normalised on the way there is to be normalised here. A field that is absent
    matches only where it is absent, not where it is empty.
    """
    if not names:
        return key
    parts = []
    for name in names:
        value = request_fields.get(name)
        parts.append(name if value is None else f"{name}={_normalised(name, value)}")
    return join_key("variant", key, *parts)


def _normalised(name: str, value: str) -> str:
    if name == "accept-language":
        return _ranked(value.lower())
    return ",".join(split_list(value))


def _ranked(value: str) -> str:
    """Languages by weight, equal ones in the order given, which some origins apply."""
    languages = [_weighted(member) for member in split_list(value) if member]
    languages.sort(key=lambda language: -language[1])
    return ",".join(f"{language};q={weight:g}" for language, weight in languages)


def _weighted(member: str) -> tuple[str, float]:
    """A member and its weight (RFC 9110 §12.4.2): 1 without one, 0 when it cannot be read."""
    name, _, parameter = member.partition(";")
    weight = 1.0
    key, equals, text = parameter.partition("=")
    if equals and key.strip(" \t") == "q":
        digits = text.strip(" \t")
        readable = len(digits) <= 5 and digits.isascii() and digits.replace(".", "", 1).isdigit()
        weight = min(float(digits), 1.0) if readable else 0.0
    return name.strip(" \t"), weight
