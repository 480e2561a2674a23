"""Reading a response head: an opening or a named error, for any input."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.errors import OriginError
from streamedge.http_fields import HOP_BY_HOP
from streamedge.origin import Version
from streamedge.origin.answers import (
    ObjectRequest,
    Opening,
    find_error_code,
    fold_fields,
    is_same_version,
    read_response,
    representation_fields,
    request_fields,
)
from streamedge.spans import Span

DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
DATE_S = 784_111_777


def test_fields_are_folded_by_lower_case_name() -> None:
    fields = [("ETag", '"1"'), ("Vary", "A"), ("X", ""), ("vary", "B")]
    assert fold_fields(fields) == {"etag": '"1"', "vary": "A, B", "x": ""}


@pytest.mark.parametrize(
    ("get", "fields"),
    [
        (ObjectRequest("s", "n"), {}),
        (ObjectRequest("s", "n", span=Span(0, 1)), {"Range": "bytes=0-0"}),
        (ObjectRequest("s", "n", if_match=Version('"a"', 1, DATE_S)), {"If-Match": '"a"'}),
        (
            ObjectRequest("s", "n", if_match=Version('W/"a"', 1, DATE_S)),
            {"If-Unmodified-Since": DATE},
        ),
        (ObjectRequest("s", "n", if_match=Version("", 1, DATE_S)), {"If-Unmodified-Since": DATE}),
        (ObjectRequest("s", "n", if_match=Version("", 1)), {}),
        (ObjectRequest("s", "n", if_none_match=Version('W/"a"', 1)), {"If-None-Match": 'W/"a"'}),
        (
            ObjectRequest("s", "n", if_none_match=Version("", 1, DATE_S)),
            {"If-Modified-Since": DATE},
        ),
        (ObjectRequest("s", "n", if_none_match=Version("", 1)), {}),
    ],
)
def test_request_fields_state_range_and_conditions(
    get: ObjectRequest, fields: dict[str, str]
) -> None:
    assert request_fields(get) == {"Accept-Encoding": "identity", **fields}


@pytest.mark.parametrize(
    ("expected", "actual", "same"),
    [
        (Version('"a"', 5), Version('"a"', 5, DATE_S), True),
        (Version('"a"', 5), Version('W/"a"', 5), True),
        (Version('"a"', 5), Version('"b"', 5), False),
        (Version('"a"', 5), Version('"a"', 6), False),
        (Version('"a"', 5, 1), Version("", 5, 1), True),
        (Version('"a"', 5, 1), Version("", 5, 2), False),
        (Version('"a"', 5, 1), Version("", 5), False),
        (Version("", 5), Version("", 5), True),
        (Version("", 5), Version("", 5, 1), True),
    ],
)
def test_same_version_compares_etag_date_and_size(
    expected: Version, actual: Version, same: bool
) -> None:
    assert is_same_version(expected, actual) is same
    assert is_same_version(actual, expected) is same


def test_error_code_is_read_from_an_s3_document() -> None:
    # Amazon S3 API Reference, "Error responses".
    body = (
        b'<?xml version="1.0" encoding="UTF-8"?>\n<Error>\n  <Code>NoSuchKey</Code>\n'
        b"  <Message>The resource you requested does not exist</Message>\n"
        b"  <Resource>/mybucket/myfoto.jpg</Resource>\n"
        b"  <RequestId>4442587FB7D0A2F9</RequestId>\n</Error>"
    )
    assert find_error_code(body) == "NoSuchKey"
    assert find_error_code(body[:60]) == ""
    assert find_error_code(b"<Code>two\nlines</Code>") == ""


def test_message_names_error_code_and_region() -> None:
    get = ObjectRequest("s3://videos 'a.mp4'", "a.mp4")
    fields = {"x-amz-bucket-region": "eu-west-1"}
    with pytest.raises(OriginError) as caught:
        read_response(get, 301, fields, "PermanentRedirect")
    assert str(caught.value) == (
        "s3://videos 'a.mp4': answered 301 PermanentRedirect, a redirect to no host,"
        " which is not followed (the bucket is in region 'eu-west-1')"
    )


def test_representation_has_no_fields_of_one_hop() -> None:
    fields = dict.fromkeys(HOP_BY_HOP, "x") | {"connection": "A, close", "a": "1", "b": "2"}
    assert representation_fields(fields) == {"b": "2"}


FIELD_NAMES = st.sampled_from(
    [
        "connection",
        "content-encoding",
        "content-length",
        "content-range",
        "content-type",
        "etag",
        "last-modified",
        "location",
        "x-amz-bucket-region",
    ]
)
FIELD_VALUES = st.text() | st.sampled_from(
    ["10", "5", "bytes 0-4/10", "bytes 5-9/10", '"a"', 'W/"a"', DATE, "identity", "http://[", "²"]
)
VERSIONS = st.none() | st.builds(
    Version, st.sampled_from(["", '"a"', 'W/"a"']), st.integers(0, 20), st.none() | st.just(DATE_S)
)


def opening_or_error(
    get: ObjectRequest, status: int, fields: dict[str, str]
) -> Opening | OriginError | None:
    try:
        return read_response(get, status, fields)
    except OriginError as error:
        return error


@given(
    status=st.integers(100, 599) | st.sampled_from([200, 206, 304, 416]),
    fields=st.dictionaries(FIELD_NAMES, FIELD_VALUES),
    span=st.sampled_from([None, Span(0, 5), Span(5, 10), Span(5, 1 << 40)]),
    if_match=VERSIONS,
    if_none_match=VERSIONS,
)
def test_any_response_opens_or_fails_by_name(
    status: int,
    fields: dict[str, str],
    span: Span | None,
    if_match: Version | None,
    if_none_match: Version | None,
) -> None:
    get = ObjectRequest("s", "n", span=span, if_match=if_match, if_none_match=if_none_match)
    opening = opening_or_error(get, status, fields)
    if isinstance(opening, OriginError):
        assert str(opening).isprintable()
        return
    if opening is None:
        assert if_none_match is not None
        return
    size_bytes = opening.head.version.size_bytes
    assert Span(0, size_bytes).contains(opening.span)
    if span is not None:
        assert span.start < size_bytes
        assert opening.span.start <= span.start
    if if_match is not None:
        assert if_match.size_bytes == size_bytes
