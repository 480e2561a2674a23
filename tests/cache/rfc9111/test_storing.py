"""Which responses are stored: RFC 9111 §3."""

from __future__ import annotations

from email.utils import formatdate

import pytest

from streamedge.cache.rfc9111.freshness import TtlRules
from streamedge.cache.rfc9111.storing import is_storable, storable_fields, withheld_fields

STRICT = TtlRules(strict=True)
CLOUDFRONT = TtlRules()
MINIMUM = TtlRules(min_ttl_s=60)


def stores(
    response: dict[str, str],
    rules: TtlRules = STRICT,
    *,
    status: int = 200,
    request: dict[str, str] | None = None,
    method: str = "GET",
    applies_request_directives: bool = False,
    target: str = "/a",
) -> bool:
    return is_storable(
        method,
        request or {},
        status,
        response,
        rules,
        applies_request_directives=applies_request_directives,
        target=target,
    )


FRESH = {"cache-control": "max-age=60"}


@pytest.mark.parametrize("rules", [STRICT, CLOUDFRONT])
@pytest.mark.parametrize(
    "status", [200, 203, 204, 299, 301, 302, 307, 400, 404, 410, 499, 500, 599]
)
def test_any_final_status_with_an_explicit_lifetime_is_stored(status: int, rules: TtlRules) -> None:
    assert stores(FRESH, rules, status=status)


@pytest.mark.parametrize("status", [100, 102, 103, 304])
def test_interim_and_304_responses_are_never_stored(status: int) -> None:
    assert not stores(FRESH, status=status)


@pytest.mark.parametrize(
    ("response", "strict", "cloudfront"),
    [
        ({}, True, True),  # 200 is heuristically cacheable
        ({"cache-control": "no-store, max-age=60"}, False, False),
        ({"cache-control": "private, max-age=60"}, False, False),
        ({"cache-control": 'private="a", max-age=60'}, True, True),
        ({"cache-control": "no-cache"}, True, True),
        ({"cache-control": "no-store, must-understand, max-age=60"}, True, True),
        ({"cdn-cache-control": "max-age=60", "cache-control": "no-store"}, True, True),
        ({"cdn-cache-control": "no-store", "cache-control": "max-age=60"}, False, False),
        ({"vary": "*"}, False, False),
        ({"vary": "foo, *"}, False, False),
        ({"vary": "foo"}, True, True),
        ({"set-cookie": "a=b"}, False, True),
        ({"set-cookie": "a=b", "cache-control": "max-age=60"}, True, True),
    ],
)
def test_200_is_stored_by_its_fields(
    response: dict[str, str], strict: bool, cloudfront: bool
) -> None:
    assert stores(response, STRICT) is strict
    assert stores(response, CLOUDFRONT) is cloudfront


@pytest.mark.parametrize(
    ("status", "response", "strict", "cloudfront"),
    [
        (201, {}, False, False),
        (302, {}, False, True),
        (403, {}, False, False),
        (404, {}, True, True),
        (410, {}, True, False),
        (503, {}, False, True),
        (599, {}, False, False),
        (599, {"cache-control": "public"}, True, False),
        (403, {"expires": formatdate(2e9, usegmt=True)}, True, False),
        (201, {"expires": "0"}, True, True),
        (599, {"cache-control": "max-age=60, no-store, must-understand"}, False, False),
        (599, {"cache-control": "max-age=60, must-understand"}, False, False),
    ],
)
def test_response_without_lifetime_is_stored_by_its_status(
    status: int, response: dict[str, str], strict: bool, cloudfront: bool
) -> None:
    assert stores(response, STRICT, status=status) is strict
    assert stores(response, CLOUDFRONT, status=status) is cloudfront


@pytest.mark.parametrize("directive", ["no-store", "private"])
def test_minimum_ttl_overrules_the_origin_unless_strict(directive: str) -> None:
    assert stores({"cache-control": directive}, MINIMUM)
    assert not stores({"cache-control": directive}, TtlRules(min_ttl_s=60, strict=True))


@pytest.mark.parametrize("rules", [STRICT, CLOUDFRONT, MINIMUM])
@pytest.mark.parametrize(
    ("cache_control", "allowed"),
    [
        ("max-age=60", False),
        ("max-age=60, public", True),
        ("max-age=60, must-revalidate", True),
        ("s-maxage=60", True),
        ("max-age=60, proxy-revalidate", False),
    ],
)
def test_response_to_authorization_is_stored_by_permission_only(
    cache_control: str, allowed: bool, rules: TtlRules
) -> None:
    request = {"authorization": "Basic Zm9vOmJhcg=="}
    assert stores({"cache-control": cache_control}, rules, request=request) is allowed


