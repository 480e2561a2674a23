"""Reuse of stored responses: RFC 9111 §4 and §5.2.1, RFC 5861, RFC 8246."""

from __future__ import annotations

import pytest

from streamedge.cache.rfc9111.freshness import TtlRules
from streamedge.cache.rfc9111.reuse import Reuse, decide_absent, decide_reuse, may_serve_on_error

NOW_S = 1767225600.0
STRICT = TtlRules(strict=True)
CLOUDFRONT = TtlRules()
MINIMUM = TtlRules(min_ttl_s=60)


def decide(
    cache_control: str,
    age_s: float,
    directives: str = "",
    rules: TtlRules = STRICT,
    status: int = 200,
) -> Reuse:
    return decide_reuse(
        status,
        {"cache-control": cache_control},
        rules,
        response_s=NOW_S,
        age_s=age_s,
        request_fields={"cache-control": directives} if directives else {},
    )


def may_serve_stale(
    cache_control: str, age_s: float = 100, directives: str = "", rules: TtlRules = STRICT
) -> bool:
    return may_serve_on_error(
        200,
        {"cache-control": cache_control},
        rules,
        response_s=NOW_S,
        age_s=age_s,
        request_fields={"cache-control": directives} if directives else {},
    )


@pytest.mark.parametrize(
    ("status", "age_s", "serves"),
    [(200, 100, True), (200, 0, True), (200, -0.5, False), (499, 100, True), (500, 100, False)],
)
def test_stored_error_or_one_from_the_future_does_not_replace_a_failure(
    status: int, age_s: float, serves: bool
) -> None:
    fields = {"cache-control": "max-age=60"}
    is_served = may_serve_on_error(
        status, fields, STRICT, response_s=NOW_S, age_s=age_s, request_fields={}
    )
    assert is_served == serves


@pytest.mark.parametrize("rules", [STRICT, CLOUDFRONT])
@pytest.mark.parametrize(
    ("cache_control", "age_s", "reuse"),
    [
        ("max-age=60", 0, Reuse.FRESH),
        ("max-age=60", 59.9, Reuse.FRESH),
        ("max-age=60", 60, Reuse.VALIDATE),  # §4.2: fresh while lifetime > age
        ("max-age=60", -1, Reuse.VALIDATE),  # the clock went backwards
        ("max-age=0", 0, Reuse.VALIDATE),
        ("max-age=60, no-cache", 0, Reuse.VALIDATE),
        ('max-age=60, no-cache="a"', 0, Reuse.FRESH),
        ("max-age=60, must-revalidate", 59, Reuse.FRESH),
        ("max-age=60, stale-while-revalidate=30", 59, Reuse.FRESH),
        ("max-age=60, stale-while-revalidate=30", 60, Reuse.STALE_WHILE_REVALIDATE),
        ("max-age=60, stale-while-revalidate=30", 89, Reuse.STALE_WHILE_REVALIDATE),
        ("max-age=60, stale-while-revalidate=30", 90, Reuse.VALIDATE),
        ("max-age=60, stale-while-revalidate=30, must-revalidate", 61, Reuse.VALIDATE),
        ("max-age=60, stale-while-revalidate=30, proxy-revalidate", 61, Reuse.VALIDATE),
        ("max-age=60, stale-while-revalidate=30, no-cache", 61, Reuse.VALIDATE),
    ],
)
def test_response_directives_limit_reuse(
    cache_control: str, age_s: float, reuse: Reuse, rules: TtlRules
) -> None:
    assert decide(cache_control, age_s, rules=rules) is reuse


def test_s_maxage_forbids_stale_responses_with_strict_rules_only() -> None:
    cache_control = "s-maxage=60, stale-while-revalidate=30, stale-if-error=30"
    assert decide(cache_control, 61, rules=STRICT) is Reuse.VALIDATE
    assert decide(cache_control, 61, rules=CLOUDFRONT) is Reuse.STALE_WHILE_REVALIDATE
    assert not may_serve_stale(cache_control, 61, rules=STRICT)
    assert may_serve_stale(cache_control, 61, rules=CLOUDFRONT)


