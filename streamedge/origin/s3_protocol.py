"""What a client of the S3 protocol asks of the edge, and how the bucket is asked the same.

Owns the reading of S3 requests that are more than GET, HEAD, PUT and DELETE of an object: the
calls of a multipart upload. Pure. The client's signature and keys are dropped here, because the
edge signs with its own; any other call that names a sub-resource is refused, never passed on.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol
from urllib.parse import parse_qsl, quote

from streamedge.origin.s3_parts import PARTS_MAX
from streamedge.origin.writing import HeaderFields, WriteAnswer, kept_fields, refuse

LISTED_PARTS_MAX = 128  # so that a list fits into a WriteAnswer
_UPLOAD_ID = re.compile(r"[!-~]{1,1024}")
_NUMBER = re.compile(r"\d{1,5}", re.ASCII)
_QUERY_FIELDS_MAX = 32

# Sub-resources of objects and buckets (Amazon S3 API Reference) that a PUT, POST or DELETE would
# change instead of the object itself.
_SUB_RESOURCES = frozenset(
    {
        "accelerate", "acl", "analytics", "append", "attributes", "cors", "delete", "encryption",
        "intelligent-tiering", "inventory", "legal-hold", "lifecycle", "logging", "metrics",
        "notification", "object-lock", "ownershipControls", "policy", "publicAccessBlock",
        "renameObject", "replication", "requestPayment", "restore", "retention", "select",
        "tagging", "torrent", "versionId", "versioning", "versions", "website",
    }
)  # fmt: skip


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
_IGNORED = frozenset({"x-id"})  # SDKs name the operation in it


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


class S3Relay(Protocol):
    """Who makes such calls at the bucket."""

    async def relay(self, call: S3Call, body: AsyncIterator[bytes] | None) -> WriteAnswer:
        """Makes a client's call; raises as ``WritableOrigin.write``. An answer to COMPLETE may be
        an error in spite of its status 200, as S3's own.
        """
        ...


def is_s3_request(fields: Iterable[tuple[str, str]], query: str) -> bool:
    """Whether a client of the S3 protocol sent this: it is signed as those sign."""
    if any(
        name.lower() == "authorization" and value.startswith(("AWS4-", "AWS "))
        for name, value in fields
    ):
        return True
    return "X-Amz-Signature=" in query or "X-Amz-Algorithm=" in query


def object_name(name: str, bucket: str, *, is_s3: bool) -> str:
    """The object that a path names (decoded, without a leading slash).

    S3 clients put the bucket before the key where they have no host for it ("path style").
    """
    return name.removeprefix(f"{bucket}/") if is_s3 else name


def read_call(
    method: str,
    name: str,
    query: str,
    fields: Iterable[tuple[str, str]],
    size_bytes: int | None,
) -> S3Call | None:
    """The call that a request is, or None: it concerns the object itself.

    ``query`` as it was sent, without "?". Raises WriteRefusedError: 501 for calls on other
    sub-resources, 400 for parameters that cannot be.
    """
    try:
        parameters = dict(
            parse_qsl(query, keep_blank_values=True, max_num_fields=_QUERY_FIELDS_MAX)
        )
    except ValueError as exc:
        raise refuse(400, "InvalidRequest", "too many query parameters") from exc
    named = {key for key in parameters if not _is_signature(key) and key not in _IGNORED}
    if named.isdisjoint({"uploads", "uploadId", "partNumber"}):
        if method not in ("GET", "HEAD") and not named.isdisjoint(_SUB_RESOURCES):
            raise refuse(501, "NotImplemented", "this call does not go through the edge")
        return None
    for operation in Operation:
        optional = _OPTIONAL.get(operation, frozenset())
        if operation.method == method and operation.parameters == named - optional:
            kept = kept_fields(fields)
            return S3Call(operation, name, _query(operation, parameters), kept, size_bytes)
    if method in ("GET", "HEAD") and named == {"partNumber"}:
        return None
    raise refuse(501, "NotImplemented", "this call does not go through the edge")


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
    return "&".join(f"{key}={quote(value, safe='~')}" for key, value in sorted(query.items()))


def _number(
    parameters: dict[str, str], key: str, least: int, most: int, default: int | None = None
) -> str:
    text = parameters.get(key, "" if default is None else str(default))
    if not _NUMBER.fullmatch(text) or not least <= int(text) <= most:
        raise refuse(400, "InvalidArgument", f"{key} is not a number from {least} to {most}")
    return str(int(text))


def _is_signature(key: str) -> bool:
    return key.lower().startswith("x-amz-") or key in ("AWSAccessKeyId", "Signature", "Expires")
