"""Samples and codec configurations as FLV and MP4 have them, from those of other containers. Pure.

MPEG-TS has H.264 and HEVC with start codes (Annex B), FLV with lengths; ADTS puts a header before
each AAC frame, FLV an AudioSpecificConfig before the first one.
Sources: ISO/IEC 14496-10 and 23008-2, Annex B; 14496-3 §1.6.2.1 and §1.A.2.2; VP Codec ISO Media
File Format Binding.
"""

from __future__ import annotations

import re

from streamedge.media.faults import invalid

_START_CODE = re.compile(b"\x00\x00\x01")
_ADTS_HEADER_BYTES = 7
_ADTS_CRC_BYTES = 2


def nal_units(data: bytes) -> list[bytes]:
    """The NAL units of a byte stream, without start codes and trailing zeros."""
    starts = [match.end() for match in _START_CODE.finditer(data)]
    ends = [*(start - 3 for start in starts), len(data)][1:]
    units = [data[start:end].rstrip(b"\x00") for start, end in zip(starts, ends, strict=True)]
    return [unit for unit in units if unit]


def with_lengths(data: bytes) -> bytes:
    """An access unit in the form of MP4: each NAL unit after its length in 4 bytes.

    Data without a start code is returned as it is.
    """
    units = nal_units(data)
    if not units:
        return data
    return b"".join(len(unit).to_bytes(4, "big") + unit for unit in units)


def is_adts(data: bytes) -> bool:
    """Whether an AAC frame has an ADTS header: syncword, layer 0."""
    return len(data) >= _ADTS_HEADER_BYTES and data[0] == 0xFF and data[1] & 0xF6 == 0xF0


def without_adts(data: bytes) -> bytes:
    """The raw AAC frame after an ADTS header; data without a header as it is."""
    if not is_adts(data):
        return data
    has_crc = data[1] & 1 == 0
    return data[_ADTS_HEADER_BYTES + _ADTS_CRC_BYTES * has_crc :]


def adts_configuration(data: bytes) -> bytes:
    """The AudioSpecificConfig of an ADTS frame. Raises MediaError when it cannot tell the channels.

    Five bits of object type, four of the rate's index, four of the channels, three zeros.
    """
    if not is_adts(data):
        raise invalid("an AAC track has neither a configuration nor ADTS headers")
    object_type = (data[2] >> 6) + 1
    rate = data[2] >> 2 & 15
    channels = (data[2] & 1) << 2 | data[3] >> 6
    if channels == 0:
        raise invalid("an AAC track has its channels in a program configuration")
    return (object_type << 11 | rate << 7 | channels << 3).to_bytes(2, "big")


def vp8_configuration() -> bytes:
    """The ``vpcC`` box's content for VP8: version 1, profile and level 0, 8 bits of 4:2:0."""
    return bytes([1, 0, 0, 0, 0, 0, 8 << 4 | 1 << 1, 2, 2, 2, 0, 0])