@pytest.mark.parametrize(
    ("cache_control", "age_s", "directives", "reuse"),
    [
        ("max-age=60", 5, "no-cache", Reuse.VALIDATE),
        ("max-age=60, immutable", 5, "no-cache", Reuse.VALIDATE),
        ("max-age=60", 5, "max-age=0", Reuse.VALIDATE),
        ("max-age=60", 0, "max-age=0", Reuse.VALIDATE),
        ("max-age=60", 5, "max-age=5", Reuse.VALIDATE),
        ("max-age=60", 5, "max-age=6", Reuse.FRESH),
        ("max-age=60, immutable", 5, "max-age=0", Reuse.FRESH),  # RFC 8246 §2
        ("max-age=60, immutable", 61, "max-age=0", Reuse.VALIDATE),
        ("max-age=60", 5, "no-store", Reuse.FRESH),  # §5.2.1.5: does not apply to stored responses
        ("max-age=60", 5, "min-fresh=55", Reuse.FRESH),
        ("max-age=60", 5, "min-fresh=56", Reuse.VALIDATE),
        ("max-age=60", 70, "max-stale", Reuse.STALE),
        ("max-age=60", 70, "max-stale=10", Reuse.STALE),
        ("max-age=60", 70, "max-stale=9", Reuse.VALIDATE),
        ("max-age=60", 70, "max-stale=20, max-age=65", Reuse.VALIDATE),
        ("max-age=60, must-revalidate", 70, "max-stale", Reuse.VALIDATE),
        ("max-age=60, s-maxage=60", 70, "max-stale", Reuse.VALIDATE),
        ("max-age=60, no-cache", 5, "max-stale", Reuse.VALIDATE),
        ("max-age=60, stale-while-revalidate=30", 70, "max-age=80", Reuse.VALIDATE),
        ("max-age=60, stale-while-revalidate=30", 70, "min-fresh=0", Reuse.VALIDATE),
        ("max-age=60", 5, "only-if-cached", Reuse.FRESH),
        ("max-age=60", 70, "only-if-cached", Reuse.GATEWAY_TIMEOUT),
        ("max-age=60", 5, "only-if-cached, no-cache", Reuse.GATEWAY_TIMEOUT),
        ("max-age=60", 70, "only-if-cached, max-stale", Reuse.STALE),
    ],
)
def test_request_directives_limit_reuse(
    cache_control: str, age_s: float, directives: str, reuse: Reuse
) -> None:
    assert decide(cache_control, age_s, directives) is reuse


def test_pragma_no_cache_requires_validation() -> None:
    reuse = decide_reuse(
        200,
        {"cache-control": "max-age=60"},
        STRICT,
        response_s=NOW_S,
        age_s=1,
        request_fields={"pragma": "no-cache"},
    )
    assert reuse is Reuse.VALIDATE


def test_absent_response_is_fetched_unless_only_if_cached() -> None:
    assert decide_absent({}) is Reuse.VALIDATE
    assert decide_absent({"cache-control": "only-if-cached"}) is Reuse.GATEWAY_TIMEOUT


@pytest.mark.parametrize("directive", ["no-store", "no-cache", "private"])
def test_minimum_ttl_allows_reuse_against_the_origins_directives(directive: str) -> None:
    assert decide(directive, 59, rules=MINIMUM) is Reuse.FRESH
    assert decide(directive, 60, rules=MINIMUM) is Reuse.VALIDATE
    assert decide(directive, 0, rules=CLOUDFRONT) is Reuse.VALIDATE
    assert decide(directive, 0, rules=TtlRules(min_ttl_s=60, strict=True)) is Reuse.VALIDATE
    assert may_serve_stale(directive, 61, rules=MINIMUM)
    assert not may_serve_stale(directive, 61, rules=CLOUDFRONT)


@pytest.mark.parametrize("rules", [STRICT, CLOUDFRONT])
@pytest.mark.parametrize(
    ("cache_control", "directives", "allowed"),
    [
        ("max-age=60", "", True),
        ("max-age=60, stale-if-error=41", "", True),
        ("max-age=60, stale-if-error=40", "", False),
        ("max-age=60, stale-if-error=0", "", False),
        ("max-age=60, must-revalidate", "", False),
        ("max-age=60, proxy-revalidate, stale-if-error=99", "", False),
        ("max-age=60, no-cache", "", False),
        ("max-age=60", "stale-if-error=41", True),
        ("max-age=60", "stale-if-error=40", False),
        ("max-age=60, stale-if-error=0", "stale-if-error=99", False),
        ("max-age=60", "no-cache", False),
        ("max-age=60", "max-age=0", True),
    ],
)
def test_stale_response_may_be_served_when_the_origin_fails(
    cache_control: str, directives: str, allowed: bool, rules: TtlRules
) -> None:
    assert may_serve_stale(cache_control, 100, directives, rules) is allowed


def test_s_maxage_forbids_stale_on_error_with_strict_rules_only() -> None:
    assert not may_serve_stale("s-maxage=60", rules=STRICT)
    assert may_serve_stale("s-maxage=60", rules=CLOUDFRONT)


def test_response_is_validated_if_the_clock_went_back() -> None:
    assert not may_serve_stale("max-age=60", -1)
