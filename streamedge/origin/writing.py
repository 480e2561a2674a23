"""What every origin that can be written to promises, and nothing about how it keeps it.

Owns the words of a write: ``Write``, ``WriteAnswer``, ``WritableOrigin``, which header fields of a
viewer belong to the object, and when a condition holds. Pure. An implementation makes one write
per call, wholly or not at all; telling the cache is its caller's business.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Protocol
from xml.sax.saxutils import escape

from streamedge.errors import StreamEdgeError

ANSWER_BODY_MAX_BYTES = 64 << 10

HeaderFields = tuple[tuple[str, str], ...]
"""Header fields in order; names in any case."""

# What Amazon S3 keeps of an object or checks it by (API Reference, PutObject). Not here: access
# lists, object locks and copy sources, which would lend the edge's own rights to a viewer.
_KEPT = frozenset(
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
_KEPT_PREFIXES = ("x-amz-checksum-", "x-amz-meta-", "x-amz-server-side-encryption")


@dataclass(frozen=True, slots=True)
class Write:
    """One PUT or DELETE of the object ``name`` (decoded, without a leading slash).

    ``fields`` as ``kept_fields`` leaves them; ``size_bytes`` is the length of the body as it
    comes, framing of aws-chunked included, None while nobody knows.
    """

    method: str
    name: str
    fields: HeaderFields = ()
    size_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class WriteAnswer:
    """What the viewer is told. ``body`` has at most ANSWER_BODY_MAX_BYTES; Content-Length and
    hop-by-hop fields are not among ``fields``.
    """

    status: int
    fields: HeaderFields = ()
    body: bytes = b""

    @property
    def succeeded(self) -> bool:
        """Whether the object is now as the write wants it."""
        return 200 <= self.status < 300

    @property
    def is_certain(self) -> bool:
        """Whether it tells what became of the write: a server error does not, least of all one
        of a gateway before the origin.
        """
        return self.status < 500

    def field(self, name: str) -> str:
        """The value of one field, "" when it is not there."""
        return next((value for known, value in self.fields if known.lower() == name), "")


class WriteRefusedError(StreamEdgeError):
    """A write cannot be done as it was asked for; ``answer`` tells the viewer why."""

    def __init__(self, answer: WriteAnswer, message: str) -> None:
        super().__init__(message)
        self.answer = answer


class WritableOrigin(Protocol):
    """Where objects can be put and deleted."""

    def lingers_s(self, write: Write) -> float:
        """How long ``write`` may still be done after its sender has left it, in seconds."""
        ...

    async def end_abandoned(self) -> int:
        """Ends what processes that have died left under way at the origin; how much that was.

        Raises OriginError, OSError: then a later call goes on.
        """
        ...

    async def write(self, write: Write, body: AsyncIterator[bytes] | None) -> WriteAnswer:
        """Does ``write``; a PUT's ``body`` is read while it comes, once, to its end or not.

        Refusals are answers too (412, 400 BadDigest, 403, …). Raises OriginError when the origin
        gave no answer, in which case nobody knows whether the write was done, and whatever
        ``body`` raises, in which case it was not.
        """
        ...


def kept_fields(fields: Iterable[tuple[str, str]]) -> HeaderFields:
    """What of a viewer's header concerns the object; his credentials and signature do not."""
    return tuple(
        (name, value)
        for name, value in fields
        if name.lower() in _KEPT or name.lower().startswith(_KEPT_PREFIXES)
    )


def refuse(status: int, code: str, message: str) -> WriteRefusedError:
    """A refusal in S3's words (Amazon S3 API Reference, "Error responses")."""
    document = error_document(code, message)
    answer = WriteAnswer(status, (("Content-Type", "application/xml"),), document)
    return WriteRefusedError(answer, f"{status} {code}: {message}")


def error_document(code: str, message: str) -> bytes:
    """An error as S3 puts it (Amazon S3 API Reference, "Error responses")."""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{escape(code)}</Code><Message>{escape(message)}</Message></Error>"
    ).encode()


def require_condition(fields: HeaderFields, etag: str | None) -> None:
    """Raises WriteRefusedError 412 unless If-Match and If-None-Match allow a write.

    ``etag`` is the object's present one, None when there is no object (RFC 9110 §13.1.1,
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
    """The entity tags listed; S3's clients also send them without quotes."""
    tags = {tag.strip() for tag in value.split(",")}
    return tags | {f'"{tag}"' for tag in tags if tag and not tag.endswith('"')}
