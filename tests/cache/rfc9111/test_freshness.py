"""Lifetimes and ages: RFC 9111 §4.2, and CloudFront's TTLs.

The latter by the CloudFront Developer Guide, "Specifying the amount of time that CloudFront caches
objects" and "HTTP 4xx and 5xx status codes that CloudFront caches".
"""

from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamedge.cache.rfc9111.freshness import HEURISTIC_MAX_S, TtlRules, initial_age_s, lifetime_s

NOW_S = 1767225600.0
DAY_S = 86400.0
STRICT = TtlRules(strict=True)


def date(offset_s: float) -> str:
    return formatdate(NOW_S + offset_s, usegmt=True)


def lifetime_of(
    cache_control: str = "", rules: TtlRules = STRICT, status: int = 200, **others: str
) -> float:
    fields = {name.replace("_", "-"): value for name, value in others.items()}
    if cache_control:
        fields["cache-control"] = cache_control
    return lifetime_s(status, fields, rules, NOW_S)


@pytest.mark.parametrize("rules", [STRICT, TtlRules()])
@pytest.mark.parametrize(
    ("cache_control", "seconds"),
    [
        ("max-age=60", 60.0),
        ("max-age=0", 0.0),
        ("max-age=60, s-maxage=5", 5.0),  # §5.2.2.10
        ("s-maxage=5,max-age=60", 5.0),
        ("max-age=0, s-maxage=60", 60.0),
        ("max-age=-1", 0.0),
        ("max-age=abc, s-maxage=7", 7.0),
        ("max-age=99999999999", 31536000.0),
        ("max-age=60, no-store", 0.0),
        ("max-age=60, no-cache", 0.0),
        ("max-age=60, private", 0.0),
        ('max-age=60, no-cache="a", private="b"', 60.0),
        ("max-age=60, no-store, must-understand", 60.0),
    ],
)
def test_cache_control_gives_the_lifetime(
    cache_control: str, seconds: float, rules: TtlRules
) -> None:
    assert lifetime_of(cache_control, rules) == seconds


def test_must_understand_cancels_no_store_for_understood_statuses_only() -> None:
    assert lifetime_of("max-age=60, no-store, must-understand", status=599) == 0


@pytest.mark.parametrize("rules", [STRICT, TtlRules()])
@pytest.mark.parametrize(
    ("expires", "dated", "seconds"),
    [
        (date(60), date(0), 60.0),
        (date(60), date(20), 40.0),  # both clocks run fast: only their difference counts
        (date(300), date(400), 0.0),
        (date(-60), date(0), 0.0),
        (date(0), date(0), 0.0),
        ("0", date(0), 0.0),  # §5.3
        (f"{date(60)}, {date(60)}", date(0), 0.0),
        (date(60), "", 60.0),
        (date(60), "foo", 60.0),
        ("Thu, 18 Aug 2050 02:01:18 UTC", date(0), 0.0),
    ],
)
def test_expires_counts_from_date(
    expires: str, dated: str, seconds: float, rules: TtlRules
) -> None:
    assert lifetime_of("", rules, expires=expires, date=dated) == seconds


def test_max_age_overrides_expires() -> None:
    assert lifetime_of("max-age=60", expires=date(-5), date=date(0)) == 60
    assert lifetime_of("max-age=0", expires=date(60), date=date(0)) == 0


@pytest.mark.parametrize(
    ("targeted", "cache_control", "seconds"),
    [
        ("max-age=60", "max-age=1", 60.0),
        ("max-age=1", "max-age=60", 1.0),
        ("max-age=60", "no-store", 60.0),
        ("no-store", "max-age=60", 0.0),
        ("private", "max-age=60", 0.0),
        ("foo", "max-age=60", 0.0),  # no lifetime in it, and the other fields do not count
        ("max-age=60, &&&", "no-store", 0.0),
    ],
)
def test_targeted_field_overrides_expires_and_cache_control(
    targeted: str, cache_control: str, seconds: float
) -> None:
    fields = {
        "cdn-cache-control": targeted,
        "cache-control": cache_control,
        "expires": date(30),
        "date": date(0),
    }
    assert lifetime_s(200, fields, STRICT, NOW_S) == seconds


