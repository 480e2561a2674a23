"""Requests of Amazon S3's protocol: who sends them, and which operation each one is.

Pure. Only what is listed here is understood. Any other sub-resource, parameter or x-amz-* field is
refused with 501 in S3's words, so that a call which the edge does not know never reaches an object.
The client's signature is dropped, because the edge signs with its own keys.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Protocol
from urllib.parse import parse_qsl, quote, unquote_plus

from streamedge.origin.s3.parts import PARTS_MAX
from streamedge.origin.writing import HeaderFields, WriteAnswer, object_fields, refuse

LISTED_PARTS_MAX = 128  # so that a list fits into a WriteAnswer
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
# SDKs name the operation in the first, and Signature Version 2 repeats signed fields.
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
"""Sub-resources of objects and buckets (Amazon S3 API Reference): with one of them a request
does not concern the object itself.
"""

READ_PARAMETERS = frozenset(
    {
        *("partNumber", "versionId"),
        *("response-cache-control", "response-content-disposition", "response-content-encoding"),
        *("response-content-language", "response-content-type", "response-expires"),
    }
)
"""What of a GET's query changes what a bucket answers (Amazon S3 API Reference, GetObject)."""

# x-amz-* fields whose loss changes nothing of what a client means, in lower case.
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
    """S3's code for an error of the edge's own (Amazon S3 API Reference, "Error responses")."""
    return _ERROR_CODES.get(status, "InvalidRequest" if status < 500 else "InternalError")


class Operation(Enum):
    """The calls of a multipart upload: method, and the query parameters that must be there."""

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
    """The calls on a bucket that are made: method, the parameters that must be there, and those
    that may be.
    """

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
        """Whether its answer names objects."""
        return self in (BucketOperation.LIST_OBJECTS, BucketOperation.LIST_OBJECTS_V2)


@dataclass(frozen=True, slots=True)
class S3Call:
    """One call on an upload of the object ``name``; ``query`` is percent-encoded and in order.

    ``size_bytes`` is the length of the body as it comes, None while nobody knows.
    """

    operation: Operation
    name: str
    query: str
    fields: HeaderFields
    size_bytes: int | None

    @property
    def changes_object(self) -> bool:
        """Whether its success changes what a GET of the object brings."""
        return self.operation is Operation.COMPLETE


@dataclass(frozen=True, slots=True)
class BucketCall:
    """One call on a bucket; ``parameters`` are decoded."""

    operation: BucketOperation
    parameters: Mapping[str, str]

    @property
    def prefix(self) -> str:
        """What the names of all listed objects begin with."""
        return self.parameters.get("prefix", "")


class S3Relay(Protocol):
    """Makes such calls at the bucket."""

    async def relay(self, call: S3Call, body: AsyncIterator[bytes] | None) -> WriteAnswer:
        """Makes a client's call; raises as ``WritableOrigin.write``. An answer to COMPLETE may be
        an error in spite of its status 200, as S3's own.
        """
        ...

    async def call_bucket(self, call: BucketCall) -> WriteAnswer:
        """Makes a call on the bucket, below the origin's prefix. Raises OriginError."""
        ...


