"""Parsing of HTTP dates (RFC 9110 §5.6.7)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamedge.http_date import parse_http_date_s

NOW_S = 1767225600.0  # 2026-01-01
NOVEMBER_S = 784111777  # the RFC's own example


@pytest.mark.parametrize(
    "value",
    [
        "Sun, 06 Nov 1994 08:49:37 GMT",  # the three forms of §5.6.7
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
        "Sun Nov 06 08:49:37 1994",
        "SUN, 06 NOV 1994 08:49:37 gMT",
        " Sun, 06 Nov 1994 08:49:37 GMT\t",
        "Mon, 06 Nov 1994 08:49:37 GMT",  # another day's name
    ],
)
def test_date_in_each_of_the_three_forms_is_parsed(value: str) -> None:
    assert parse_http_date_s(value, NOW_S) == NOVEMBER_S


@pytest.mark.parametrize(
    "value",
    [
        "",
        "0",
        "-1",
        "784111777",
        "Sun, 06 Nov 1994 08:49:37 UTC",
        "Sun, 06 Nov 1994 08:49:37 AEST",
        "Sun, 06 Nov 1994 08:49:37 +0000",
        "Sun, 06 Nov 1994 08:49:37",
        "Sun, 06 Nov 94 08:49:37 GMT",
        "Sun 06 Nov 1994 08:49:37 GMT",
        "Sun, 06  Nov  1994 08:49:37 GMT",
        "Sun, 06-Nov-1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 08.49.37 GMT",
        "Sun, 06 Nov 1994 8:49:37 GMT",
        "Sun, 6 Nov 1994 08:49:37 GMT",
        "Sun, 31 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 0000 08:49:37 GMT",
        "Sun, 06 Nov 1994 24:00:00 GMT",
        "Sun, 06 Nov 1994 08:49:61 GMT",
        "Sun, ٠٦ Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT",
    ],
)
def test_other_text_is_not_a_date(value: str) -> None:
    assert parse_http_date_s(value, NOW_S) is None


def test_leap_second_is_the_next_second() -> None:
    leap = parse_http_date_s("Sat, 31 Dec 2016 23:59:60 GMT", NOW_S)
    assert leap == parse_http_date_s("Sun, 01 Jan 2017 00:00:00 GMT", NOW_S)


@pytest.mark.parametrize(
    ("two_digits", "now_s", "year"),
    [
        ("50", NOW_S, 2050),
        ("76", NOW_S, 2076),
        ("77", NOW_S, 1977),  # more than 50 years ahead
        ("94", NOW_S, 1994),
        ("26", NOW_S, 2026),
        ("05", 3913142400.0, 2105),  # seen from the year 2094
        ("44", 3913142400.0, 2144),
        ("45", 3913142400.0, 2045),
    ],
)
def test_two_digit_year_is_at_most_50_years_ahead(two_digits: str, now_s: float, year: int) -> None:
    short = parse_http_date_s(f"Monday, 01-Mar-{two_digits} 00:00:00 GMT", now_s)
    assert short == parse_http_date_s(f"Mon, 01 Mar {year} 00:00:00 GMT", now_s)


@settings(deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_parsed_or_none(value: str) -> None:
    parsed = parse_http_date_s(value, NOW_S)
    assert parsed is None or isinstance(parsed, int)


@pytest.mark.parametrize(("two_digits", "year"), [("69", 1969), ("94", 1994), ("68", 2068)])
def test_two_digit_year_without_the_current_time_is_as_in_posix(two_digits: str, year: int) -> None:
    short = parse_http_date_s(f"Monday, 01-Mar-{two_digits} 00:00:00 GMT")
    assert short is not None
    assert short == parse_http_date_s(f"Mon, 01 Mar {year} 00:00:00 GMT")
