"""The object in the body of a PUT: decodes aws-chunked, and checks length and checksums.

All kinds of origins and the write queue use it. It holds one piece of the body at a time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from streamedge.http_fields import parse_number
from streamedge.origin.aws_chunked import AwsChunkedDecoder, AwsChunkedError
from streamedge.origin.checksums import CHECKSUM_FIELDS, Verifier
from streamedge.origin.writing import HeaderFields, Write, refuse

_CODING = "aws-chunked"
_FRAMING_FIELDS = frozenset({"x-amz-trailer", "x-amz-decoded-content-length"})


class Upload:
    """One PUT's body.

    ``size_bytes`` is the object's size, None if it is not announced. ``fields`` are those of the
    write without the ones that describe the coding. ``trailer_names`` are in lower case.
    ``failure`` is the exception that ended ``pieces`` early, also if a caller has wrapped it.
    Raises WriteRefusedError for an invalid coding or checksum.
    """

    def __init__(self, write: Write, body: AsyncIterator[bytes] | None) -> None:
        self._body = body
        values = {name.lower(): value.strip() for name, value in write.fields}
        codings = [coding.strip() for coding in values.get("content-encoding", "").split(",")]
        payload = values.get("x-amz-content-sha256", "")
        is_coded = _CODING in codings or payload.startswith("STREAMING-")
        self.size_bytes = (
            _size(values.get("x-amz-decoded-content-length")) if is_coded else write.size_bytes
        )
        names = values.get("x-amz-trailer", "").lower().split(",") if is_coded else []
        self.trailer_names = tuple(name.strip() for name in names if name.strip())
        if not CHECKSUM_FIELDS.issuperset(self.trailer_names):
            raise refuse(
                400, "InvalidRequest", "x-amz-trailer names a field that is not a checksum"
            )
        self.fields = tuple(_plain_fields(write.fields))
        self.failure: Exception | None = None
        self._decoder = AwsChunkedDecoder() if is_coded else None

    @property
    def trailers(self) -> dict[str, str]:
        """The announced trailers, after the end of ``pieces``."""
        received = {} if self._decoder is None else self._decoder.trailers
        return {name: received[name] for name in self.trailer_names if name in received}

    @property
    def final_fields(self) -> HeaderFields:
        """``fields`` and ``trailers`` together, after the end of ``pieces``."""
        return self.fields + tuple(self.trailers.items())

    async def pieces(self) -> AsyncIterator[bytes]:
        """The object's bytes. Raises WriteRefusedError for a body that does not match its
        header, and whatever the viewer's connection raises.
        """
        try:
            async for piece in self._plain_pieces():
                yield piece
        except Exception as exc:
            self.failure = exc
            raise

    def verifier(self) -> Verifier:
        """A verifier of the announced checksums. Raises WriteRefusedError."""
        return Verifier(self.fields, self.trailer_names)

    async def _plain_pieces(self) -> AsyncIterator[bytes]:
        received_bytes = 0
        async for piece in _pieces(self._body):
            for plain in (piece,) if self._decoder is None else _decode(self._decoder, piece):
                received_bytes += len(plain)
                if self.size_bytes is not None and received_bytes > self.size_bytes:
                    raise refuse(400, "IncompleteBody", "the body is longer than announced")
                if plain:
                    yield plain
        self._finish()
        if self.size_bytes is not None and received_bytes < self.size_bytes:
            raise refuse(400, "IncompleteBody", "the body is shorter than announced")

    def _finish(self) -> None:
        if self._decoder is None:
            return
        try:
            self._decoder.finish()
        except AwsChunkedError as exc:
            raise refuse(400, "IncompleteBody", str(exc)) from exc
        if len(self.trailers) < len(self.trailer_names):
            raise refuse(400, "InvalidRequest", "an announced trailer is missing")


def _decode(decoder: AwsChunkedDecoder, piece: bytes) -> list[bytes]:
    try:
        return list(decoder.feed(piece))
    except AwsChunkedError as exc:
        raise refuse(400, "InvalidChunk", str(exc)) from exc


async def _pieces(body: AsyncIterator[bytes] | None) -> AsyncIterator[bytes]:
    if body is not None:
        async for piece in body:
            yield piece


def _plain_fields(fields: HeaderFields) -> list[tuple[str, str]]:
    plain = []
    for name, value in fields:
        match name.lower():
            case "content-encoding":
                codings = [coding.strip() for coding in value.split(",")]
                rest = ", ".join(coding for coding in codings if coding not in ("", _CODING))
                if rest:
                    plain.append((name, rest))
            case "x-amz-content-sha256" if value.startswith(("STREAMING-", "UNSIGNED-")):
                continue
            case lower if lower in _FRAMING_FIELDS:
                continue
            case _:
                plain.append((name, value))
    return plain


def _size(text: str | None) -> int | None:
    if text is None:
        return None
    size_bytes = parse_number(text, 15)
    if size_bytes is None:
        raise refuse(400, "InvalidRequest", "x-amz-decoded-content-length is not a length")
    return size_bytes
