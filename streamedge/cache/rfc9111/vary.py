"""Which of a resource's variants a request selects: RFC 9111 §4.1.

Pure: header fields in, names and keys out. Two requests select the same variant if the fields that
Vary names match. Fields match if they differ only in whitespace between the members of a list, in
the division into lines, or, for Accept-Language, in case and rank order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from streamedge.cache.rfc9111.cache_control import split_list
from streamedge.keys import join_key


def parse_vary(fields: Mapping[str, str]) -> tuple[str, ...]:
    """The request fields that a response was selected by: lower case, each once, sorted."""
    value = fields.get("vary")
    return () if value is None else tuple(sorted(set(split_list(value.lower())) - {"", "*"}))


def varies_by_everything(fields: Mapping[str, str]) -> bool:
    """Whether Vary has a member "*", so that no other request ever matches."""
    value = fields.get("vary")
    return value is not None and "*" in split_list(value)


def vary_slot_key(key: str) -> str:
    """The key in the write table that is raised when the responses of ``key`` begin to vary.

    That refuses the records stored under ``key`` itself, and none of its variants.
    """
    return join_key("vary", key)


def variant_key(key: str, names: Sequence[str], request_fields: Mapping[str, str]) -> str:
    """The key of the variant of ``key`` that a request selects; ``key`` itself without ``names``.

    ``names`` are the result of ``parse_vary``. ``request_fields`` are those that the origin is
    sent, normalised as they are sent. An absent field matches an absent field only, not an empty
    one.
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
    """Languages by weight; equal ones keep their order, which counts for some origins."""
    languages = [_weighted(member) for member in split_list(value) if member]
    languages.sort(key=lambda language: -language[1])
    return ",".join(f"{language};q={weight:g}" for language, weight in languages)


def _weighted(member: str) -> tuple[str, float]:
    """A member and its weight (RFC 9110 §12.4.2): 1 if it is absent, 0 if it is malformed."""
    name, _, parameter = member.partition(";")
    weight = 1.0
    key, equals, text = parameter.partition("=")
    if equals and key.strip(" \t") == "q":
        digits = text.strip(" \t")
        is_valid = len(digits) <= 5 and digits.isascii() and digits.replace(".", "", 1).isdigit()
        weight = min(float(digits), 1.0) if is_valid else 0.0
    return name.strip(" \t"), weight
