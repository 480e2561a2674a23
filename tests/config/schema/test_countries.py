"""Country lists: parsing, formatting and errors."""

from __future__ import annotations

import tomllib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.config.schema.countries import (
    ALL_COUNTRIES,
    COUNTRIES_MAX,
    CountryList,
    format_country_list,
    parse_country_list,
)

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["allow", "deny", "unknown", "x"]), inner)
    ),
    max_leaves=6,
)


@pytest.mark.parametrize(
    ("value", "countries", "is_open"),
    [
        ({}, ALL_COUNTRIES, True),
        ({"allow": ["DE", "fr", "DE"]}, CountryList(("DE", "FR"), True), False),
        ({"deny": ["US"]}, CountryList(("US",)), False),
        ({"deny": []}, ALL_COUNTRIES, True),
        ({"deny": [], "unknown": "deny"}, CountryList((), False, "deny"), False),
        ({"deny": [], "unknown": "allow"}, CountryList((), False, "allow"), True),
        ({"allow": ["DE"], "unknown": "allow"}, CountryList(("DE",), True, "allow"), False),
    ],
)
def test_country_list_survives_parsing_and_formatting(
    value: object, countries: CountryList, is_open: bool
) -> None:
    assert parse_country_list(value) == countries
    assert countries.is_open is is_open
    written = tomllib.loads(f"value = {format_country_list(countries)}")["value"]
    assert parse_country_list(written) == countries


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("DE", "found a string"),
        ({"allow": ["DE"], "deny": ["US"]}, "found both allow and deny"),
        ({"alow": ["DE"]}, 'found "alow"'),
        ({"allow": []}, "would admit no viewer"),
        ({"allow": "DE"}, "found a string of countries"),
        ({"deny": ["DEU"]}, 'expected two-letter country codes, such as "DE", found "DEU"'),
        ({"deny": ["D1"]}, 'found "D1"'),
        ({"deny": [49]}, "found 49"),
        ({"deny": ["DE"] * (COUNTRIES_MAX + 1)}, f"at most {COUNTRIES_MAX}"),
        ({"deny": ["DE"], "unknown": "maybe"}, 'expected "allow" or "deny" for unknown'),
        ({"deny": ["DE"], "unknown": ["deny"]}, 'expected "allow" or "deny" for unknown'),
    ],
)
def test_invalid_country_list_is_refused(value: object, expected: str) -> None:
    with pytest.raises(ValueError, match=r"^expected ") as caught:
        parse_country_list(value)
    assert expected in str(caught.value)


@given(value=anything)
def test_any_value_is_parsed_or_refused(value: object) -> None:
    with suppress(ValueError):
        countries = parse_country_list(value)
        assert parse_country_list(countries) is countries
