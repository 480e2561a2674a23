"""Accept-Encoding, which responses are compressed, and the head of a compressed response."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.delivery.http.compression.negotiation import (
    COMPRESSED_BYTES_MAX,
    COMPRESSED_BYTES_MIN,
    ContentCoding,
    encoded_etag,
    encoded_head,
    is_compressible,
    negotiate,
    with_vary,
)
from streamedge.delivery.http.response.conditions import Condition, evaluate, range_applies
from streamedge.origin import UNKNOWN_BYTES, OriginHead, Version

MODIFIED_S = 784_111_777
MODIFIED = "Sun, 06 Nov 1994 08:49:37 GMT"
BR, ZSTD, GZIP = ContentCoding.BROTLI, ContentCoding.ZSTANDARD, ContentCoding.GZIP


def head_of(
    content_type: str = "text/html; charset=utf-8",
    size_bytes: int = 5000,
    status: int = 200,
    **headers: str,
) -> OriginHead:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return OriginHead(Version('"v1"', size_bytes, MODIFIED_S), content_type, fields, status)


@pytest.mark.parametrize(
    ("accept_encoding", "encoding"),
    [
        (None, None),
        ("", None),
        ("gzip, deflate, br, zstd", BR),  # browsers
        ("gzip, deflate, br", BR),
        ("gzip, deflate", GZIP),
        ("gzip, zstd", ZSTD),
        ("compress, gzip", GZIP),  # this and the next four: RFC 9110 §12.5.3
        ("*", BR),
        ("compress;q=0.5, gzip;q=1.0", GZIP),
        ("gzip;q=1.0, identity; q=0.5, *;q=0", GZIP),
        ("deflate", None),
        ("br;q=0.9, gzip", GZIP),
        ("br;q=0.001, gzip;q=0", BR),
        ("br;q=0, zstd;q=0.000, gzip;q=0.0", None),
        ("identity", None),
        ("identity, gzip;q=0.5", None),
        ("identity;q=0.5, gzip;q=0.5", GZIP),
        ("identity;q=0", None),
        ("identity;q=0, gzip;q=0.1", GZIP),
        ("*;q=0", None),
        ("*;q=0, gzip", GZIP),
        ("*, br;q=0", ZSTD),
        ("gzip;q=0.5, *;q=0.1", GZIP),
        ("x-gzip", GZIP),
        ("GZip;Q=1", GZIP),
        ("gzip ; q = 1.000", GZIP),
        (" , ,gzip,,", GZIP),
        ("br;q=2, gzip", GZIP),
        ("br;q=0.1234, gzip", GZIP),
        ("br;q=-1, gzip", GZIP),
        ("br;level=9, gzip", GZIP),
        ("br;q=1;q=0, gzip", GZIP),
        ("gzip, gzip;q=0", GZIP),
        (";q=1", None),
        ("brgzip", None),
        ("br;q=٠, gzip", GZIP),  # a digit, but not an ASCII one
    ],
)
def test_accept_encoding_selects_the_coding(
    accept_encoding: str | None, encoding: ContentCoding | None
) -> None:
    assert negotiate(accept_encoding) is encoding


WEIGHT = st.integers(0, 1000)


@given(
    st.dictionaries(st.sampled_from(["br", "zstd", "gzip", "identity", "deflate"]), WEIGHT),
    st.randoms(),
)
def test_selected_coding_has_the_highest_weight(weights: dict[str, int], order: object) -> None:
    elements = [f"{coding};q={weight / 1000:.3f}" for coding, weight in weights.items()]
    order.shuffle(elements)  # type: ignore[attr-defined]
    chosen = negotiate(", ".join(elements))
    offered = {encoding: weights.get(encoding.value, 0) for encoding in ContentCoding}
    if chosen is None:
        assert all(not one or one < weights.get("identity", 0) for one in offered.values())
    else:
        assert offered[chosen] == max(offered.values()) > 0
        assert offered[chosen] >= weights.get("identity", 0)


@given(st.text(max_size=200) | st.text("brgzipstd*;q=01., \t", max_size=60))
def test_any_accept_encoding_gives_a_choice(value: str) -> None:
    assert negotiate(value) in {None, *ContentCoding}


@pytest.mark.parametrize(
    "head",
    [
        head_of(),
        head_of("TEXT/CSS"),
        head_of("application/json"),
        head_of("image/svg+xml ;charset=x"),
        head_of(status=403),
        head_of(status=404),
        head_of(size_bytes=COMPRESSED_BYTES_MIN),
        head_of(size_bytes=COMPRESSED_BYTES_MAX),
        head_of(cache_control="public, max-age=60"),
        head_of(vary="Origin"),
    ],
)
def test_compressible_responses_are_recognized(head: OriginHead) -> None:
    assert is_compressible(head)


@pytest.mark.parametrize(
    "head",
    [
        head_of("image/jpeg"),
        head_of("video/mp4"),
        head_of(""),
        head_of("text/htmlx"),
        head_of("text/event-stream"),
        head_of(status=206, content_range="bytes 0-4999/9000"),
        head_of(content_range="bytes 0-4999/9000"),
        head_of(status=500),
        head_of(size_bytes=COMPRESSED_BYTES_MIN - 1),
        head_of(size_bytes=COMPRESSED_BYTES_MAX + 1),
        head_of(size_bytes=UNKNOWN_BYTES),
        head_of(content_encoding="gzip"),
        head_of(content_encoding="identity"),
        head_of(cache_control="max-age=60, No-Transform"),
        head_of(cache_control="no-transform"),
    ],
)
def test_other_responses_are_not_compressed(head: OriginHead) -> None:
    assert not is_compressible(head)


@pytest.mark.parametrize(
    ("etag", "encoded"),
    [
        ('"v1"', 'W/"v1-br"'),
        ('W/"v1"', 'W/"v1-br"'),
        ('""', 'W/"-br"'),
        ("", ""),
        ("v1", ""),
        ('"', ""),
        ('W/"', ""),
    ],
)
def test_compressed_etag_is_weak_and_has_its_coding(etag: str, encoded: str) -> None:
    assert encoded_etag(etag, BR) == encoded


def test_each_representation_has_its_own_etag() -> None:
    tags = {'"v1"', *(encoded_etag('"v1"', encoding) for encoding in ContentCoding)}
    assert len(tags) == 1 + len(ContentCoding)


@pytest.mark.parametrize(
    ("fields", "condition"),
    [
        ({"if-none-match": 'W/"v1-gzip"'}, Condition.NOT_MODIFIED),
        ({"if-none-match": '"v0", W/"v1-gzip"'}, Condition.NOT_MODIFIED),
        ({"if-none-match": "*"}, Condition.NOT_MODIFIED),
        ({"if-none-match": 'W/"v1-br"'}, Condition.HOLDS),
        ({"if-none-match": '"v1"'}, Condition.HOLDS),
        ({"if-none-match": 'W/"v2-gzip"'}, Condition.HOLDS),
        ({"if-modified-since": MODIFIED}, Condition.NOT_MODIFIED),
        ({"if-match": 'W/"v1-gzip"'}, Condition.FAILED),
        ({"if-match": '"v1"'}, Condition.FAILED),
    ],
)
def test_conditions_apply_to_the_compressed_representation(
    fields: dict[str, str], condition: Condition
) -> None:
    assert evaluate(fields, encoded_head(head_of(), GZIP, 1234).version) is condition


@pytest.mark.parametrize("if_range", ['"v1"', 'W/"v1-gzip"', '"v1-gzip"', MODIFIED])
def test_if_range_never_combines_compressed_representations(if_range: str) -> None:
    assert not range_applies(if_range, encoded_head(head_of(), GZIP, 1234).version)


def test_compressed_head_has_its_own_fields() -> None:
    head = head_of(
        status=404,
        cache_control="max-age=60",
        content_md5="x",
        digest="x",
        content_digest="x",
        repr_digest="x",
        x_amz_checksum_crc32="x",
        x_own="1",
    )
    assert encoded_head(head, GZIP, 1234) == OriginHead(
        Version('W/"v1-gzip"', 1234, MODIFIED_S),
        head.content_type,
        {
            "cache-control": "max-age=60",
            "x-own": "1",
            "vary": "Accept-Encoding",
            "content-encoding": "gzip",
        },
        404,
    )
    assert "content-md5" in head.headers  # the fields of the identity head do not change


@pytest.mark.parametrize(
    ("old_vary", "vary"),
    [
        (None, "Accept-Encoding"),
        ("", "Accept-Encoding"),
        ("Origin", "Origin, Accept-Encoding"),
        ("origin,ACCEPT-ENCODING", "origin,ACCEPT-ENCODING"),
        ("Accept", "Accept, Accept-Encoding"),
        ("*", "*"),
    ],
)
def test_vary_lists_accept_encoding(old_vary: str | None, vary: str) -> None:
    headers = {"x-own": "1"} if old_vary is None else {"x-own": "1", "vary": old_vary}
    assert with_vary(headers) == {"x-own": "1", "vary": vary}
