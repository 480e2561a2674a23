"""Variants: RFC 9111 §4.1, RFC 9110 §12.5."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.cache.rfc9111.vary import parse_vary, variant_key, varies_by_everything


@pytest.mark.parametrize(
    ("vary", "names"),
    [
        (None, ()),
        ("", ()),
        ("Foo", ("foo",)),
        ("foo, Bar,,FOO", ("bar", "foo")),
        ("foo, *", ("foo",)),
    ],
)
def test_vary_is_parsed_to_sorted_names(vary: str | None, names: tuple[str, ...]) -> None:
    assert parse_vary({} if vary is None else {"vary": vary}) == names


@pytest.mark.parametrize("vary", ["*", "*, *", ", *", "*, Foo", "Foo, *", " * "])
def test_star_in_vary_matches_no_request(vary: str) -> None:
    assert varies_by_everything({"vary": vary})


def test_vary_without_a_star_matches_requests() -> None:
    assert not varies_by_everything({})
    assert not varies_by_everything({"vary": "foo, x-*"})


def key(**fields: str) -> str:
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    return variant_key("k", ("accept-language", "foo"), named)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"foo": "1"}, {"foo": "1", "other": "2"}),
        ({"foo": "1, 2"}, {"foo": "1,2"}),
        ({"foo": "1, 2"}, {"foo": " 1 ,\t2 "}),
        ({"accept_language": "en, de"}, {"accept_language": "eN,De"}),
        ({"accept_language": "en, de;q=0.5"}, {"accept_language": "de;q=0.50 , en;q=1"}),
        ({"accept_language": "de"}, {"accept_language": "de;q=1.000"}),
        ({"accept_language": "de;level=0.5"}, {"accept_language": "de"}),
        ({"accept_language": "en, de;q=0.12345"}, {"accept_language": "en, de;q=0"}),
        ({"accept_language": "en, de;q=\u0661"}, {"accept_language": "en, de;q=0"}),
        ({"accept_language": "en, de;q=0.5.5"}, {"accept_language": "en, de;q=0"}),
        ({"accept_language": "en, de;q="}, {"accept_language": "en, de;q=0"}),
        ({}, {"other": "1"}),
    ],
)
def test_equivalent_request_fields_select_the_same_variant(
    one: dict[str, str], other: dict[str, str]
) -> None:
    assert key(**one) == key(**other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"foo": "1"}, {"foo": "2"}),
        ({"foo": "1"}, {}),
        ({"foo": ""}, {}),
        ({"foo": "1, 2"}, {"foo": "2, 1"}),
        ({"foo": "a"}, {"foo": "A"}),
        ({"foo": '"a, b"'}, {"foo": '"a,b"'}),
        ({"accept_language": "en, de"}, {"accept_language": "de, en"}),
        ({"accept_language": "en, de;q=0.123"}, {"accept_language": "en, de;q=0"}),
        ({"accept_language": "en;q=0.5, de"}, {"accept_language": "en, de;q=0.5"}),
        ({"foo": "en"}, {"accept_language": "en"}),
    ],
)
def test_different_request_fields_select_different_variants(
    one: dict[str, str], other: dict[str, str]
) -> None:
    assert key(**one) != key(**other)


def test_key_without_vary_is_its_own_variant() -> None:
    assert variant_key("k", (), {"foo": "1"}) == "k"


_values = st.none() | st.text(st.characters(exclude_characters="\0"), max_size=10)


@given(_values, _values, _values, _values)
def test_variant_keys_of_different_values_differ(
    a: str | None, b: str | None, c: str | None, d: str | None
) -> None:
    def of(first: str | None, second: str | None) -> str:
        pair = {"x": first, "y": second}
        return variant_key("k", ("x", "y"), {k: v for k, v in pair.items() if v is not None})

    same = [variant_key("k", ("x",), {"x": v}) if v is not None else "" for v in (a, b, c, d)]
    assert (of(a, b) == of(c, d)) == (same[:2] == same[2:])