def test_no_store_of_the_request_counts_if_viewers_directives_apply() -> None:
    request = {"cache-control": "no-store"}
    assert stores(FRESH, request=request)
    assert not stores(FRESH, request=request, applies_request_directives=True)


@pytest.mark.parametrize(
    ("response", "allowed"),
    [
        ({"content-range": "bytes 5-9/10"}, True),
        ({"content-range": "bytes 5-9/10", "content-length": "5"}, True),
        ({"content-range": "bytes 4-9/10", "content-length": "5"}, False),
        ({"content-range": "bytes 5-10/10"}, False),
        ({"content-range": "bytes 9-5/10"}, False),
        ({"content-range": "bytes 5-9/*"}, False),
        ({"content-range": "bytes */10"}, False),
        ({"content-range": "lines 5-9/10"}, False),
        ({"content-range": "nonsense"}, False),
        ({"content-type": "multipart/byteranges; boundary=x"}, False),
    ],
)
def test_206_is_stored_only_with_a_valid_content_range(
    response: dict[str, str], allowed: bool
) -> None:
    assert stores(FRESH | response, status=206) is allowed


def test_content_range_in_a_200_is_ignored() -> None:
    assert stores(FRESH | {"content-range": "nonsense"})


@pytest.mark.parametrize(
    ("status", "request_field"),
    [(412, "if-match"), (412, "if-unmodified-since"), (412, "if-none-match"), (416, "range")],
)
def test_412_and_416_are_not_stored_if_the_request_caused_them(
    status: int, request_field: str
) -> None:
    assert not stores(FRESH, status=status, request={request_field: "x"})
    assert stores(FRESH, status=status)


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT", "DELETE", "M-SEARCH", "get"])
def test_responses_to_other_methods_are_not_stored(method: str) -> None:
    assert not stores(FRESH | {"content-location": "/a"}, method=method)


@pytest.mark.parametrize(
    ("response", "allowed"),
    [
        ({"cache-control": "max-age=60", "content-location": "/a?b=c"}, True),
        ({"cache-control": "max-age=60", "content-location": "http://www.example:81/a?b=c"}, True),
        ({"cache-control": "max-age=60", "content-location": "http://www.example/a?b=c"}, False),
        ({"cache-control": "max-age=60", "content-location": "/a"}, False),
        ({"cache-control": "max-age=60"}, False),
        ({"content-location": "/a?b=c"}, False),
    ],
)
def test_post_is_stored_if_its_content_location_is_the_target(
    response: dict[str, str], allowed: bool
) -> None:
    """RFC 9110 §9.3.3."""
    request = {"host": "www.example:81"}
    assert stores(response, method="POST", target="/a?b=c", request=request) is allowed


def test_hop_by_hop_fields_are_not_stored() -> None:
    stored = {"a": "1", "cache-control": "max-age=60", "set-cookie": "a=b\nc=d", "age": "5"}
    dropped = {
        "connection": "B, keep-alive",
        "b": "2",
        "keep-alive": "x",
        "proxy-authenticate": "x",
        "proxy-authentication-info": "x",
        "proxy-authorization": "x",
        "proxy-connection": "x",
        "http2-settings": "x",
        "te": "x",
        "trailer": "x",
        "transfer-encoding": "x",
        "upgrade": "x",
    }
    assert storable_fields(stored | dropped) == stored


def test_fields_that_no_cache_or_private_lists_are_not_stored() -> None:
    fields = {"cache-control": 'max-age=9, no-cache="A, b", private="C"', "a": "", "b": "", "c": ""}
    assert storable_fields(fields | {"d": ""}).keys() == {"cache-control", "d"}


@pytest.mark.parametrize(
    ("fields", "withheld"),
    [
        ({"cache-control": "max-age=60", "set-cookie": "a=1"}, {}),
        ({"cache-control": 'private="set-cookie"', "set-cookie": "a=1"}, {"set-cookie": "a=1"}),
        ({"cache-control": 'no-cache="x-user"', "x-user": "7", "x-a": "b"}, {"x-user": "7"}),
        ({"cache-control": 'no-cache="x-user, x-a"', "x-user": "7"}, {"x-user": "7"}),
        ({"cache-control": 'private="te"', "te": "gzip"}, {}),
        ({"cache-control": 'private="x-hop"', "x-hop": "1", "connection": "x-hop"}, {}),
    ],
)
def test_listed_fields_are_for_the_request_that_the_origin_answered(
    fields: dict[str, str], withheld: dict[str, str]
) -> None:
    assert withheld_fields(fields) == withheld
