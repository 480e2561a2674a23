"""streamedge/media/script_data.py."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.errors import MediaError
from streamedge.media.script_data import (
    DEPTH_MAX,
    ScriptObject,
    ScriptValue,
    decode_script,
    encode_on_metadata,
)

NAME = b"\x02\x00\x0aonMetaData"
VALUES: ScriptObject = {
    "duration": 12.5,
    "stereo": True,
    "encoder": "a é",
    "nothing": None,
    "list": ("a", False, 1.0),
    "inner": {"deeper": {"x": -1.0}},
}


def test_on_metadata_is_an_ecma_array() -> None:
    """AMF0 §2.10: marker 8, a count, then members up to 00 00 09."""
    assert encode_on_metadata({"width": 640}) == (
        NAME + b"\x08\x00\x00\x00\x01" + b"\x00\x05width\x00" + struct.pack(">d", 640) + b"\0\0\x09"
    )


def test_values_survive_a_round_trip() -> None:
    assert decode_script(encode_on_metadata(VALUES)) == ("onMetaData", (VALUES,))


def test_lists_of_numbers_are_arrays() -> None:
    times = np.array([0.0, 2.5, 1e9])
    _, (values,) = decode_script(encode_on_metadata({"keyframes": {"times": times}}))
    assert isinstance(values, dict)
    keyframes = values["keyframes"]
    assert isinstance(keyframes, dict)
    read = keyframes["times"]
    assert isinstance(read, np.ndarray)
    assert read.tolist() == times.tolist()


def test_truncated_body_is_refused_and_trailing_bytes_are_ignored() -> None:
    body = encode_on_metadata(VALUES)
    complete = 0
    for length in range(len(body)):
        try:
            decode_script(body[:length])
        except MediaError:
            continue
        complete += 1
    # Cut between members, at any level, only the end marks are missing.
    assert 0 < complete < 20
    name, values = decode_script(body + b"\x05")
    assert (name, len(values)) == ("onMetaData", 2)


@pytest.mark.parametrize(
    ("encoded", "value"),
    [
        (b"\x06", None),
        (b"\x07\x00\x01", None),
        (b"\x0b" + struct.pack(">d", 1e12) + b"\0\0", 1e12),
        (b"\x0c\x00\x00\x00\x02ab", "ab"),
        (b"\x0f\x00\x00\x00\x02<a", "<a"),
        (b"\x10\x00\x01T\x00\x01a\x05\x00\x00\x09", {"a": None}),
        (b"\x02\x00\x01\xff", "�"),
        (b"\x0a\x00\x00\x00\x01\x05", (None,)),
    ],
)
def test_all_value_types_of_files_are_read(encoded: bytes, value: ScriptValue) -> None:
    assert decode_script(NAME + encoded) == ("onMetaData", (value,))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x05",
        NAME + b"\x11",
        NAME + b"\x0a\xff\xff\xff\xff",
        NAME + (b"\x03\x00\x01a" * (DEPTH_MAX + 2)),
        NAME + b"\x0a\x00\x10\x00\x01" + b"\x05" * ((1 << 20) + 1),
    ],
    ids=["empty", "no name", "unknown", "huge array", "deep", "many"],
)
def test_malformed_script_data_is_refused(body: bytes) -> None:
    with pytest.raises(MediaError):
        decode_script(body)


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_raise(data: bytes) -> None:
    for body in (data, NAME + data):
        try:
            decode_script(body)
        except MediaError:
            continue


def test_long_strings_are_written_and_read() -> None:
    values: ScriptObject = {"comment": "x" * 70_000}
    assert decode_script(encode_on_metadata(values)) == ("onMetaData", (values,))
