"""aws-chunked bodies: Amazon's examples whole and byte by byte, and arbitrary bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.origin.aws_chunked import (
    CHUNK_LINE_MAX_BYTES,
    TRAILERS_MAX_BYTES,
    AwsChunkedDecoder,
    AwsChunkedError,
)

# Amazon S3 API Reference, "Signature calculations: transferring payload in multiple chunks".
SIGNED = (
    b"10000;chunk-signature=ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648\r\n"
    + b"a" * 65536
    + b"\r\n"
    b"400;chunk-signature=0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497\r\n"
    + b"a"
    * 1024
    + b"\r\n"
    b"0;chunk-signature=b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9\r\n"
    b"\r\n"
)
# The same with trailing headers, whose checksum line Amazon's text ends with a bare LF.
TRAILED = (
    b"5;chunk-signature=0055\r\nhello\r\n0;chunk-signature=2ca2\r\n"
    b"x-amz-checksum-crc32c:sOO8/Q==\n\r\n"
)
UNSIGNED = b"5\r\nhello\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\nx-amz-trailer-signature:d8\r\n\r\n"


def decode(data: bytes, step: int = 1 << 20) -> tuple[bytes, dict[str, str]]:
    decoder = AwsChunkedDecoder()
    plain = b"".join(
        piece for at in range(0, len(data), step) for piece in decoder.feed(data[at : at + step])
    )
    decoder.finish()
    return plain, decoder.trailers


@pytest.mark.parametrize("step", [1 << 20, 1, 7])
@pytest.mark.parametrize(
    ("data", "plain", "trailers"),
    [
        (SIGNED, b"a" * 66560, {}),
        (TRAILED, b"hello", {"x-amz-checksum-crc32c": "sOO8/Q=="}),
        (UNSIGNED, b"hello", {"x-amz-checksum-crc32": "NhCmhg=="}),
        (b"0\r\n\r\n", b"", {}),
    ],
)
def test_body_is_decoded(data: bytes, plain: bytes, trailers: dict[str, str], step: int) -> None:
    assert decode(data, step) == (plain, trailers)


@pytest.mark.parametrize("data", [SIGNED, TRAILED, UNSIGNED])
def test_bytes_after_the_last_chunk_are_refused(data: bytes) -> None:
    with pytest.raises(AwsChunkedError, match="follow"):
        decode(data + b"x")


def test_every_shorter_body_is_refused() -> None:
    for end in range(len(UNSIGNED)):
        with pytest.raises(AwsChunkedError):
            decode(UNSIGNED[:end])


@pytest.mark.parametrize(
    "data",
    [
        b"\r\nhello",
        b"-5\r\nhello\r\n",
        b"0x5\r\nhello\r\n",
        b"5\nhello\r\n0\r\n\r\n",
        b"5\r\nhello!\r\n0\r\n\r\n",
        b"5 \r\nhello\r\n0\r\n\r\n",
        b"10000000000000000\r\n",
        b"0\r\nno field\r\n\r\n",
        b"0\r\na:1\r\nA:2\r\n\r\n",
        b"0\r\n:1\r\n\r\n",
    ],
)
def test_malformed_body_is_refused(data: bytes) -> None:
    with pytest.raises(AwsChunkedError):
        decode(data)


def test_lines_and_trailers_are_bounded() -> None:
    with pytest.raises(AwsChunkedError, match="line"):
        decode(b"5;" + b"x" * CHUNK_LINE_MAX_BYTES)
    many = b"".join(b"x-%d:%b\r\n" % (number, b"1" * 200) for number in range(100))
    assert len(many) > TRAILERS_MAX_BYTES
    with pytest.raises(AwsChunkedError, match="trailers"):
        decode(b"0\r\n" + many + b"\r\n")


@given(st.binary(max_size=300), st.integers(1, 9))
def test_any_bytes_decode_or_are_refused(data: bytes, step: int) -> None:
    try:
        plain, trailers = decode(data, step)
    except AwsChunkedError:
        return
    assert len(plain) + sum(map(len, trailers)) < len(data)


@given(st.lists(st.binary(min_size=1, max_size=50)), st.integers(1, 30))
def test_encoded_pieces_decode_to_the_same_bytes(pieces: list[bytes], step: int) -> None:
    trailers = {"x-amz-checksum-crc32": "NhCmhg=="}
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    lines = "".join(f"{name}:{value}\r\n" for name, value in trailers.items())
    coded = chunks + f"0\r\n{lines}\r\n".encode("ascii")
    assert decode(coded, step) == (b"".join(pieces), trailers)