@pytest.mark.parametrize(
    ("status", "cache_control", "seconds"),
    [
        *((status, "", 1000.0) for status in (200, 203, 204, 301, 308, 404, 405, 410, 414, 501)),
        *((status, "", 0.0) for status in (201, 202, 302, 307, 403, 500, 502, 503, 504, 599)),
        (599, "public", 1000.0),
        (200, "must-revalidate", 1000.0),
    ],
)
def test_strict_rules_use_a_tenth_of_the_time_since_last_modified(
    status: int, cache_control: str, seconds: float
) -> None:
    lifetime = lifetime_of(cache_control, status=status, last_modified=date(-10000), date=date(0))
    assert lifetime == seconds


def test_heuristic_lifetime_needs_a_past_last_modified_and_is_at_most_a_day() -> None:
    assert lifetime_of(last_modified=date(-100 * DAY_S), date=date(0)) == HEURISTIC_MAX_S
    assert lifetime_of(last_modified=date(5), date=date(0)) == 0
    assert lifetime_of(last_modified="yesterday", date=date(0)) == 0
    assert lifetime_of(date=date(0)) == 0


@pytest.mark.parametrize(
    ("status", "cache_control", "seconds"),
    [
        *((status, "", 100.0) for status in (200, 203, 204, 206, 300, 301, 302, 307, 308)),
        *((status, "", 10.0) for status in (404, 414, 500, 501, 502, 503, 504)),
        *((status, "", 0.0) for status in (201, 303, 400, 401, 403, 405, 410, 412, 415, 599)),
        (404, "max-age=60", 60.0),
        (404, "max-age=1", 10.0),
        (404, "max-age=5000", 1000.0),
        (404, "no-store", 0.0),
        (403, "max-age=60", 60.0),
        (403, "max-age=60, s-maxage=0", 0.0),
        (201, "max-age=60", 60.0),
        (200, "public", 100.0),
    ],
)
def test_cloudfront_ttls_apply_by_status(status: int, cache_control: str, seconds: float) -> None:
    rules = TtlRules(default_ttl_s=100, max_ttl_s=1000)
    assert lifetime_of(cache_control, rules, status) == seconds


def test_errors_ignore_expires_unless_strict() -> None:
    assert lifetime_of("", TtlRules(), 400, expires=date(60), date=date(0)) == 0
    assert lifetime_of("", TtlRules(), 404, expires=date(60), date=date(0)) == 10
    assert lifetime_of("", STRICT, 403, expires=date(60), date=date(0)) == 60


@pytest.mark.parametrize(
    ("cache_control", "minimum_s", "seconds"),
    [
        ("max-age=60", 0, 60.0),
        ("max-age=60", 30, 60.0),
        ("max-age=60", 90, 90.0),
        ("max-age=5000", 0, 1000.0),
        ("max-age=5000", 90, 1000.0),
        ("", 0, 100.0),
        ("", 90, 100.0),
        ("", 200, 200.0),
        ("no-store", 0, 0.0),
        ("no-store, max-age=60", 90, 90.0),
        ("no-cache", 90, 90.0),
        ("private", 90, 90.0),
    ],
)
def test_minimum_default_and_maximum_ttl_limit_the_lifetime(
    cache_control: str, minimum_s: float, seconds: float
) -> None:
    rules = TtlRules(min_ttl_s=minimum_s, default_ttl_s=100, max_ttl_s=1000)
    assert lifetime_of(cache_control, rules) == seconds


