"""The changes to response headers, and which pages may read a response (CORS)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.delivery.http.policy.response_headers import (
    CORS_FIELDS,
    NO_POLICY,
    Cors,
    CorsPolicy,
    Field,
    ResponseHeadersPolicy,
    allowed_origin,
    apply_response_policy,
    cors_kind,
)

PAGE = "https://a.example"
ANY_ORIGIN = CorsPolicy(origins=("*",), overrides=False)
ONE_SITE = CorsPolicy(
    origins=(PAGE,), methods=("GET", "PUT"), headers=("*",), exposed=("ETag",), credentials=True
)


def applied(
    policy: ResponseHeadersPolicy,
    *fields: Field,
    secure: bool = True,
    origin: str | None = None,
    cors: Cors = Cors.SIMPLE,
) -> list[Field]:
    return apply_response_policy(policy, fields, secure=secure, origin_field=origin, cors=cors)


def test_fields_are_removed_then_set_then_added() -> None:
    policy = ResponseHeadersPolicy(
        removed=frozenset({"x-powered-by", "x-again"}),
        replaced=(("X-Frame-Options", "DENY"),),
        added=(("X-Again", "new"), ("ETag", "no")),
    )
    fields = (("X-POWERED-BY", "p"), ("x-frame-options", "a"), ("X-Frame-Options", "b"))
    result = applied(policy, *fields, ("etag", '"1"'), ("X-Again", "old"))
    assert result == [("etag", '"1"'), ("X-Frame-Options", "DENY"), ("X-Again", "new")]


@given(st.lists(st.tuples(st.text(min_size=1, max_size=8), st.text(max_size=8))))
def test_empty_policy_changes_nothing(fields: list[Field]) -> None:
    assert applied(NO_POLICY, *fields, secure=False, origin=PAGE) == fields


def test_hsts_is_sent_only_over_tls_and_keeps_the_origins() -> None:
    policy = ResponseHeadersPolicy(hsts="max-age=1")
    theirs = ("strict-transport-security", "max-age=9")
    assert applied(policy) == [("Strict-Transport-Security", "max-age=1")]
    assert applied(policy, theirs) == [theirs]
    assert applied(policy, secure=False) == applied(policy, theirs, secure=False) == []


def test_star_allows_every_page_without_vary() -> None:
    policy = ResponseHeadersPolicy(cors=ANY_ORIGIN)
    assert applied(policy, origin=PAGE) == [("Access-Control-Allow-Origin", "*")]
    assert applied(policy) == []


def test_cors_fields_of_the_origin_are_kept_or_replaced_together() -> None:
    theirs = (("access-control-allow-origin", "https://b.example"),)
    assert applied(ResponseHeadersPolicy(cors=ANY_ORIGIN), *theirs, origin=PAGE) == list(theirs)
    mine = applied(ResponseHeadersPolicy(cors=ONE_SITE), *theirs, origin="https://b.example")
    assert mine == [("Vary", "Origin")]


def test_allowed_origin_is_echoed() -> None:
    assert applied(ResponseHeadersPolicy(cors=ONE_SITE), ("vary", "Accept"), origin=PAGE) == [
        ("vary", "Accept"),
        ("Vary", "Origin"),
        ("Access-Control-Allow-Origin", PAGE),
        ("Access-Control-Allow-Credentials", "true"),
        ("Access-Control-Expose-Headers", "ETag"),
    ]


@pytest.mark.parametrize("vary", ["Accept, origin", "*"])
def test_vary_field_is_sent_once(vary: str) -> None:
    result = applied(ResponseHeadersPolicy(cors=ONE_SITE), ("Vary", vary))
    assert result == [("Vary", vary)]


def test_preflight_response_lists_allowed_methods_and_fields() -> None:
    policy = ResponseHeadersPolicy(cors=ONE_SITE)
    assert applied(policy, origin=PAGE, cors=Cors.PREFLIGHT)[3:] == [
        ("Access-Control-Allow-Methods", "GET, PUT"),
        ("Access-Control-Allow-Headers", "*"),
        ("Access-Control-Max-Age", "600"),
    ]


def test_preflight_is_options_with_both_fields() -> None:
    fields = (("origin", PAGE), ("ACCESS-Control-Request-Method", "PUT"))
    assert cors_kind("OPTIONS", fields) is Cors.PREFLIGHT
    assert cors_kind("OPTIONS", fields[:1]) is cors_kind("GET", fields) is Cors.SIMPLE


@pytest.mark.parametrize(
    ("allowed", "origin", "may"),
    [
        (PAGE, PAGE, True),
        (PAGE, "https://a.example.evil", False),
        (PAGE, "http://a.example", False),
        ("null", "null", True),
        ("https://*.example.com", "https://b.example.com", True),
        ("https://*.example.com", "https://c.b.example.com", True),
        ("https://*.example.com", "https://example.com", False),
        ("https://*.example.com", "https://.example.com", False),
        ("https://*.example.com", "https://evilexample.com", False),
        ("https://*.example.com", "http://b.example.com", False),
        ("https://*.example.com", "https://evil/.example.com", False),
        ("https://*.example.com", "https://evil?.example.com", False),
        ("https://*.example.com", "https://evil@b.example.com", False),
        ("https://*.example.com", "https://b.example.com:444", False),
        ("https://*.example.com:444", "https://b.example.com:444", True),
        ("https://*.example.com", "https://[", False),
    ],
)
def test_origin_is_matched_as_a_whole(allowed: str, origin: str, may: bool) -> None:
    allow_origin = allowed_origin(CorsPolicy(origins=(allowed,)), origin)
    assert allow_origin == (origin if may else None)


@given(st.text(max_size=40))
def test_only_allowed_origins_get_the_field(origin: str) -> None:
    policy = CorsPolicy(origins=("https://*.example.com",))
    result = applied(ResponseHeadersPolicy(cors=policy), origin=origin)
    values = [value for name, value in result if name.lower() in CORS_FIELDS]
    assert values in ([], [origin])
    if values:
        assert origin.startswith("https://")
        assert origin.endswith(".example.com")
