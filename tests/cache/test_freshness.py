"""streamedge/cache/freshness.py: RFC 9111 §4.2 and §5.2, as far as the cache follows them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamedge.cache.freshness import (
    IMMUTABLE_TTL_S,
    directives,
    is_fresh,
    stated_lifetime_s,
)


@pytest.mark.parametrize(
    ("cache_control", "lifetime_s"),
    [
        ("", None),
        ("public", None),
        ("max-age=60", 60.0),
        ("max-age=0", 0.0),
        ("public, max-age=31536000, immutable", 31536000.0),
        ("max-age=60, s-maxage=5", 5.0),  # RFC 9111 §5.2.2.10
        ("s-maxage=5,max-age=60", 5.0),
        ("s-maxage=0, max-age=60", 0.0),
        ("MAX-AGE=60", 60.0),  # RFC 9111 §5.2: names are case-insensitive
        ('max-age="60"', 60.0),  # §5.2: both forms of the argument are to be understood
        (" max-age = 60 ", 60.0),
        ("max-age=60, max-age=5", 60.0),  # §4.2.1: the first, when there are two
        ("no-store", 0.0),
        ("no-cache, max-age=60", 0.0),
        ("private", 0.0),
        ('private="set-cookie", max-age=60', 0.0),
        ("max-age=60, no-store", 0.0),
        ("max-age", 0.0),
        ("max-age=", 0.0),
        ("max-age=abc", 0.0),  # §4.2.1: what cannot be read is stale
        ("max-age=-1", 0.0),
        ("max-age=1.5", 0.0),
        ("max-age=abc, s-maxage=7", 7.0),
        ("max-aged=60", None),
        (",,", None),
    ],
)
def test_stated_lifetime(cache_control: str, lifetime_s: float | None) -> None:
    assert stated_lifetime_s(cache_control) == lifetime_s


def test_a_lifetime_longer_than_any_number_holds_is_for_ever() -> None:
    assert stated_lifetime_s("max-age=" + "9" * 400) == math.inf


@settings(deadline=None)
@given(st.text(max_size=200))
def test_any_text_states_no_lifetime_or_one_from_0_up(text: str) -> None:
    lifetime_s = stated_lifetime_s(text)
    assert lifetime_s is None or lifetime_s >= 0


def test_directives_are_named_in_lower_case_with_their_arguments() -> None:
    assert directives('Public, Max-Age=60, ext="a b",no-cache') == {
        "public": "",
        "max-age": "60",
        "ext": "a b",
        "no-cache": "",
    }


@pytest.mark.parametrize(
    ("age_s", "lifetime_s", "fresh"),
    [
        (0.0, 60.0, True),
        (59.9, 60.0, True),
        (60.0, 60.0, False),
        (61.0, 60.0, False),
        (0.0, 0.0, False),
        (-0.1, 60.0, False),  # the clock went backwards
        (1e12, IMMUTABLE_TTL_S, True),
    ],
)
def test_fresh_is_younger_than_the_lifetime(age_s: float, lifetime_s: float, fresh: bool) -> None:
    assert is_fresh(1000.0, lifetime_s, 1000.0 + age_s) is fresh
