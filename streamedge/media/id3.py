"""ID3v2 tags at the start of MP3 files, and of some other files.

Source: ID3v2.4 structure §3.1.
"""

from __future__ import annotations

ID3_HEADER_SIZE_BYTES = 10

_FOOTER_PRESENT = 0x10


def id3v2_size_bytes(data: bytes) -> int:
    """Size of an ID3v2 tag at the start, header and footer included; 0 if there is none."""
    header = data[:ID3_HEADER_SIZE_BYTES]
    if len(header) < ID3_HEADER_SIZE_BYTES or header[:3] != b"ID3":
        return 0
    size_bytes = 0
    for octet in header[6:10]:  # 7 bits each
        size_bytes = size_bytes << 7 | octet & 0x7F
    footer = ID3_HEADER_SIZE_BYTES if header[5] & _FOOTER_PRESENT else 0
    return ID3_HEADER_SIZE_BYTES + size_bytes + footer
