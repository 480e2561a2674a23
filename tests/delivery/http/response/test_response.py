"""The response for an object: status, header lines and the spans that follow."""

from __future__ import annotations

from email.parser import BytesParser

import pytest

from streamedge.cache.reader import CacheResult
from streamedge.delivery.http.http1.encoding import encode_head
from streamedge.delivery.http.response.response import (
    ResponseContext,
    ResponseMessage,
    error_response,
    failure_status,
    object_response,
)
from streamedge.errors import CacheFullError, OriginError, OriginFailure
from streamedge.origin import OriginHead, Version
from streamedge.spans import Span

MODIFIED_S = 784_111_777
MODIFIED = "Sun, 06 Nov 1994 08:49:37 GMT"
HEAD = OriginHead(
    Version('"v1"', 1000, MODIFIED_S), "video/mp4", {"cache-control": "max-age=60", "x-own": "1"}
)
DELIVERY = ResponseContext("fra-1", 1_000_000_000.0, CacheResult.HIT)


def respond(headers: dict[str, str] | None = None, method: str = "GET") -> ResponseMessage:
    return object_response(method, headers or {}, HEAD, 12.9, DELIVERY)


def fields(response: ResponseMessage) -> dict[str, str]:
    """The header fields; fails when the head is not one status line, fields, and an empty line."""
    status_line, _, rest = encode_head(response.head).partition(b"\r\n")
    assert status_line.startswith(b"HTTP/1.1 %d " % response.status)
    assert rest.endswith(b"\r\n\r\n")
    assert rest.count(b"\r\n\r\n") == 1
    parsed = BytesParser().parsebytes(rest)
    assert len({name.lower() for name in parsed}) == len(parsed.keys())
    return {name.lower(): value for name, value in parsed.items()}


def test_whole_object_gets_a_200() -> None:
    response = respond()
    assert response.status == 200
    assert response.span == Span(0, 1000)
    assert fields(response) == {
        "content-type": "video/mp4",
        "content-length": "1000",
        "accept-ranges": "bytes",
        "etag": '"v1"',
        "last-modified": MODIFIED,
        "cache-control": "max-age=60",
        "x-own": "1",
        "age": "12",
        "date": "Sun, 09 Sep 2001 01:46:40 GMT",
        "via": "1.1 fra-1 (StreamEdge)",
        "x-cache": "Hit from streamedge",
    }


def test_head_has_the_fields_of_get_and_no_body() -> None:
    head_response = respond(method="HEAD")
    assert head_response.head == respond().head
    assert head_response.span is None
    assert head_response.body == b""


def test_single_range_gets_a_206() -> None:
    response = respond({"range": "bytes=100-199"})
    assert response.status == 206
    assert response.span == Span(100, 200)
    assert fields(response)["content-range"] == "bytes 100-199/1000"
    assert fields(response)["content-length"] == "100"
    assert fields(response)["etag"] == '"v1"'


def test_several_ranges_get_a_multipart_response() -> None:
    response = respond({"range": "bytes=600-699,100-199"})
    assert response.status == 206
    assert response.span is None
    assert [part for part in response.parts if isinstance(part, Span)] == [
        Span(600, 700),
        Span(100, 200),
    ]
    response_fields = fields(response)
    kind, _, boundary = response_fields["content-type"].partition("; boundary=")
    assert kind == "multipart/byteranges"
    assert "content-range" not in response_fields  # §15.3.7.2
    assert response_fields["content-length"] == str(
        sum(part.size if isinstance(part, Span) else len(part) for part in response.parts)
    )
    assert response_fields["etag"] == '"v1"'
    first = response.parts[0]
    assert isinstance(first, bytes)
    assert b"--" + boundary.encode() in first
    assert b"content-type: video/mp4\r\n" in first


def test_multipart_boundary_is_unpredictable() -> None:
    range_field = {"range": "bytes=600-699,100-199"}
    assert respond(range_field).parts[0] != respond(range_field).parts[0]


@pytest.mark.parametrize(
    "range_field", ["bytes=100-149,150-199", "bytes=100-199,1000-", "bytes=100-199,"]
)
def test_several_ranges_that_join_get_a_single_part(range_field: str) -> None:
    response = respond({"range": range_field})
    assert (response.status, response.span, response.parts) == (206, Span(100, 200), ())
    assert fields(response)["content-range"] == "bytes 100-199/1000"


def test_multipart_longer_than_the_object_becomes_the_whole_object() -> None:
    response = respond({"range": "bytes=0-450,550-"})
    assert (response.status, response.span, response.parts) == (200, Span(0, 1000), ())


