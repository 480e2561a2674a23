"""The three compressors behind one shape: which library, which level.

Owns the levels, and an edition for each coding that changes whenever its bytes may. An encoder
does not know where its bytes come from; each call may take milliseconds, in which other threads
can run.
"""

from __future__ import annotations

import zlib
from typing import Protocol

import brotli
import zstandard

from streamedge.delivery.http.compression.negotiation import Encoding

# The levels behind which each library gets slow: 20 to 30 MB of text a second.
BROTLI_QUALITY = 5
ZSTANDARD_LEVEL = 9  # its window is 4 MiB; content codings may have 8 MiB (RFC 9659 §3)
GZIP_LEVEL = 6
_GZIP_WINDOW_BITS = 16 + 15  # zlib's way to ask for RFC 1952's header


class Encoder(Protocol):
    """One running compression; call ``flush`` once, last."""

    def compress(self, data: bytes, /) -> bytes:
        """Takes more of the content; what has become of it so far, possibly nothing."""
        ...

    def flush(self) -> bytes:
        """The rest."""
        ...


class _BrotliEncoder:
    def __init__(self) -> None:
        self._compressor = brotli.Compressor(quality=BROTLI_QUALITY)

    def compress(self, data: bytes, /) -> bytes:
        return bytes(self._compressor.process(data))

    def flush(self) -> bytes:
        return bytes(self._compressor.finish())


def start_encoder(encoding: Encoding, size_bytes: int) -> Encoder:
    """A new compression of content of ``size_bytes``."""
    match encoding:
        case Encoding.BROTLI:
            return _BrotliEncoder()
        case Encoding.ZSTANDARD:
            return zstandard.ZstdCompressor(level=ZSTANDARD_LEVEL).compressobj(size=size_bytes)
        case Encoding.GZIP:
            return zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, _GZIP_WINDOW_BITS)


def edition(encoding: Encoding) -> str:
    """What the bytes of a coding depend on beside the content: library, version, level."""
    match encoding:
        case Encoding.BROTLI:
            return f"brotli-{brotli.__version__}-{BROTLI_QUALITY}"
        case Encoding.ZSTANDARD:
            library = ".".join(str(number) for number in zstandard.ZSTD_VERSION)
            return f"zstd-{library}-{ZSTANDARD_LEVEL}"
        case Encoding.GZIP:
            return f"zlib-{zlib.ZLIB_RUNTIME_VERSION}-{GZIP_LEVEL}"
