"""Compressed lines in the spool: blocks, each a whole gzip file whose size is in its own header.

Blocks one after another are a gzip file as well (RFC 1952 §2.2), so they are delivered as they are.
The sizes show where a block ends without decompressing it, and so whether its writer was killed
before it had written the whole block.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import IO

from isal import isal_zlib

GZIP_WBITS = 31  # a gzip file, without a time or name, and the largest window
COMPRESSION_LEVEL = 1  # of ISA-L: a sixth of the time of zlib's fastest, and fewer bytes
_DEFLATE_WBITS = -15  # the same without a header

# The fixed header, and an extra field "SE" with the size of the block (RFC 1952 §2.3).
_HEADER = struct.Struct("<4sLxBH2sHL")
_MAGIC = b"\x1f\x8b\x08\x04"  # deflate; the only flag is FEXTRA
_UNKNOWN_SYSTEM = 255
_SUBFIELD = b"SE"
_TRAILER = struct.Struct("<LL")  # CRC-32 and size of the lines


def compress_block(lines: Iterable[bytes]) -> bytes:
    """One block of lines, which are given in pieces."""
    compressor = isal_zlib.compressobj(COMPRESSION_LEVEL, wbits=_DEFLATE_WBITS)
    parts, crc, size_bytes = [b""], 0, 0
    for piece in lines:
        parts.append(compressor.compress(piece))
        crc = isal_zlib.crc32(piece, crc)
        size_bytes += len(piece)
    parts += (compressor.flush(), _TRAILER.pack(crc, size_bytes & 0xFFFFFFFF))
    block_bytes = _HEADER.size + sum(map(len, parts))
    parts[0] = _HEADER.pack(_MAGIC, 0, _UNKNOWN_SYSTEM, 8, _SUBFIELD, 4, block_bytes)
    return b"".join(parts)


def whole_blocks(file: IO[bytes]) -> Iterator[bytes]:
    """The blocks of a file, as they are. The last one is left out if it is not whole."""
    while len(header := file.read(_HEADER.size)) == _HEADER.size:
        magic, _time, _system, _extra, subfield, _length, block_bytes = _HEADER.unpack(header)
        if magic != _MAGIC or subfield != _SUBFIELD or block_bytes <= _HEADER.size:
            return
        block = header + file.read(block_bytes - _HEADER.size)
        if len(block) < block_bytes:
            return
        yield block


def count_lines(block: bytes) -> int:
    """The number of lines in a block."""
    return isal_zlib.decompress(block, GZIP_WBITS).count(b"\n")
