"""The plain body of a PUT, from the bytes that a viewer sends."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from streamedge.origin.upload import Upload
from streamedge.origin.writing import Write, WriteRefusedError

TRAILER = "x-amz-checksum-crc32"
CODED = (
    ("Content-Encoding", "gzip, aws-chunked"),
    ("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"),
    ("x-amz-decoded-content-length", "5"),
    ("x-amz-trailer", TRAILER),
)
BODY = b"5\r\nhello\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n"


async def body_of(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def put(fields: tuple[tuple[str, str], ...], *pieces: bytes, size: int | None = None) -> Upload:
    return Upload(Write("PUT", "a", fields, size), body_of(*pieces))


async def read(upload: Upload) -> bytes:
    return b"".join([piece async for piece in upload.pieces()])


async def test_plain_body_is_the_object() -> None:
    upload = put((("Content-Type", "a/b"),), b"hel", b"lo", size=5)
    assert await read(upload) == b"hello"
    assert upload.size_bytes == 5
    assert upload.final_fields == (("Content-Type", "a/b"),)


async def test_aws_chunked_body_is_decoded() -> None:
    upload = put(CODED, *(bytes([byte]) for byte in BODY), size=len(BODY))
    assert upload.size_bytes == 5
    assert await read(upload) == b"hello"
    assert upload.trailers == {TRAILER: "NhCmhg=="}
    assert upload.final_fields == (("Content-Encoding", "gzip"), (TRAILER, "NhCmhg=="))


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        (b"4\r\nhell\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n", "IncompleteBody"),
        (b"6\r\nhello!\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n", "IncompleteBody"),
        (BODY[:-2], "IncompleteBody"),
        (b"5\r\nhello\r\n0\r\n\r\n", "InvalidRequest"),
        (b"what is this\r\n", "InvalidChunk"),
        (BODY + b"!", "InvalidChunk"),
    ],
)
async def test_body_that_contradicts_its_header_is_refused(body: bytes, refusal: str) -> None:
    upload = put(CODED, body)
    with pytest.raises(WriteRefusedError, match=refusal) as caught:
        await read(upload)
    assert upload.failure is caught.value
    assert caught.value.response.status == 400


@pytest.mark.parametrize("pieces", [(b"hell",), (b"hello", b"!")])
async def test_plain_body_of_another_length_is_refused(pieces: tuple[bytes, ...]) -> None:
    with pytest.raises(WriteRefusedError, match="IncompleteBody"):
        await read(put((), *pieces, size=5))


@pytest.mark.parametrize(
    "field", [("x-amz-decoded-content-length", "-1"), ("x-amz-trailer", "authorization")]
)
def test_invalid_header_is_refused(field: tuple[str, str]) -> None:
    with pytest.raises(WriteRefusedError, match="InvalidRequest"):
        put((("Content-Encoding", "aws-chunked"), field))


async def test_upload_failure_is_the_exception_of_the_viewers_connection() -> None:
    async def leave() -> AsyncIterator[bytes]:
        yield b"he"
        raise ConnectionResetError

    upload = Upload(Write("PUT", "a", (), 5), leave())
    with pytest.raises(ConnectionResetError):
        await read(upload)
    assert isinstance(upload.failure, ConnectionResetError)
