"""The notation of a country list: an allow list or a deny list.

Takes any TOML value; returns a ``CountryList`` or raises ``ValueError`` with the expected form.
Pure.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from streamedge.config.schema.units import kind_of, name_type

COUNTRIES_MAX = 1000

# ISO 3166-1 alpha-2.
_CODE = re.compile(r"[A-Za-z]{2}")
_EXPECTED = 'expected { allow = ["DE", "FR"] } or { deny = ["US"] }'
_UNKNOWN_EXPECTED = 'expected "allow" or "deny" for unknown'


@dataclass(frozen=True, slots=True)
class CountryList:
    """An allow list or a deny list of ``codes``, in upper case.

    ``unknown`` is "allow" or "deny" for addresses of an unknown country; "" is the default of the
    whole config.
    """

    codes: tuple[str, ...] = ()
    is_allow_list: bool = False
    unknown: str = ""

    @property
    def is_open(self) -> bool:
        """Whether all viewers are allowed, so that no lookup is needed."""
        return not self.codes and not self.is_allow_list and self.unknown != "deny"


ALL_COUNTRIES = CountryList()


def parse_country_list(value: object) -> CountryList:
    """``{ allow = […] }``, ``{ deny = […] }`` or ``{}``, each with ``unknown`` or without."""
    if isinstance(value, CountryList):
        return value
    if not isinstance(value, dict):
        raise ValueError(f"{_EXPECTED}, found {kind_of(value)}")  # noqa: TRY004  # pydantic's
    for key in value:
        if key not in {"allow", "deny", "unknown"}:
            raise ValueError(f"{_EXPECTED}, optionally with unknown; found {name_type(key)}")
    if "allow" in value and "deny" in value:
        raise ValueError(f"{_EXPECTED}, found both allow and deny")
    unknown = value.get("unknown", "")
    if "unknown" in value and unknown not in ("allow", "deny"):
        raise ValueError(f"{_UNKNOWN_EXPECTED}, found {name_type(unknown)}")
    codes = _codes(value.get("allow", value.get("deny", [])))
    if "allow" in value and not codes:
        text = "found an empty allow, which would admit no viewer; { deny = [] } admits all"
        raise ValueError(f"{_EXPECTED}, {text}")
    return CountryList(codes, "allow" in value, unknown)


def format_country_list(countries: CountryList) -> str:
    """``countries`` as TOML, such as ``{ allow = ["DE"] }``."""
    entries = []
    if countries.codes or countries.is_allow_list:
        word = "allow" if countries.is_allow_list else "deny"
        entries.append(f"{word} = {json.dumps(list(countries.codes))}")
    if countries.unknown:
        entries.append(f"unknown = {json.dumps(countries.unknown)}")
    return f"{{ {', '.join(entries)} }}" if entries else "{}"


def _codes(value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{_EXPECTED}, found {kind_of(value)} of countries")  # noqa: TRY004
    if len(value) > COUNTRIES_MAX:
        raise ValueError(f"expected at most {COUNTRIES_MAX} countries, found {len(value)}")
    for code in value:
        if not isinstance(code, str) or not _CODE.fullmatch(code):
            text = 'expected two-letter country codes, such as "DE"'
            raise ValueError(f"{text}, found {name_type(code)}")
    return tuple(dict.fromkeys(code.upper() for code in value))
