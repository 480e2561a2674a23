"""streamedge/media/containers/codecs.py: start codes, ADTS headers, configurations."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.errors import MediaError
from streamedge.media.containers import codecs
from streamedge.media.mp4.esds import parse_audio_specific_config

# A NAL unit has no start code inside and does not end with a zero.
UNITS = st.lists(
    st.binary(min_size=1, max_size=30).map(
        lambda data: (b"\x65" + data + b"\x80").replace(b"\0\0\1", b"\0\0\3\1")
    ),
    min_size=1,
    max_size=6,
)


@given(UNITS, st.lists(st.sampled_from([b"\0\0\1", b"\0\0\0\1"]), min_size=6, max_size=6))
def test_start_codes_become_lengths(units: list[bytes], starts: list[bytes]) -> None:
    data = b"".join(start + unit for start, unit in zip(starts, units, strict=False))
    assert codecs.nal_units(data) == units
    assert codecs.with_lengths(data) == b"".join(
        len(unit).to_bytes(4, "big") + unit for unit in units
    )


@given(st.binary(max_size=300))
def test_any_bytes_are_converted(data: bytes) -> None:
    converted = codecs.with_lengths(data)
    position = 0
    while codecs.nal_units(data) and position < len(converted):
        position += 4 + int.from_bytes(converted[position : position + 4], "big")
    assert position in (0, len(converted))
    assert len(codecs.without_adts(data)) <= len(data)
    with contextlib.suppress(MediaError):
        assert len(codecs.adts_configuration(data)) == 2


@given(st.integers(0, 3), st.integers(0, 12), st.integers(1, 7), st.booleans(), st.binary())
def test_adts_header_becomes_a_configuration(
    profile: int, rate: int, channels: int, has_crc: bool, frame: bytes
) -> None:
    header = bytes([
        0xFF, 0xF0 | (not has_crc), profile << 6 | rate << 2 | channels >> 2,
        (channels & 3) << 6, 0, 0, 0, *(b"\1\2" if has_crc else b""),
    ])  # fmt: skip
    assert codecs.without_adts(header + frame) == frame
    record = codecs.adts_configuration(header + frame)
    assert record[0] >> 3 == profile + 1
    configuration = parse_audio_specific_config(record)
    assert configuration.channels == (8 if channels == 7 else channels)
    assert configuration.sample_rate > 0


@pytest.mark.parametrize("data", [b"", b"\xff\xf1\x50\x00\0\0\0", b"\x21" * 20])
def test_frame_that_does_not_tell_its_channels_is_refused(data: bytes) -> None:
    with pytest.raises(MediaError, match="AAC track"):
        codecs.adts_configuration(data)
