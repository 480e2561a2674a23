"""Recognizes requests of Amazon S3's protocol, and their operations.

Pure. Only the operations listed here are supported. Any other sub-resource, parameter or x-amz-*
field is refused with 501 in S3's format, so that an unknown call never reaches an object. The
client's signature is dropped, because the edge signs with its own keys.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Protocol
from urllib.parse import parse_qsl, quote, unquote_plus

from streamedge.origin.s3.parts import PARTS_MAX
from streamedge.origin.writing import HeaderFields, WriteResponse, object_fields, refuse

LISTED_PARTS_MAX = 128  # so that a list fits in a WriteResponse
LISTED_KEYS_MAX = 1000  # Amazon S3 API Reference, ListObjectsV2: max-keys

_UPLOAD_ID = re.compile(r"[!-~]{1,1024}")
_NUMBER = re.compile(r"\d{1,5}", re.ASCII)
_QUERY_FIELDS_MAX = 64
_AUTHORIZATIONS = ("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256", "AWS ")

# Parameters of query signatures (AWS General Reference, Signature Versions 4 and 2), lower case.
_SIGNATURE_V4 = frozenset(
    {
        *("x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-expires"),
        *("x-amz-signedheaders", "x-amz-signature", "x-amz-security-token"),
        *("x-amz-content-sha256", "x-amz-region-set", "x-amz-user-agent"),
    }
)
_SIGNATURE_V2 = frozenset({"awsaccesskeyid", "signature", "expires"})
# SDKs put the operation into x-id; Signature Version 2 repeats signed fields.
_IGNORED = frozenset({"x-id", "content-type", "content-md5"})
_SIGNED_HEADERS = re.compile(r"SignedHeaders=([^, ]*)", re.ASCII)

SUB_RESOURCES = frozenset(
    {
        "abac", "accelerate", "acl", "analytics", "annotation", "append", "attributes", "cors",
        "delete", "encryption", "intelligent-tiering", "inventory", "legal-hold", "lifecycle",
        "list-type", "location", "logging", "metadataAnnotationTable", "metadataConfiguration",
        "metadataInventoryTable", "metadataJournalTable", "metadataTable", "metrics",
        "notification", "object-lock", "ownershipControls", "policy", "policyStatus",
        "publicAccessBlock", "renameObject", "replication", "requestPayment", "restore",
        "retention", "select", "select-type", "session", "tagging", "torrent", "uploadId",
        "uploads", "versioning", "versions", "website",
    }
)  # fmt: skip
"""Sub-resources of objects and buckets (Amazon S3 API Reference): a request with one
of them does not concern the object itself.
"""

READ_PARAMETERS = frozenset(
    {
        *("partNumber", "versionId"),
        *("response-cache-control", "response-content-disposition", "response-content-encoding"),
        *("response-content-language", "response-content-type", "response-expires"),
    }
)
"""Parameters of a GET that change the response (Amazon S3 API Reference, GetObject)."""

# x-amz-* fields that can be dropped without changing the meaning of a request, in lower case.
_DROPPED_FIELDS = _SIGNATURE_V4 | {
    *("x-amz-checksum-mode", "x-amz-request-payer", "x-amz-te", "x-amz-api-version"),
}
_ACL_FIELDS = "x-amz-grant-"
_OWNERS_ACLS = frozenset({"private", "bucket-owner-full-control"})


_ERROR_CODES = {
    301: "PermanentRedirect",
    400: "InvalidRequest",
    403: "AccessDenied",
    404: "NoSuchKey",
    405: "MethodNotAllowed",
    412: "PreconditionFailed",
    413: "EntityTooLarge",
    414: "KeyTooLongError",
    416: "InvalidRange",
    421: "NoSuchBucket",
    501: "NotImplemented",
    503: "SlowDown",
}


def error_code(status: int) -> str:
    """S3's code for an error of the edge (Amazon S3 API Reference, "Error responses")."""
    return _ERROR_CODES.get(status, "InvalidRequest" if status < 500 else "InternalError")


class Operation(Enum):
    """The calls of a multipart upload: method and required query parameters."""

    def __init__(self, method: str, *parameters: str) -> None:
        self.method = method
        self.parameters = frozenset(parameters)

    CREATE = ("POST", "uploads")
    UPLOAD_PART = ("PUT", "uploadId", "partNumber")
    COMPLETE = ("POST", "uploadId")
    ABORT = ("DELETE", "uploadId")
    LIST_PARTS = ("GET", "uploadId")


_OPTIONAL = {Operation.LIST_PARTS: frozenset({"max-parts", "part-number-marker"})}


