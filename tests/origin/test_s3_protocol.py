"""S3 calls as they come, and what of them goes on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.origin.s3_protocol import (
    LISTED_PARTS_MAX,
    Operation,
    is_s3_request,
    object_name,
    read_call,
)
from streamedge.origin.writing import WriteRefusedError


@pytest.mark.parametrize(
    ("method", "query", "operation", "sent"),
    [
        ("POST", "uploads", Operation.CREATE, "uploads="),
        ("POST", "uploads=&x-id=CreateMultipartUpload", Operation.CREATE, "uploads="),
        (
            "PUT",
            "uploadId=a%2Fb&partNumber=007",
            Operation.UPLOAD_PART,
            "partNumber=7&uploadId=a%2Fb",
        ),
        ("POST", "uploadId=u", Operation.COMPLETE, "uploadId=u"),
        ("DELETE", "uploadId=u&x-id=Abort", Operation.ABORT, "uploadId=u"),
        (
            "GET",
            "uploadId=u&max-parts=1000",
            Operation.LIST_PARTS,
            f"max-parts={LISTED_PARTS_MAX}&part-number-marker=0&uploadId=u",
        ),
        (
            "PUT",
            "uploadId=u&partNumber=1&X-Amz-Signature=s&X-Amz-Credential=c",
            Operation.UPLOAD_PART,
            "partNumber=1&uploadId=u",
        ),
    ],
)
def test_calls(method: str, query: str, operation: Operation, sent: str) -> None:
    fields = [("Authorization", "AWS4-HMAC-SHA256 …"), ("x-amz-meta-a", "1")]
    call = read_call(method, "dir/film", query, fields, 3)
    assert call is not None
    assert (call.operation, call.query, call.name) == (operation, sent, "dir/film")
    assert call.fields == (("x-amz-meta-a", "1"),)
    assert call.changes_object == (operation is Operation.COMPLETE)


@pytest.mark.parametrize(
    ("method", "query"),
    [
        ("PUT", ""),
        ("PUT", "x-id=PutObject"),
        ("PUT", "X-Amz-Signature=s&X-Amz-Expires=5"),
        ("PUT", "width=5"),
        ("DELETE", ""),
        ("GET", "partNumber=1"),
        ("GET", "versionId=1"),
        ("POST", "a=b"),
    ],
)
def test_what_concerns_the_object_itself(method: str, query: str) -> None:
    assert read_call(method, "film", query, [], None) is None


@pytest.mark.parametrize(
    ("method", "query", "status"),
    [
        ("PUT", "acl", 501),
        ("PUT", "tagging=", 501),
        ("POST", "delete", 501),
        ("DELETE", "versionId=1", 501),
        ("GET", "uploads", 501),
        ("PUT", "uploadId=u", 501),
        ("PUT", "partNumber=1", 501),
        ("POST", "uploads&uploadId=u", 501),
        ("PUT", "uploadId=u&partNumber=1&acl", 501),
        ("PUT", "uploadId=u&partNumber=0", 400),
        ("PUT", "uploadId=u&partNumber=10001", 400),
        ("PUT", "uploadId=u&partNumber=x", 400),
        ("GET", "uploadId=u&max-parts=-1", 400),
        ("DELETE", "uploadId=", 404),
        ("DELETE", "uploadId=%00", 404),
        ("PUT", "&".join(["a=b"] * 50), 400),
    ],
)
def test_what_is_refused(method: str, query: str, status: int) -> None:
    with pytest.raises(WriteRefusedError) as caught:
        read_call(method, "film", query, [], None)
    assert caught.value.answer.status == status


@given(
    st.sampled_from(["GET", "PUT", "POST", "DELETE"]),
    st.text(max_size=60) | st.text("uploadIdpartNumbers=&%0123456789", max_size=60),
)
def test_no_query_adds_a_parameter(method: str, query: str) -> None:
    try:
        call = read_call(method, "film", query, [], None)
    except WriteRefusedError:
        return
    if call is not None:
        keys = {pair.partition("=")[0] for pair in call.query.split("&")}
        known = {"uploads", "uploadId", "partNumber", "max-parts", "part-number-marker"}
        assert call.operation.parameters <= keys <= known
        assert call.query.isascii()


def test_who_speaks_s3() -> None:
    assert is_s3_request([("AUTHORIZATION", "AWS4-HMAC-SHA256 Credential=…")], "")
    assert is_s3_request([], "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=0")
    assert not is_s3_request([("Authorization", "Basic QTpC")], "uploads")


def test_bucket_in_the_path_is_dropped_for_them_alone() -> None:
    assert object_name("videos/dir/film", "videos", is_s3=True) == "dir/film"
    assert object_name("dir/film", "videos", is_s3=True) == "dir/film"
    assert object_name("videos/dir/film", "videos", is_s3=False) == "videos/dir/film"
    assert object_name("videos2/film", "videos", is_s3=True) == "videos2/film"
