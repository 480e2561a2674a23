"""Digests that never collide by concatenation, and records that decode completely or not at all."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamedge.cache.storage.records import (
    Record,
    decode_record,
    encode_record,
    key_hash,
    version_digest,
)
from streamedge.origin import OriginHead, Version

# Header values hold no NUL (RFC 9110 §5.5); names may hold anything.
KEYS = st.text(st.characters(codec="utf-8"), max_size=20)
ETAGS = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF), max_size=20)
VERSIONS = st.builds(
    Version, ETAGS, st.integers(0, 2**50), st.none() | st.integers(-(2**40), 2**40)
)
HEADS = st.builds(OriginHead, VERSIONS, ETAGS, st.dictionaries(ETAGS, ETAGS, max_size=4))
TRAILERS = st.lists(st.tuples(ETAGS, ETAGS), max_size=3).map(tuple)
RECORDS = st.builds(
    Record, KEYS, HEADS, st.floats(0, 1e12), trailers=TRAILERS, held_s=st.floats(0, 1e9)
)
IDENTITIES = st.tuples(KEYS, VERSIONS, st.integers(0, 2**20))
RECORD = Record("k", OriginHead(Version('"1"', 10, 5), "video/mp4", {"age": "3"}), 1000.5)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@settings(deadline=None)
@given(RECORDS)
def test_record_is_decoded_as_it_was_encoded(record: Record) -> None:
    assert decode_record(encode_record(record), record.key) == record


def test_record_with_a_key_that_is_not_utf_8_is_decoded() -> None:
    record = replace(RECORD, key=b"film-\xff.mp4".decode("utf-8", "surrogateescape"))
    assert decode_record(encode_record(record), record.key) == record
    assert key_hash(record.key).digest != key_hash("film-.mp4").digest


def test_record_of_another_asset_gives_none() -> None:
    assert decode_record(encode_record(RECORD), "other") is None


def test_truncated_record_gives_none() -> None:
    data = encode_record(RECORD)
    assert decode_record(data, "k") == RECORD
    assert {decode_record(data[:end], "k") for end in range(len(data))} == {None}


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_give_a_record_or_none(data: bytes) -> None:
    record = decode_record(data, "k")
    assert record is None or isinstance(record, Record)


@settings(deadline=None)
@given(st.sampled_from(sorted(json.loads(encode_record(RECORD)))), JSON)
def test_any_value_in_any_field_gives_a_record_or_none(name: str, value: object) -> None:
    document = json.loads(encode_record(RECORD))
    document[name] = value
    record = decode_record(json.dumps(document).encode(), "k")
    assert record is None or isinstance(record, Record)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(4096),
        b"[]",
        b"[" * 100_000,
        encode_record(RECORD).replace(b'"size_bytes": 10', b'"size_bytes": 1e999'),
        encode_record(RECORD).replace(b"1000.5", b"1" * 5000),
        encode_record(RECORD).replace(b'"etag"', b'"tag"'),
    ],
    ids=["empty", "zeros", "list", "deep", "infinite", "long number", "field missing"],
)
def test_damaged_record_gives_none(data: bytes) -> None:
    assert decode_record(data, "k") is None


@settings(deadline=None)
@given(IDENTITIES, IDENTITIES)
def test_two_extents_have_different_digests(
    one: tuple[str, Version, int], other: tuple[str, Version, int]
) -> None:
    assert (version_digest(*one) == version_digest(*other)) == (one == other)


@settings(deadline=None)
@given(KEYS, VERSIONS, st.integers(0, 2**20))
def test_each_part_of_a_version_changes_the_digest(key: str, version: Version, extent: int) -> None:
    """Also if the parts would be equal when joined without separators."""
    names = {
        version_digest(key, version, extent),
        version_digest(key, version, extent + 1),
        version_digest(key + "0", version, extent),
        version_digest(key + "\0", version, extent),
        version_digest(key, replace(version, etag=version.etag + "0"), extent),
        version_digest(key, replace(version, size_bytes=version.size_bytes * 10 + 1), extent),
        version_digest(
            key, replace(version, last_modified_s=(version.last_modified_s or 0) + 1), extent
        ),
    }
    assert len(names) == 7


@settings(deadline=None)
@given(KEYS, KEYS)
def test_two_assets_have_different_digests(one: str, other: str) -> None:
    assert (key_hash(one).digest == key_hash(other).digest) == (one == other)
