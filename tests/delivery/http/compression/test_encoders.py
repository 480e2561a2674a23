"""The three encoders: the content survives a round trip, and the output is deterministic."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from streamedge.delivery.http.compression.encoders import edition, start_encoder
from streamedge.delivery.http.compression.negotiation import COMPRESSED_BYTES_MAX, ContentCoding

ZSTANDARD_WINDOW_BYTES_MAX = 8 << 20  # RFC 9659 §3


def encode(encoding: ContentCoding, pieces: Iterable[bytes]) -> bytes:
    pieces = list(pieces)
    encoder = start_encoder(encoding, sum(map(len, pieces)))
    return b"".join([*map(encoder.compress, pieces), encoder.flush()])


def decode(encoding: ContentCoding, data: bytes) -> bytes:
    match encoding:
        case ContentCoding.BROTLI:
            return bytes(brotli.decompress(data))
        case ContentCoding.ZSTANDARD:
            return zstandard.ZstdDecompressor().decompressobj().decompress(data)
        case ContentCoding.GZIP:
            decoder = zlib.decompressobj(31)
            content = decoder.decompress(data)
            assert decoder.eof
            assert not decoder.unused_data
            return content


@pytest.mark.parametrize("encoding", ContentCoding)
@given(pieces=st.lists(st.binary(max_size=2000), max_size=5))
def test_content_survives_a_round_trip(encoding: ContentCoding, pieces: list[bytes]) -> None:
    encoded = encode(encoding, pieces)
    assert decode(encoding, encoded) == b"".join(pieces)
    assert encode(encoding, pieces) == encoded  # a fill may be resumed by another worker


@pytest.mark.parametrize("encoding", ContentCoding)
def test_text_is_compressed_well(encoding: ContentCoding) -> None:
    text = "".join(f"<li>item {number}</li>\n" for number in range(5000)).encode()
    encoded = encode(encoding, [text])
    assert len(encoded) < len(text) / 4
    assert decode(encoding, encoded) == text


def test_window_is_within_the_limit_for_clients() -> None:
    content = bytes(64 << 10) * (COMPRESSED_BYTES_MAX // (64 << 10))
    encoded = encode(ContentCoding.ZSTANDARD, [content])
    parameters = zstandard.get_frame_parameters(encoded)
    assert parameters.window_size <= ZSTANDARD_WINDOW_BYTES_MAX
    assert parameters.content_size == len(content)


def test_gzip_header_has_no_time() -> None:
    assert encode(ContentCoding.GZIP, [b"x"])[4:8] == bytes(4)  # MTIME (RFC 1952 §2.3.1)


def test_each_coding_has_its_own_edition() -> None:
    editions = [edition(encoding) for encoding in ContentCoding]
    assert len(set(editions)) == len(editions)
    assert all(part for one in editions for part in one.split("-"))
