"""Part sizes and the XML documents of multipart uploads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.origin.s3.parts import (
    BUFFERED_PART_MAX_BYTES,
    OBJECT_MAX_BYTES,
    PART_MIN_BYTES,
    PARTS_MAX,
    completion,
    find_etag,
    find_upload_id,
    part_size_bytes,
)


@given(st.integers(0, OBJECT_MAX_BYTES))
def test_part_size_suits_any_object_size(size_bytes: int) -> None:
    part = part_size_bytes(1, size_bytes)
    assert PART_MIN_BYTES <= part <= 5 << 30
    assert part * PARTS_MAX >= size_bytes
    assert part_size_bytes(PARTS_MAX, size_bytes) == part


def test_parts_of_an_unknown_length_grow() -> None:
    sizes = [part_size_bytes(number, None) for number in range(1, PARTS_MAX + 1)]
    assert sizes[0] == PART_MIN_BYTES
    assert sizes == sorted(sizes)
    assert sizes[-1] == BUFFERED_PART_MAX_BYTES
    assert sum(sizes) // (1 << 30) == 492


def test_complete_document_lists_all_parts() -> None:
    assert completion(['"a"', "b<"]) == (
        b'<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        b'<Part><PartNumber>1</PartNumber><ETag>"a"</ETag></Part>'
        b"<Part><PartNumber>2</PartNumber><ETag>b&lt;</ETag></Part></CompleteMultipartUpload>"
    )


@pytest.mark.parametrize(
    ("body", "etag"),
    [
        (b"<R><ETag>&quot;3858f622-9&quot;</ETag></R>", '"3858f622-9"'),
        (b'  \n<R><ETag>"1"</ETag></R>', '"1"'),
        (b"<R/>", ""),
    ],
)
def test_etag_is_read_from_the_response(body: bytes, etag: str) -> None:
    assert find_etag(body) == etag


def test_upload_id_is_read_from_the_response() -> None:
    assert find_upload_id(b"<R><UploadId>a&amp;b</UploadId></R>") == "a&b"
    assert find_upload_id(b"<R><UploadId></UploadId></R>") == ""