def test_strict_minimum_ttl_does_not_overrule_no_store_no_cache_or_private() -> None:
    rules = TtlRules(min_ttl_s=90, strict=True)
    assert lifetime_of("max-age=60", rules) == 90
    for forbidden in ("no-store", "no-cache", "private"):
        assert lifetime_of(forbidden, rules) == 0


def test_ttls_of_the_operator_count_from_the_arrival_of_the_response() -> None:
    rules = TtlRules(min_ttl_s=30, default_ttl_s=100, max_ttl_s=1000)
    assert lifetime_of("", rules, age="500") == 600
    assert lifetime_of("max-age=60", rules, age="500") == 530
    assert lifetime_of("max-age=9000", rules, age="500") == 1500
    assert lifetime_of("no-store", rules, age="500") == 530
    assert lifetime_of("", TtlRules(), 404, date=date(-7200)) == 7210
    assert lifetime_of("max-age=60", TtlRules(), age="500") == 60


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({}, 0.0),
        ({"date": date(0)}, 0.0),
        ({"date": date(-30)}, 30.0),  # apparent_age
        ({"date": date(30)}, 0.0),  # the origin's clock runs ahead
        ({"date": "foo"}, 0.0),
        ({"age": "20"}, 22.0),
        ({"age": "20", "date": date(-30)}, 30.0),
        ({"age": "40", "date": date(-30)}, 42.0),
        ({"age": "7200, 0"}, 7202.0),  # §5.1: the first
        ({"age": "0, 7200"}, 2.0),
        ({"age": "2147483649"}, 2.0**31 + 2),
        ({"age": "abc"}, 2.0),
        ({"age": "-7200"}, 2.0),
        ({"age": "7200.0"}, 2.0),
        ({"age": ""}, 2.0),
    ],
)
def test_initial_age_is_that_of_the_fields_or_the_transit(
    fields: dict[str, str], seconds: float
) -> None:
    delay_s = 2.0 if "age" in fields else 0.0
    assert initial_age_s(fields, NOW_S - delay_s, NOW_S) == seconds


def test_response_sent_in_the_same_second_has_no_apparent_age() -> None:
    assert initial_age_s({"date": date(0)}, NOW_S + 0.9, NOW_S + 0.9) == 0


_words = st.sampled_from(
    ["max-age=5", "s-maxage=9", "no-store", "no-cache", "private", "public", "max-age=x", ","]
)


@settings(deadline=None)
@given(
    st.integers(200, 599),
    st.lists(_words).map(", ".join),
    st.text(max_size=20),
    st.builds(
        TtlRules, st.integers(0, 50), st.integers(0, 90), st.integers(60, 99), st.integers(0, 9)
    ),
)
def test_lifetime_is_within_the_limits_of_the_rules(
    status: int, cache_control: str, expires: str, rules: TtlRules
) -> None:
    lifetime = lifetime_of(cache_control, rules, status, expires=expires)
    assert 0 <= lifetime <= rules.max_ttl_s


@pytest.mark.parametrize(
    ("status", "cache_control", "rules", "seconds"),
    [
        (200, "", TtlRules(default_ttl_s=100), 10 + 100),
        (200, "max-age=500", TtlRules(), 500),
        (200, "max-age=500", TtlRules(max_ttl_s=100), 10 + 100),
        (200, "max-age=5", TtlRules(min_ttl_s=100), 10 + 100),
        (404, "", TtlRules(error_ttl_s=20), 10 + 20),
    ],
)
def test_ttls_of_the_operator_count_from_the_first_edge_that_had_the_response(
    status: int, cache_control: str, rules: TtlRules, seconds: float
) -> None:
    """It was 10 s old when the first edge got it, and this one has it from there 60 s later."""
    fields = {"age": "70", "date": date(-70), "cache-control": cache_control}
    assert lifetime_s(status, fields, rules, NOW_S, held_s=60) == seconds
    with_clock_ahead = fields | {"date": date(0)}
    assert lifetime_s(status, with_clock_ahead, rules, NOW_S, held_s=60) == seconds