class BucketOperation(Enum):
    """The supported calls on a bucket: method, required and optional parameters."""

    def __init__(self, method: str, required: frozenset[str], optional: frozenset[str]) -> None:
        self.method = method
        self.required = required
        self.optional = optional

    HEAD_BUCKET = ("HEAD", frozenset[str](), frozenset[str]())
    GET_LOCATION = ("GET", frozenset({"location"}), frozenset[str]())
    LIST_OBJECTS_V2 = (
        "GET",
        frozenset({"list-type"}),
        frozenset(
            {
                *("continuation-token", "delimiter", "encoding-type", "fetch-owner", "max-keys"),
                *("prefix", "start-after"),
            }
        ),
    )
    LIST_OBJECTS = (
        "GET",
        frozenset[str](),
        frozenset({"delimiter", "encoding-type", "marker", "max-keys", "prefix"}),
    )

    @property
    def is_listing(self) -> bool:
        """Whether it lists objects."""
        return self in (BucketOperation.LIST_OBJECTS, BucketOperation.LIST_OBJECTS_V2)


@dataclass(frozen=True, slots=True)
class S3Call:
    """One call on an upload of the object ``name``; ``query`` is percent-encoded and in order.

    ``size_bytes`` is the length of the body as it is sent, None if not announced.
    """

    operation: Operation
    name: str
    query: str
    fields: HeaderFields
    size_bytes: int | None

    @property
    def changes_object(self) -> bool:
        """Whether its success changes the object."""
        return self.operation is Operation.COMPLETE


@dataclass(frozen=True, slots=True)
class BucketCall:
    """One call on a bucket; ``parameters`` are decoded."""

    operation: BucketOperation
    parameters: Mapping[str, str]

    @property
    def prefix(self) -> str:
        """The prefix of all listed names."""
        return self.parameters.get("prefix", "")


class S3Relay(Protocol):
    """Forwards calls to the bucket."""

    async def relay(self, call: S3Call, body: AsyncIterator[bytes] | None) -> WriteResponse:
        """Forwards a client's call; raises as ``WritableOrigin.write``. As with S3 itself, a
        response to COMPLETE may be an error with status 200.
        """
        ...

    async def call_bucket(self, call: BucketCall) -> WriteResponse:
        """Forwards a call on the bucket, below the origin's prefix. Raises OriginError."""
        ...


def is_s3_request(headers: Mapping[str, str], query: str) -> bool:
    """Whether a client of the S3 protocol sent a request: with S3's signature (Signature
    Version 4 or 2, in a field or in the query), or unsigned by one of Amazon's SDKs.

    ``headers`` have lower-case names.
    """
    if headers.get("authorization", "").startswith(_AUTHORIZATIONS):
        return True
    if "amz-sdk-invocation-id" in headers:
        return True
    if "=" not in query:
        return False
    names = {unquote_plus(pair.partition("=")[0]).lower() for pair in query.split("&")}
    return not names.isdisjoint({"x-amz-signature", "x-amz-algorithm"}) or names >= _SIGNATURE_V2


def require_signed_fields(headers: Mapping[str, str], query: str) -> None:
    """Raises WriteRefusedError if a signed field is missing in the request.

    The signature is then for another request: a presigned CopyObject without its source would
    store an empty object.
    """
    signed = {name.lower(): value for name, value in _parameters(query)}.get("x-amz-signedheaders")
    if signed is None:
        match = _SIGNED_HEADERS.search(headers.get("authorization", ""))
        signed = match[1] if match else ""
    missing = set(filter(None, signed.lower().split(";"))) - headers.keys()
    if missing:
        text = f"the signed field {min(missing)[:100]} is missing"
        raise refuse(403, "SignatureDoesNotMatch", text)


def without_s3_signature(query: str) -> str:
    """The query without the parameters of a signature, those of ``hoisted_fields`` and x-id."""
    return "&".join(
        pair
        for pair in query.split("&")
        if pair and not _is_not_of_operation(unquote_plus(pair.partition("=")[0]))
    )


def hoisted_fields(query: str) -> HeaderFields:
    """The x-amz-* fields that a client which signed the query moved there from the header."""
    return tuple(
        (name.lower(), value)
        for name, value in _parameters(query)
        if name.lower().startswith("x-amz-") and name.lower() not in _SIGNATURE_V4
    )


def read_parameters(query: str) -> dict[str, str]:
    """The parameters of a query that go to the bucket when an object is read."""
    return {name: value for name, value in _parameters(query) if name in READ_PARAMETERS}


def overridden_fields(query: str) -> dict[str, str]:
    """The header fields that a GET's response-* parameters set instead of the object's own."""
    return {
        name.removeprefix("response-"): value
        for name, value in read_parameters(query).items()
        if name.startswith("response-")
    }


def encoded_query(parameters: Mapping[str, str]) -> str:
    """Parameters percent-encoded and sorted by name, as AWS Signature Version 4 signs them."""
    return "&".join(
        f"{quote(name, safe='~')}={quote(value, safe='~')}"
        for name, value in sorted(parameters.items())
    )