def is_s3_request(headers: Mapping[str, str], query: str) -> bool:
    """Whether a client of the S3 protocol sent a request: signed as S3's clients sign (Signature
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
    """Raises WriteRefusedError where a field is signed that the request does not have.

    Whoever signed it meant another request: a presigned CopyObject without its source would
    store an empty object.
    """
    signed = {name.lower(): value for name, value in _parameters(query)}.get("x-amz-signedheaders")
    if signed is None:
        found = _SIGNED_HEADERS.search(headers.get("authorization", ""))
        signed = found[1] if found else ""
    missing = set(filter(None, signed.lower().split(";"))) - headers.keys()
    if missing:
        text = f"the signed field {min(missing)[:100]} is missing"
        raise refuse(403, "SignatureDoesNotMatch", text)


def without_s3_signature(query: str) -> str:
    """The query without the parameters of a signature, those of ``hoisted_fields`` and x-id."""
    return "&".join(
        pair
        for pair in query.split("&")
        if pair and not _is_of_request(unquote_plus(pair.partition("=")[0]))
    )


def hoisted_fields(query: str) -> HeaderFields:
    """The x-amz-* fields that a client which signed the query moved there from the header."""
    return tuple(
        (name.lower(), value)
        for name, value in _parameters(query)
        if name.lower().startswith("x-amz-") and name.lower() not in _SIGNATURE_V4
    )


def read_parameters(query: str) -> dict[str, str]:
    """What of a query a bucket is asked when an object is read."""
    return {name: value for name, value in _parameters(query) if name in READ_PARAMETERS}


def overridden_fields(query: str) -> dict[str, str]:
    """The header fields that a GET's response-* parameters say in place of the object's own."""
    return {
        name.removeprefix("response-"): value
        for name, value in read_parameters(query).items()
        if name.startswith("response-")
    }


def encoded_query(parameters: Mapping[str, str]) -> str:
    """Parameters as they are signed: percent-encoded, by name (AWS Signature Version 4)."""
    return "&".join(
        f"{quote(name, safe='~')}={quote(value, safe='~')}"
        for name, value in sorted(parameters.items())
    )


def require_known_fields(method: str, fields: Iterable[tuple[str, str]]) -> None:
    """Raises WriteRefusedError for an x-amz-* field that would have to be obeyed and is not."""
    for name, value in fields:
        lower = name.lower()
        if not lower.startswith("x-amz-") or lower in _DROPPED_FIELDS:
            continue
        if lower.startswith(_ACL_FIELDS) or (lower == "x-amz-acl" and value not in _OWNERS_ACLS):
            raise refuse(
                400, "AccessControlListNotSupported", "objects get no access lists of their own"
            )
        if lower == "x-amz-acl" or (
            method not in ("GET", "HEAD") and object_fields([(name, value)])
        ):
            continue
        raise refuse(501, "NotImplemented", f"the field {lower} does not go through the edge")


def read_bucket_call(method: str, query: str) -> BucketCall:
    """The call on a bucket that a request without a key is. Raises WriteRefusedError."""
    parameters = {name: value for name, value in _parameters(query) if not _is_of_request(name)}
    named = parameters.keys()
    for operation in BucketOperation:
        if operation.method == method and operation.required <= named <= (
            operation.required | operation.optional
        ):
            _require_listing_parameters(parameters)
            return BucketCall(operation, parameters)
    if method == "PUT" and not named:
        # What CreateBucket is told of a bucket that is one's own already.
        raise refuse(409, "BucketAlreadyOwnedByYou", "the bucket of this distribution is there")
    raise refuse(501, "NotImplemented", "this call on a bucket does not go through the edge")


def read_call(
    method: str,
    name: str,
    query: str,
    fields: Iterable[tuple[str, str]],
    size_bytes: int | None,
) -> S3Call | None:
    """The call on an upload that a request is, or None: it concerns the object itself.

    ``query`` as it was sent, without "?". Raises WriteRefusedError: 501 for calls on other
    sub-resources, 400 for parameters that cannot be.
    """
    parameters = dict(_parameters(query))
    named = {key for key in parameters if not _is_of_request(key)}
    if named.isdisjoint({"uploads", "uploadId", "partNumber"}):
        changing = SUB_RESOURCES | {"versionId"}
        if method not in ("GET", "HEAD") and not named.isdisjoint(changing):
            raise _unknown_call()
        return None
    for operation in Operation:
        optional = _OPTIONAL.get(operation, frozenset())
        if operation.method == method and operation.parameters == named - optional:
            kept = object_fields(fields)
            return S3Call(operation, name, _query(operation, parameters), kept, size_bytes)
    if method in ("GET", "HEAD") and named <= READ_PARAMETERS:
        return None
    raise _unknown_call()


def require_known_parameters(method: str, query: str) -> None:
    """Raises WriteRefusedError where an S3 client's request for an object has a parameter that
    would have to be obeyed and is not; ``read_call`` has taken those of uploads.
    """
    named = {name for name, _value in _parameters(query) if not _is_of_request(name)}
    known = READ_PARAMETERS if method in ("GET", "HEAD") else frozenset[str]()
    if not named <= known:
        raise _unknown_call()


def _unknown_call() -> Exception:
    return refuse(501, "NotImplemented", "this call does not go through the edge")


def _query(operation: Operation, parameters: dict[str, str]) -> str:
    if operation is Operation.CREATE:
        return "uploads="
    if not _UPLOAD_ID.fullmatch(parameters["uploadId"]):
        raise refuse(404, "NoSuchUpload", "uploadId is none")
    query = {"uploadId": parameters["uploadId"]}
    if operation is Operation.UPLOAD_PART:
        query["partNumber"] = _number(parameters, "partNumber", 1, PARTS_MAX)
    if operation is Operation.LIST_PARTS:
        asked = int(_number(parameters, "max-parts", 0, 99_999, default=LISTED_PARTS_MAX))
        query["max-parts"] = str(min(asked, LISTED_PARTS_MAX))
        query["part-number-marker"] = _number(parameters, "part-number-marker", 0, PARTS_MAX, 0)
    return encoded_query(query)


def _require_listing_parameters(parameters: Mapping[str, str]) -> None:
    if parameters.get("list-type", "2") != "2":
        raise refuse(400, "InvalidArgument", "list-type is 2 or left out")
    if parameters.get("encoding-type", "url") != "url":
        raise refuse(400, "InvalidArgument", "encoding-type is url or left out")
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


def _is_of_request(name: str) -> bool:
    """Whether a parameter says nothing of the operation: a signature's, or a field moved there."""
    lower = name.lower()
    return lower.startswith("x-amz-") or lower in _SIGNATURE_V2 or name in _IGNORED
