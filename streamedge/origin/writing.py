"""The interface of origins that accept writes: ``Write``, ``WriteResponse``, ``WritableOrigin``.

Also: which header fields of a viewer belong to the object, and when a condition holds. Pure. An
implementation carries out one write per call, atomically. The caller notifies the cache.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Protocol
from xml.sax.saxutils import escape

from streamedge.errors import StreamEdgeError

RESPONSE_BODY_MAX_BYTES = 64 << 10
WRITE_CONDITIONS = frozenset({"if-match", "if-none-match"})

HeaderFields = tuple[tuple[str, str], ...]
"""Header fields in order; names in any case."""

# Fields that Amazon S3 stores or checks (API Reference, PutObject). Access lists, object locks and
# copy sources are left out: they would give a viewer the rights of the edge.
_OBJECT_FIELDS = frozenset(
    {
        "cache-control",
        "content-disposition",
        "content-encoding",
        "content-language",
        "content-md5",
        "content-type",
        "expires",
        "if-match",
        "if-none-match",
        "x-amz-content-sha256",
        "x-amz-decoded-content-length",
        "x-amz-mp-object-size",
        "x-amz-sdk-checksum-algorithm",
        "x-amz-storage-class",
        "x-amz-tagging",
        "x-amz-trailer",
    }
)
_OBJECT_PREFIXES = ("x-amz-checksum-", "x-amz-meta-", "x-amz-server-side-encryption")


@dataclass(frozen=True, slots=True)
class Write:
    """One PUT or DELETE of the object ``name`` (decoded, without a leading slash).

    ``fields`` are from ``object_fields``. ``size_bytes`` is the length of the body as it is sent,
    with the framing of aws-chunked; None if it is not announced.
    """

    method: str
    name: str
    fields: HeaderFields = ()
    size_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class WriteResponse:
    """The response to a write. ``body`` has at most RESPONSE_BODY_MAX_BYTES; ``fields`` are without
    Content-Length and hop-by-hop fields.
    """

    status: int
    fields: HeaderFields = ()
    body: bytes = b""

    @property
    def succeeded(self) -> bool:
        """Whether the write was carried out."""
        return 200 <= self.status < 300

    @property
    def is_certain(self) -> bool:
        """Whether the result of the write is known. After a server error it is not: a gateway may
        have sent it, and the origin may still carry out the write.
        """
        return self.status < 500

    def field(self, name: str) -> str:
        """The value of one field (``name`` in lower case), "" if there is none."""
        return next((value for field, value in self.fields if field.lower() == name), "")


class WriteRefusedError(StreamEdgeError):
    """A write is refused; ``response`` is the response to the viewer."""

    def __init__(self, response: WriteResponse, message: str) -> None:
        super().__init__(message)
        self.response = response


class WritableOrigin(Protocol):
    """An origin where objects can be put and deleted."""

    def lingers_s(self, write: Write) -> float:
        """How long, in seconds, the origin may still carry out ``write`` after its sender died."""
        ...

    async def end_abandoned(self) -> int:
        """Ends the unfinished uploads of processes that have died. Returns how many it ended.

        Raises OriginError, OSError: a later call continues.
        """
        ...

    async def check(self, write: Write) -> None:
        """Raises what ``write`` would certainly raise or return now, but changes nothing.

        It sends no request to another machine, which judges conditions when the write is sent.
        Raises WriteRefusedError for a refusal, and OriginError.
        """
        ...

    async def write(self, write: Write, body: AsyncIterator[bytes] | None) -> WriteResponse:
        """Carries out ``write``. The ``body`` of a PUT is streamed, once, not always to its end.

        Refusals are returned too (412, 400 BadDigest, 403, …). Raises OriginError if the origin
        did not answer: the write may or may not have been carried out. Raises what ``body``
        raises: then it was not.
        """
        ...


def object_fields(fields: Iterable[tuple[str, str]]) -> HeaderFields:
    """The fields of a viewer's request that belong to the object: no credentials, no signature."""
    return tuple(
        (name, value)
        for name, value in fields
        if name.lower() in _OBJECT_FIELDS or name.lower().startswith(_OBJECT_PREFIXES)
    )


def refuse(status: int, code: str, message: str) -> WriteRefusedError:
    """An error in S3's format (Amazon S3 API Reference, "Error responses")."""
    document = error_document(code, message)
    response = WriteResponse(status, (("Content-Type", "application/xml"),), document)
    return WriteRefusedError(response, f"{status} {code}: {message}")


def error_document(code: str, message: str) -> bytes:
    """An error document in S3's format (Amazon S3 API Reference, "Error responses")."""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{escape(code)}</Code><Message>{escape(message)}</Message></Error>"
    ).encode()


def conditions_of(fields: HeaderFields) -> HeaderFields:
    """The conditions among the header fields of a write."""
    return tuple(field for field in fields if field[0].lower() in WRITE_CONDITIONS)


def require_condition(fields: HeaderFields, etag: str | None) -> None:
    """Raises WriteRefusedError 412 unless If-Match and If-None-Match allow a write.

    ``etag`` is the object's current one, None if there is no object (RFC 9110 §13.1.1,
    §13.1.2). If-Match compares strongly, If-None-Match weakly.
    """
    for name, value in fields:
        match name.lower():
            case "if-match":
                strong = etag is not None and not etag.startswith("W/")
                holds = etag is not None and (
                    value.strip() == "*" or (strong and etag in _tags(value))
                )
            case "if-none-match":
                weak = {tag.removeprefix("W/") for tag in _tags(value)}
                holds = etag is None or not (
                    value.strip() == "*" or etag.removeprefix("W/") in weak
                )
            case _:
                continue
        if not holds:
            raise refuse(412, "PreconditionFailed", f"{name} does not hold")


def _tags(value: str) -> set[str]:
    """The listed entity tags. Clients of S3 also send them without quotes."""
    tags = {tag.strip() for tag in value.split(",")}
    return tags | {f'"{tag}"' for tag in tags if tag and not tag.endswith('"')}