def test_outdated_if_range_with_several_ranges_gets_the_whole_object() -> None:
    assert respond({"range": "bytes=0-1,500-501", "if-range": '"v0"'}).status == 200
    assert respond({"range": "bytes=0-1,500-501", "if-range": '"v1"'}).status == 206


def test_range_of_head_is_ignored() -> None:
    response = respond({"range": "bytes=100-199"}, "HEAD")
    assert response.status == 200
    assert fields(response)["content-length"] == "1000"


def test_unsatisfiable_range_gets_a_416() -> None:
    response = respond({"range": "bytes=1000-"})
    assert response.status == 416
    assert response.span is None
    assert fields(response)["content-range"] == "bytes */1000"
    assert fields(response)["content-length"] == str(len(response.body))


@pytest.mark.parametrize(
    ("if_range", "status"),
    [('"v1"', 206), (MODIFIED, 206), ('"v0"', 200), ('W/"v1"', 200), ("junk", 200)],
)
def test_range_applies_only_to_the_version_of_if_range(if_range: str, status: int) -> None:
    assert respond({"range": "bytes=1-2", "if-range": if_range}).status == status


def test_outdated_if_range_with_an_unsatisfiable_range_gets_the_whole_object() -> None:
    assert respond({"range": "bytes=1000-", "if-range": '"v0"'}).status == 200


def test_304_has_the_fields_that_refresh_a_cache() -> None:
    response = respond({"if-none-match": '"v1"', "range": "bytes=0-1"})
    assert response.status == 304
    assert response.span is None
    assert response.body == b""
    response_fields = fields(response)
    assert response_fields["etag"] == '"v1"'
    assert response_fields["cache-control"] == "max-age=60"
    assert response_fields["age"] == "12"
    assert "content-length" not in response_fields


def test_failed_precondition_gets_a_412() -> None:
    response = respond({"if-match": '"v0"', "range": "bytes=1000-"})
    assert response.status == 412
    assert response.span is None


def test_empty_object_gets_a_200_with_length_zero() -> None:
    head = OriginHead(Version('"e"', 0), "text/plain")
    response = object_response("GET", {}, head, 0.0, DELIVERY)
    assert response.status == 200
    assert fields(response)["content-length"] == "0"
    assert "last-modified" not in fields(response)


def test_origin_fields_about_its_own_cache_are_not_sent() -> None:
    hidden = dict.fromkeys(
        ("age", "alt-svc", "cache-status", "x-amz-request-id", "x-cache"), "origin's"
    )
    head = OriginHead(Version("", 10), "text/plain", {**hidden, "cache-control": "no-cache"})
    response = object_response("GET", {}, head, 0.0, DELIVERY)
    assert "origin's" not in fields(response).values()
    assert fields(response)["cache-control"] == "no-cache"
    assert "etag" not in fields(response)


def test_age_is_never_negative() -> None:
    assert fields(object_response("GET", {}, HEAD, -5.0, DELIVERY))["age"] == "0"


@pytest.mark.parametrize("result", CacheResult)
def test_x_cache_shows_the_cache_result(result: CacheResult) -> None:
    response = object_response("GET", {}, HEAD, 0.0, ResponseContext("e", 0.0, result))
    assert fields(response)["x-cache"] == f"{result.value} from streamedge"


def test_last_response_has_connection_close() -> None:
    assert b"\r\nconnection: close\r\n" in encode_head(respond().head, closes=True)
    assert "connection" not in fields(respond())


def test_error_response_has_its_reason() -> None:
    response = error_response(404, "origin: not found", DELIVERY)
    assert response.body == b"404 Not Found: origin: not found\n"
    assert fields(response)["content-length"] == str(len(response.body))
    assert fields(response)["cache-control"] == "no-store"
    assert "age" not in fields(response)


def test_error_response_to_head_has_no_body() -> None:
    response = error_response(404, "no", DELIVERY, "HEAD")
    assert response.body == b""
    assert fields(response)["content-length"] != "0"


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (OriginFailure.NOT_FOUND, 404),
        (OriginFailure.FORBIDDEN, 403),
        (OriginFailure.RANGE_OUTSIDE, 416),
        (OriginFailure.TIMEOUT, 504),
        (OriginFailure.UNAVAILABLE, 502),
        (OriginFailure.REFUSED, 502),
        (OriginFailure.BROKEN, 502),
        (OriginFailure.CHANGED, 502),
    ],
)
def test_failure_has_its_status(failure: OriginFailure, status: int) -> None:
    assert failure_status(OriginError(failure, "")) == status


def test_full_cache_gets_a_503() -> None:
    assert failure_status(CacheFullError("")) == 503
