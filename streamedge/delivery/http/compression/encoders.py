"""Brotli, Zstandard and gzip behind one interface, with their levels.

Each coding has an edition that changes whenever its output may. A call may take milliseconds; it
releases the GIL, so other threads can run.
"""

from __future__ import annotations

import zlib
from typing import Protocol

import brotli
import zstandard

from streamedge.delivery.http.compression.negotiation import ContentCoding

# Above these levels each library gets slow. They compress 20 to 30 MB of text a second.
BROTLI_QUALITY = 5
ZSTANDARD_LEVEL = 9  # its window is 4 MiB; content codings may have 8 MiB (RFC 9659 §3)
GZIP_LEVEL = 6
_GZIP_WINDOW_BITS = 16 + 15  # 16 makes zlib write a gzip header (RFC 1952)


class Encoder(Protocol):
    """One running compression. Call ``flush`` once, at the end."""

    def compress(self, data: bytes, /) -> bytes:
        """Compresses more of the content; returns the output so far, possibly empty."""
        ...

    def flush(self) -> bytes:
        """Returns the rest of the output."""
        ...


class _BrotliEncoder:
    def __init__(self) -> None:
        self._compressor = brotli.Compressor(quality=BROTLI_QUALITY)

    def compress(self, data: bytes, /) -> bytes:
        return bytes(self._compressor.process(data))

    def flush(self) -> bytes:
        return bytes(self._compressor.finish())


def start_encoder(encoding: ContentCoding, size_bytes: int) -> Encoder:
    """Starts the compression of content of ``size_bytes``."""
    match encoding:
        case ContentCoding.BROTLI:
            return _BrotliEncoder()
        case ContentCoding.ZSTANDARD:
            return zstandard.ZstdCompressor(level=ZSTANDARD_LEVEL).compressobj(size=size_bytes)
        case ContentCoding.GZIP:
            return zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, _GZIP_WINDOW_BITS)


def edition(encoding: ContentCoding) -> str:
    """Identifies what the output depends on besides the content: library, version, level."""
    match encoding:
        case ContentCoding.BROTLI:
            return f"brotli-{brotli.__version__}-{BROTLI_QUALITY}"
        case ContentCoding.ZSTANDARD:
            library = ".".join(str(number) for number in zstandard.ZSTD_VERSION)
            return f"zstd-{library}-{ZSTANDARD_LEVEL}"
        case ContentCoding.GZIP:
            return f"zlib-{zlib.ZLIB_RUNTIME_VERSION}-{GZIP_LEVEL}"
