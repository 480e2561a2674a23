"""An incremental decoder of the aws-chunked content coding.

Amazon S3 API Reference, "Signature calculations for the Authorization header: transferring payload
in multiple chunks". Pure: bytes in, bytes out. Signatures of chunks are skipped: write access is
checked elsewhere, and the edge signs requests to the origin with its own keys.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum, auto

from streamedge.errors import StreamEdgeError

CHUNK_LINE_MAX_BYTES = 512  # a SigV4a signature has 160
TRAILERS_MAX_BYTES = 4 << 10

_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:;[!-~]*)?")
_TRAILER = re.compile(rb"([!#-'*+.0-9A-Z^_`a-z|~-]+):[ \t]*([!-~]*)[ \t]*")
_SIGNATURE = "x-amz-trailer-signature"


class AwsChunkedError(StreamEdgeError):
    """The body is not valid aws-chunked."""


class _Part(Enum):
    CHUNK_LINE = auto()
    DATA = auto()
    DATA_END = auto()
    TRAILERS = auto()
    END = auto()


class AwsChunkedDecoder:
    """Decodes a body, in pieces of any size, to the object's bytes and the trailers.

    ``trailers`` has lower-case names, and is complete once ``finish`` has returned.
    """

    __slots__ = ("_chunk_bytes", "_line", "_part", "_trailer_bytes", "trailers")

    def __init__(self) -> None:
        self.trailers: dict[str, str] = {}
        self._part = _Part.CHUNK_LINE
        self._line = bytearray()
        self._chunk_bytes = 0
        self._trailer_bytes = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The object's bytes in ``data``; iterate it to its end. Raises AwsChunkedError."""
        position = 0
        while position < len(data):
            if self._part is _Part.DATA:
                piece = data[position : position + self._chunk_bytes]
                position += len(piece)
                self._chunk_bytes -= len(piece)
                if not self._chunk_bytes:
                    self._part = _Part.DATA_END
                yield piece
                continue
            if self._part is _Part.END:
                raise AwsChunkedError("bytes follow the last chunk")
            end = data.find(b"\n", position) + 1
            self._line += data[position : end or len(data)]
            position = end or len(data)
            if len(self._line) > CHUNK_LINE_MAX_BYTES:
                raise AwsChunkedError(f"a line is longer than {CHUNK_LINE_MAX_BYTES} bytes")
            if end:
                line, self._line = bytes(self._line), bytearray()
                self._parse_line(line)

    def finish(self) -> None:
        """Call at the end of the coded body. Raises AwsChunkedError if it is incomplete."""
        if self._part is not _Part.END:
            raise AwsChunkedError("the body ends before its last chunk")

    def _parse_line(self, line: bytes) -> None:
        content = line.removesuffix(b"\n").removesuffix(b"\r")
        match self._part:
            case _Part.CHUNK_LINE:
                match = _CHUNK_LINE.fullmatch(content)
                if match is None or not line.endswith(b"\r\n"):
                    raise AwsChunkedError("a chunk does not begin with its size")
                self._chunk_bytes = int(match[1], 16)
                self._part = _Part.DATA if self._chunk_bytes else _Part.TRAILERS
            case _Part.DATA_END:
                if line != b"\r\n":
                    raise AwsChunkedError("a chunk is longer than its size")
                self._part = _Part.CHUNK_LINE
            case _:
                self._parse_trailer(content, len(line))

    def _parse_trailer(self, content: bytes, size_bytes: int) -> None:
        # Amazon's own example ends trailers with a bare LF; so do some clients.
        if not content:
            self._part = _Part.END
            return
        self._trailer_bytes += size_bytes
        if self._trailer_bytes > TRAILERS_MAX_BYTES:
            raise AwsChunkedError(f"the trailers are longer than {TRAILERS_MAX_BYTES} bytes")
        match = _TRAILER.fullmatch(content)
        if match is None:
            raise AwsChunkedError("a trailer is not a header field")
        name = match[1].decode("ascii").lower()
        if name in self.trailers:
            raise AwsChunkedError(f"the trailer {name} is repeated")
        if name != _SIGNATURE:
            self.trailers[name] = match[2].decode("ascii")
