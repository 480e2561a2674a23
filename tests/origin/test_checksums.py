"""Checksums: published check values, any pieces, and mismatches."""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamedge.origin.checksums import CHECKSUM_FIELDS, Crc, Verifier, crc32c, crc64nvme
from streamedge.origin.writing import WriteRefusedError

NINE = b"123456789"

# Check values: RFC 3720 appendix B.4 and the catalogue of parametrised CRC algorithms.
CHECKS = [
    (crc32c, NINE, "e3069283"),
    (crc32c, bytes(32), "8a9136aa"),
    (crc32c, b"\xff" * 32, "62a8ab43"),
    (crc32c, bytes(range(32)), "46dd794e"),
    (crc64nvme, NINE, "ae8b14860a799888"),
]

SUMS = {
    "content-md5": "JfnnlDI7RTiF9RgfG2JNCw==",
    "x-amz-checksum-crc32": base64.b64encode(zlib.crc32(NINE).to_bytes(4, "big")).decode(),
    "x-amz-checksum-crc32c": base64.b64encode(bytes.fromhex("e3069283")).decode(),
    "x-amz-checksum-crc64nvme": base64.b64encode(bytes.fromhex("ae8b14860a799888")).decode(),
    "x-amz-checksum-sha1": base64.b64encode(hashlib.sha1(NINE).digest()).decode(),
    "x-amz-checksum-sha256": base64.b64encode(hashlib.sha256(NINE).digest()).decode(),
}


def digest_of(crc: Callable[[], Crc], *pieces: bytes) -> bytes:
    running = crc()
    for piece in pieces:
        running.update(piece)
    return running.digest()


@pytest.mark.parametrize(("crc", "data", "check"), CHECKS)
def test_checksums_match_the_published_check_values(
    crc: Callable[[], Crc], data: bytes, check: str
) -> None:
    assert digest_of(crc, data).hex() == check
    assert digest_of(crc, *(bytes([byte]) for byte in data)).hex() == check


@settings(max_examples=25)
@given(st.binary(max_size=5000), st.integers(0, 5000))
def test_checksum_does_not_depend_on_the_pieces(data: bytes, at: int) -> None:
    assert digest_of(crc64nvme, data[:at], data[at:]) == digest_of(crc64nvme, data)


def test_every_checksum_field_has_a_test_vector() -> None:
    assert SUMS.keys() == CHECKSUM_FIELDS


@pytest.mark.parametrize("name", sorted(SUMS))
def test_wrong_body_is_refused(name: str) -> None:
    right = Verifier(((name.title(), SUMS[name]),))
    right.update(NINE[:4])
    right.update(NINE[4:])
    right.verify({})
    wrong = Verifier(((name, SUMS[name]),))
    wrong.update(NINE[:-1])
    with pytest.raises(WriteRefusedError, match="400 BadDigest"):
        wrong.verify({})


def test_checksums_in_trailers_are_verified() -> None:
    for value, refused in (
        (SUMS["x-amz-checksum-crc32c"], None),
        ("AAAAAA==", "BadDigest"),
        ("A", "InvalidDigest"),
        (None, "InvalidRequest"),
    ):
        verifier = Verifier((), ("x-amz-checksum-crc32c",))
        verifier.update(NINE)
        trailers = {} if value is None else {"x-amz-checksum-crc32c": value}
        if refused is None:
            verifier.verify(trailers)
        else:
            with pytest.raises(WriteRefusedError, match=refused):
                verifier.verify(trailers)


def test_payload_sha256_is_verified() -> None:
    digest = hashlib.sha256(NINE).hexdigest()
    verifier = Verifier((("x-amz-content-sha256", digest),))
    verifier.update(b"other")
    with pytest.raises(WriteRefusedError, match="BadDigest"):
        verifier.verify({})
    Verifier((("x-amz-content-sha256", "UNSIGNED-PAYLOAD"),)).verify({})


@pytest.mark.parametrize("value", ["", "!", "AAAA", SUMS["x-amz-checksum-sha256"], "é"])
def test_malformed_digest_is_refused(value: str) -> None:
    with pytest.raises(WriteRefusedError, match="400 InvalidDigest"):
        Verifier((("Content-MD5", value),))
