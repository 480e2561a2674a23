"""Parsing Cache-Control and CDN-Cache-Control: RFC 9111 §5.2, RFC 5861, RFC 8246, RFC 9213."""

from __future__ import annotations

from dataclasses import fields, replace
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamedge.cache.rfc9111.cache_control import (
    DELTA_SECONDS_MAX,
    NO_DIRECTIVES,
    Directives,
    delta_seconds,
    parse_cache_control,
    parse_targeted,
    request_directives,
    response_directives,
    split_list,
)


@pytest.mark.parametrize(
    ("value", "directives"),
    [
        ("", Directives()),
        (", ,", Directives()),
        ("max-age=60", Directives(max_age_s=60)),
        ("MaX-aGe=60", Directives(max_age_s=60)),
        ("max-age=003600", Directives(max_age_s=3600)),
        ('max-age="60"', Directives(max_age_s=60)),  # §5.2: both forms are to be understood
        ("max-age=60, max-age=5", Directives(max_age_s=60)),  # §4.2.1: the first
        ("max-age=5,max-age=60", Directives(max_age_s=5)),
        ("max-age=5, s-maxage=60", Directives(max_age_s=5, s_maxage_s=60)),
        ("foobar, max-age=60, x=y", Directives(max_age_s=60)),
        ("max-age=99999999999", Directives(max_age_s=DELTA_SECONDS_MAX)),
        ("max-age=" + "9" * 5000, Directives(max_age_s=DELTA_SECONDS_MAX)),
        ("max-age=" + "0" * 5000 + "7", Directives(max_age_s=7)),
        ('extension="max-age=3600", max-age=1', Directives(max_age_s=1)),
        ('max-age=1, extension="max-age=3600, no-store"', Directives(max_age_s=1)),
        (r'extension="\", no-store", public', Directives(public=True)),
        ('extension="max-age=3600, no-store', Directives(no_store=True)),  # never closed
        ("no-cache", Directives(no_cache=True)),
        ('no-cache="A, b"', Directives(no_cache_fields=frozenset({"a", "b"}))),
        ("no-cache=a", Directives(no_cache_fields=frozenset({"a"}))),
        ('no-cache=""', Directives(no_cache=True)),
        (
            'no-cache="a", no-cache, no-cache="b"',
            Directives(no_cache=True, no_cache_fields=frozenset({"a", "b"})),
        ),
        ('private="Set-Cookie"', Directives(private_fields=frozenset({"set-cookie"}))),
        ("No-StOrE, private", Directives(no_store=True, private=True)),
        ("no-store=yes", Directives(no_store=True)),
        (
            "public, must-revalidate, proxy-revalidate, must-understand, immutable, no-transform",
            Directives(
                public=True,
                must_revalidate=True,
                proxy_revalidate=True,
                must_understand=True,
                immutable=True,
                no_transform=True,
            ),
        ),
        (
            "stale-while-revalidate=30, stale-if-error=0",
            Directives(stale_while_revalidate_s=30, stale_if_error_s=0),
        ),
        (
            "max-stale, min-fresh=5, only-if-cached",
            Directives(max_stale_s=inf, min_fresh_s=5, only_if_cached=True),
        ),
        ("max-stale=9", Directives(max_stale_s=9)),
    ],
)
def test_cache_control_is_parsed_directive_by_directive(value: str, directives: Directives) -> None:
    assert parse_cache_control(value) == directives


@pytest.mark.parametrize(
    "argument",
    [
        "max-age",
        "max-age=",
        "max-age=abc",
        "max-age=a60",
        "max-age=60a",
        "max-age=-60",
        "max-age=60.0",
        "max-age=60.5",
        "max-age='60'",
        "max-age =60",
        "max-age= 60",
        "max-age=٦٠",
        'max-age="60',
    ],
)
def test_malformed_number_counts_as_0(argument: str) -> None:
    assert parse_cache_control(argument) == Directives(max_age_s=0)


@pytest.mark.parametrize(
    ("value", "directives"),
    [
        ("max-age=60", Directives(max_age_s=60)),
        ("max-age=99999999999", Directives(max_age_s=DELTA_SECONDS_MAX)),
        ("max-age=-1", Directives(max_age_s=0)),
        ("foobar, max-age=60;x=1", Directives(max_age_s=60)),
        ("max-age=5, max-age=60", Directives(max_age_s=60)),  # RFC 8941 §3.2: the last
        ("no-store, private=?0", Directives(no_store=True)),
        ('private="a, B"', Directives(private_fields=frozenset({"a", "b"}))),
        ("no-cache", Directives(no_cache=True)),
        ("foo", Directives()),
    ],
)
def test_targeted_field_is_parsed_as_a_dictionary(value: str, directives: Directives) -> None:
    assert parse_targeted(value) == replace(directives, targeted=True)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "max-age=60, &&&&&",
        "max-age=60,",
        "MaX-aGe=60",
        "max-age =60",
        "max-age= 60",
        'max-age="60"',
        "max-age=60.5",
        "max-age=x",
        "max-age",
        "max-age=(60)",
        "no-store=1",
        "private=(a b)",
    ],
)
def test_targeted_field_with_an_error_is_ignored(value: str) -> None:
    assert parse_targeted(value) is None
    parsed = response_directives({"cdn-cache-control": value, "cache-control": "no-store"})
    assert parsed == Directives(no_store=True)


def test_targeted_field_overrides_cache_control() -> None:
    parsed = response_directives({"cdn-cache-control": "max-age=60", "cache-control": "no-store"})
    assert parsed == Directives(max_age_s=60, targeted=True)


def test_pragma_counts_in_requests_without_cache_control_only() -> None:
    assert request_directives({"pragma": "No-Cache"}) == Directives(no_cache=True)
    assert request_directives({"pragma": "other, max-age=5"}) == NO_DIRECTIVES
    both = request_directives({"pragma": "no-cache", "cache-control": "max-age=5"})
    assert both == Directives(max_age_s=5)
    assert request_directives({}) == NO_DIRECTIVES
    assert response_directives({"pragma": "no-cache"}) == NO_DIRECTIVES


@pytest.mark.parametrize(
    ("value", "members"),
    [
        ("", [""]),
        ("a", ["a"]),
        (" a ,\tb,", ["a", "b", ""]),
        ('"a,b", c', ['"a,b"', "c"]),
        (r'"a\",b", c', [r'"a\",b"', "c"]),
        ('a="b,c", d"e, f', ['a="b,c"', 'd"e', "f"]),
    ],
)
def test_list_is_split_at_commas_outside_of_quoted_strings(value: str, members: list[str]) -> None:
    assert split_list(value) == members


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("007", 7),
        ("2147483647", 2147483647),
        ("2147483649", DELTA_SECONDS_MAX),
        ("", None),
        ("+1", None),
        ("1 ", None),
        ("²", None),
    ],
)
def test_number_of_seconds_is_limited_or_none(text: str, seconds: int | None) -> None:
    assert delta_seconds(text) == seconds


@settings(deadline=None)
@given(st.one_of(st.text(max_size=200), st.text(alphabet='max-age=1",\\ no-cache', max_size=200)))
def test_any_text_gives_directives_without_negative_numbers(text: str) -> None:
    for directives in (parse_cache_control(text), parse_targeted(text)):
        if directives is not None:
            for field in fields(Directives):
                value = getattr(directives, field.name)
                assert not isinstance(value, float) or value >= 0
