"""The fields of a viewer that belong to the object, and conditions."""

from __future__ import annotations

import pytest

from streamedge.origin.writing import (
    WriteRefusedError,
    WriteResponse,
    object_fields,
    refuse,
    require_condition,
)


def test_object_fields_exclude_credentials_and_access_rights() -> None:
    object_names = (
        ("Content-Type", "video/mp4"),
        ("X-Amz-Meta-Title", "film"),
        ("x-amz-server-side-encryption-aws-kms-key-id", "key"),
        ("If-Match", '"1"'),
    )
    dropped = (
        ("Authorization", "AWS4-HMAC-SHA256 …"),
        ("x-amz-security-token", "token"),
        ("x-amz-date", "20260101T000000Z"),
        ("x-amz-copy-source", "/private/film"),
        ("x-amz-acl", "public-read"),
        ("x-amz-grant-read", "all"),
        ("Cookie", "a=b"),
        ("Host", "edge"),
        ("Content-Length", "3"),
        ("Transfer-Encoding", "chunked"),
    )
    assert object_fields(object_names + dropped) == object_names


@pytest.mark.parametrize(
    ("field", "etag", "holds"),
    [
        (("If-Match", '"1"'), '"1"', True),
        (("if-match", '"0", "1"'), '"1"', True),
        (("If-Match", "1"), '"1"', True),
        (("If-Match", '"2"'), '"1"', False),
        (("If-Match", '"1"'), None, False),
        (("If-Match", "*"), '"1"', True),
        (("If-Match", "*"), 'W/"1"', True),
        (("If-Match", "*"), None, False),
        (("If-Match", 'W/"1"'), 'W/"1"', False),
        (("If-None-Match", "*"), None, True),
        (("If-None-Match", "*"), '"1"', False),
        (("If-None-Match", 'W/"1"'), '"1"', False),
        (("If-None-Match", '"2"'), '"1"', True),
        (("Content-Type", "*"), None, True),
    ],
)
def test_conditions_are_checked_against_the_current_etag(
    field: tuple[str, str], etag: str | None, holds: bool
) -> None:
    if holds:
        require_condition((field,), etag)
    else:
        with pytest.raises(WriteRefusedError, match="412 PreconditionFailed"):
            require_condition((field,), etag)


def test_refusals_are_error_documents() -> None:
    answer = refuse(400, "BadDigest", "a < b").response
    assert answer.status == 400
    assert not answer.succeeded
    assert answer.field("content-type") == "application/xml"
    assert b"<Code>BadDigest</Code><Message>a &lt; b</Message>" in answer.body


def test_success_is_2xx() -> None:
    assert [status for status in (200, 204, 299, 304, 412) if WriteResponse(status).succeeded] == [
        200,
        204,
        299,
    ]