def require_known_fields(method: str, fields: Iterable[tuple[str, str]]) -> None:
    """Raises WriteRefusedError for an x-amz-* field that the edge does not support."""
    for name, value in fields:
        lower = name.lower()
        if not lower.startswith("x-amz-") or lower in _DROPPED_FIELDS:
            continue
        if lower.startswith(_ACL_FIELDS) or (lower == "x-amz-acl" and value not in _OWNERS_ACLS):
            raise refuse(
                400,
                "AccessControlListNotSupported",
                "the edge does not support access lists of objects",
            )
        if lower == "x-amz-acl" or (
            method not in ("GET", "HEAD") and object_fields([(name, value)])
        ):
            continue
        raise refuse(501, "NotImplemented", f"the field {lower} is not supported by the edge")


def read_bucket_call(method: str, query: str) -> BucketCall:
    """The bucket call of a request without a key. Raises WriteRefusedError."""
    parameters = {
        name: value for name, value in _parameters(query) if not _is_not_of_operation(name)
    }
    names = parameters.keys()
    for operation in BucketOperation:
        if operation.method == method and operation.required <= names <= (
            operation.required | operation.optional
        ):
            _require_listing_parameters(parameters)
            return BucketCall(operation, parameters)
    if method == "PUT" and not names:
        # S3's response to CreateBucket for a bucket that already belongs to the caller.
        raise refuse(409, "BucketAlreadyOwnedByYou", "the bucket of this distribution exists")
    raise refuse(501, "NotImplemented", "this call on a bucket is not supported by the edge")


def read_call(
    method: str,
    name: str,
    query: str,
    fields: Iterable[tuple[str, str]],
    size_bytes: int | None,
) -> S3Call | None:
    """The multipart call of a request; None: the request concerns the object itself.

    ``query`` is as it was sent, without "?". Raises WriteRefusedError: 501 for calls on other
    sub-resources, 400 for invalid parameters.
    """
    parameters = dict(_parameters(query))
    names = {key for key in parameters if not _is_not_of_operation(key)}
    if names.isdisjoint({"uploads", "uploadId", "partNumber"}):
        changing = SUB_RESOURCES | {"versionId"}
        if method not in ("GET", "HEAD") and not names.isdisjoint(changing):
            raise _unknown_call()
        return None
    for operation in Operation:
        optional = _OPTIONAL.get(operation, frozenset())
        if operation.method == method and operation.parameters == names - optional:
            call_fields = object_fields(fields)
            return S3Call(operation, name, _query(operation, parameters), call_fields, size_bytes)
    if method in ("GET", "HEAD") and names <= READ_PARAMETERS:
        return None
    raise _unknown_call()


def require_known_parameters(method: str, query: str) -> None:
    """Raises WriteRefusedError if an S3 client's request for an object has a parameter that the
    edge does not support; ``read_call`` handles those of uploads.
    """
    names = {name for name, _value in _parameters(query) if not _is_not_of_operation(name)}
    supported = READ_PARAMETERS if method in ("GET", "HEAD") else frozenset[str]()
    if not names <= supported:
        raise _unknown_call()


def _unknown_call() -> Exception:
    return refuse(501, "NotImplemented", "this call is not supported by the edge")


def _query(operation: Operation, parameters: dict[str, str]) -> str:
    if operation is Operation.CREATE:
        return "uploads="
    if not _UPLOAD_ID.fullmatch(parameters["uploadId"]):
        raise refuse(404, "NoSuchUpload", "there is no upload with this uploadId")
    query = {"uploadId": parameters["uploadId"]}
    if operation is Operation.UPLOAD_PART:
        query["partNumber"] = _number(parameters, "partNumber", 1, PARTS_MAX)
    if operation is Operation.LIST_PARTS:
        count = int(_number(parameters, "max-parts", 0, 99_999, default=LISTED_PARTS_MAX))
        query["max-parts"] = str(min(count, LISTED_PARTS_MAX))
        query["part-number-marker"] = _number(parameters, "part-number-marker", 0, PARTS_MAX, 0)
    return encoded_query(query)


def _require_listing_parameters(parameters: Mapping[str, str]) -> None:
    if parameters.get("list-type", "2") != "2":
        raise refuse(400, "InvalidArgument", "list-type must be 2 or absent")
    if parameters.get("encoding-type", "url") != "url":
        raise refuse(400, "InvalidArgument", "encoding-type must be url or absent")
    _number(parameters, "max-keys", 0, 99_999, default=LISTED_KEYS_MAX)


def _number(
    parameters: Mapping[str, str], key: str, least: int, most: int, default: int | None = None
) -> str:
    text = parameters.get(key, "" if default is None else str(default))
    if not _NUMBER.fullmatch(text) or not least <= int(text) <= most:
        raise refuse(400, "InvalidArgument", f"{key} is not a number from {least} to {most}")
    return str(int(text))


def _parameters(query: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(query, keep_blank_values=True, max_num_fields=_QUERY_FIELDS_MAX)
    except ValueError as exc:
        raise refuse(400, "InvalidRequest", "too many query parameters") from exc


def _is_not_of_operation(name: str) -> bool:
    """Whether a parameter is not part of the operation: of a signature, or a moved header field."""
    lower = name.lower()
    return lower.startswith("x-amz-") or lower in _SIGNATURE_V2 or name in _IGNORED
