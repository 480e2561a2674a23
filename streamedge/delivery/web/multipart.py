"""Several ranges of an object in one answer: multipart/byteranges, RFC 9110 §14.6 and §15.3.7.2.

Pure: spans, an object's size and type and a boundary in; what is to be sent, in order, out. The
object's own bytes stand in it as spans, so that they never have to be read to be sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from streamedge.spans import Span


@dataclass(frozen=True, slots=True)
class Multipart:
    """A body in several parts: ``parts`` are bytes as they are and spans of the object, in order.

    ``size_bytes`` is the length of all of it.
    """

    content_type: str
    parts: tuple[bytes | Span, ...]
    size_bytes: int


def multipart(
    spans: Sequence[Span], object_bytes: int, content_type: str, boundary: str
) -> Multipart:
    """The body that brings ``spans`` of an object of ``object_bytes`` and ``content_type``.

    ``boundary`` is 1 to 70 characters that need no quotes (RFC 2046 §5.1.1) and that nobody who
    writes objects could foresee: whether it occurs in the object is never looked at.
    """
    parts: list[bytes | Span] = []
    size_bytes = 0
    for span in spans:
        head = _part_head(span, object_bytes, content_type, boundary, is_first=not parts)
        parts += (head, span)
        size_bytes += len(head) + span.size
    close = f"\r\n--{boundary}--\r\n".encode("ascii")
    return Multipart(
        f"multipart/byteranges; boundary={boundary}",
        (*parts, close),
        size_bytes + len(close),
    )


def _part_head(
    span: Span, object_bytes: int, content_type: str, boundary: str, *, is_first: bool
) -> bytes:
    # The line break before a delimiter belongs to it, not to the part it ends.
    delimiter = f"--{boundary}\r\n" if is_first else f"\r\n--{boundary}\r\n"
    type_line = f"content-type: {content_type}\r\n" if content_type else ""
    range_line = f"content-range: bytes {span.start}-{span.end - 1}/{object_bytes}\r\n"
    return f"{delimiter}{type_line}{range_line}\r\n".encode("latin-1", "replace")
