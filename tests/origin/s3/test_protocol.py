"""S3 calls: how they are recognized, forwarded and refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.origin.s3.protocol import (
    LISTED_PARTS_MAX,
    BucketOperation,
    Operation,
    hoisted_fields,
    is_s3_request,
    read_bucket_call,
    read_call,
    read_parameters,
    require_known_fields,
    require_known_parameters,
    require_signed_fields,
    without_s3_signature,
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
def test_multipart_calls_are_recognized(
    method: str, query: str, operation: Operation, sent: str
) -> None:
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
def test_requests_for_the_object_itself_are_not_calls(method: str, query: str) -> None:
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
        ("PUT", "&".join(["a=b"] * 65), 400),
    ],
)
def test_unsupported_calls_are_refused(method: str, query: str, status: int) -> None:
    with pytest.raises(WriteRefusedError) as caught:
        read_call(method, "film", query, [], None)
    assert caught.value.response.status == status


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
        supported = {"uploads", "uploadId", "partNumber", "max-parts", "part-number-marker"}
        assert call.operation.parameters <= keys <= supported
        assert call.query.isascii()


@pytest.mark.parametrize(
    ("headers", "query", "is_s3"),
    [
        ({"authorization": "AWS4-HMAC-SHA256 Credential=…"}, "", True),
        ({"authorization": "AWS4-ECDSA-P256-SHA256 Credential=…"}, "", True),
        ({"authorization": "AWS key:signature"}, "", True),
        ({"authorization": "Basic QTpC"}, "uploads", False),
        ({"amz-sdk-invocation-id": "1"}, "", True),
        ({}, "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=0", True),
        ({}, "x%2damz-signature=0", True),
        ({}, "note=X-Amz-Signature%3D", False),
        ({}, "AWSAccessKeyId=a&Signature=b%3D&Expires=1700000000", True),
        ({}, "Signature=b&Expires=1700000000&Key-Pair-Id=K1", False),
        ({}, "AWSAccessKeyId", False),
    ],
)
def test_s3_clients_are_recognized_by_their_signature(
    headers: dict[str, str], query: str, is_s3: bool
) -> None:
    assert is_s3_request(headers, query) is is_s3


def test_query_is_stripped_of_signature_and_operation_name() -> None:
    query = "x-id=GetObject&a=%2F&X-Amz-Signature=s&AWSAccessKeyId=k&Expires=1&b"
    assert without_s3_signature(query) == "a=%2F&b"


def test_fields_moved_into_the_query_by_a_signer_are_fields() -> None:
    query = "X-Amz-Date=1&x-amz-meta-a=b%20c&X-Amz-Acl=private&X-Amz-Security-Token=t&a=b"
    assert hoisted_fields(query) == (("x-amz-meta-a", "b c"), ("x-amz-acl", "private"))


@pytest.mark.parametrize(
    ("method", "query", "operation"),
    [
        ("HEAD", "", BucketOperation.HEAD_BUCKET),
        ("GET", "location", BucketOperation.GET_LOCATION),
        ("GET", "", BucketOperation.LIST_OBJECTS),
        ("GET", "prefix=a&marker=b&X-Amz-Signature=s", BucketOperation.LIST_OBJECTS),
        ("GET", "list-type=2", BucketOperation.LIST_OBJECTS_V2),
        ("GET", "list-type=2&continuation-token=t&x-id=L", BucketOperation.LIST_OBJECTS_V2),
    ],
)
def test_bucket_calls_are_recognized(method: str, query: str, operation: BucketOperation) -> None:
    assert read_bucket_call(method, query).operation is operation


@pytest.mark.parametrize(
    ("method", "query", "status"),
    [
        ("PUT", "", 409),
        ("DELETE", "", 501),
        ("POST", "delete", 501),
        ("GET", "uploads", 501),
        ("GET", "versions", 501),
        ("GET", "acl", 501),
        ("GET", "location&prefix=a", 501),
        ("GET", "prefix=a&future-parameter=1", 501),
        ("HEAD", "prefix=a", 501),
        ("GET", "list-type=3", 400),
        ("GET", "list-type=2&max-keys=-1", 400),
        ("GET", "encoding-type=base64", 400),
    ],
)
def test_unsupported_bucket_calls_are_refused(method: str, query: str, status: int) -> None:
    with pytest.raises(WriteRefusedError) as caught:
        read_bucket_call(method, query)
    assert caught.value.response.status == status


def test_unknown_parameters_are_refused() -> None:
    require_known_parameters("GET", "versionId=1&response-content-type=a&x-id=GetObject")
    require_known_parameters("PUT", "X-Amz-Signature=s&x-amz-meta-a=b")
    for method, query in (("GET", "acl"), ("HEAD", "torrent="), ("PUT", "partNumber=1")):
        with pytest.raises(WriteRefusedError) as caught:
            require_known_parameters(method, query)
        assert caught.value.response.status == 501
    assert read_parameters("a=1&versionId=2&response-expires=x%20y") == {
        "versionId": "2",
        "response-expires": "x y",
    }


@pytest.mark.parametrize(
    ("method", "name", "value", "status"),
    [
        ("PUT", "x-amz-acl", "public-read", 400),
        ("PUT", "x-amz-grant-read", "id=1", 400),
        ("PUT", "X-Amz-Copy-Source", "/a/b", 501),
        ("PUT", "x-amz-object-lock-mode", "GOVERNANCE", 501),
        ("PUT", "x-amz-write-offset-bytes", "5", 501),
        ("DELETE", "x-amz-if-match-size", "5", 501),
        ("GET", "x-amz-expected-bucket-owner", "1", 501),
        ("GET", "x-amz-server-side-encryption-customer-key", "k", 501),
    ],
)
def test_unsupported_fields_are_refused(method: str, name: str, value: str, status: int) -> None:
    with pytest.raises(WriteRefusedError) as caught:
        require_known_fields(method, [("host", "a"), (name, value)])
    assert caught.value.response.status == status


def test_supported_and_ignorable_fields_are_accepted() -> None:
    fields = [
        ("x-amz-acl", "private"),
        ("x-amz-date", "20260101T000000Z"),
        ("x-amz-meta-a", "b"),
        ("x-amz-checksum-crc32", "AAAAAA=="),
        ("x-amz-sdk-checksum-algorithm", "CRC32"),
        ("x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
        ("x-amz-request-payer", "requester"),
    ]
    require_known_fields("PUT", fields)


def test_request_without_a_signed_field_is_refused() -> None:
    signed = "AWS4-HMAC-SHA256 Credential=a, SignedHeaders=host;x-amz-copy-source, Signature=0"
    require_signed_fields({"host": "a", "authorization": signed, "x-amz-copy-source": "b"}, "")
    require_signed_fields({"host": "a"}, "X-Amz-SignedHeaders=host&X-Amz-Signature=0")
    require_signed_fields({"host": "a", "authorization": "AWS key:signature"}, "")
    for headers, query in (
        ({"host": "a", "authorization": signed}, ""),
        ({"host": "a"}, "X-Amz-SignedHeaders=host%3Bx-amz-copy-source&X-Amz-Signature=0"),
    ):
        with pytest.raises(WriteRefusedError) as caught:
            require_signed_fields(headers, query)
        assert caught.value.response.status == 403
