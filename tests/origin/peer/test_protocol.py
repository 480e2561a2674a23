from __future__ import annotations

import base64
import json
import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.errors import OriginFailure
from streamedge.fleet.position import position_at
from streamedge.origin import Version
from streamedge.origin.peer import protocol
from streamedge.origin.peer.protocol import (
    DECODED_BYTES_MAX,
    ENCODED_BYTES_MAX,
    AssetDescription,
    PeerAnswer,
    PeerHeader,
    PeerRequest,
    decode_answer,
    decode_peer,
    decode_request,
    encode_answer,
    encode_peer,
    encode_request,
)

TEXTS = st.text(st.characters(), max_size=40)  # lone surrogates too: names may have them
SENT = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=40)
NAMES = st.text("abcXYZ-_09", min_size=1, max_size=64)
SECONDS = st.floats(0, allow_nan=False)
FIELDS = st.lists(
    st.tuples(
        st.text("abc-", min_size=1, max_size=10),
        st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=30),
    ),
    max_size=4,
).map(tuple)
VERSIONS = st.builds(
    Version,
    st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=30),
    st.integers(0, (1 << 62) - 1),
    st.none() | st.integers(0, 1 << 39),
)
RULES = st.tuples(
    SECONDS,
    SECONDS,
    SECONDS,
    SECONDS,
    st.booleans(),
    st.lists(st.tuples(st.integers(400, 599), SECONDS), max_size=3).map(tuple),
)
ASSETS = st.builds(
    AssetDescription,
    identity=TEXTS.filter(bool),
    origin_name=TEXTS,
    key=TEXTS.filter(bool),
    name=TEXTS,
    rules=RULES,
    parent_keys=st.lists(TEXTS, max_size=2).map(tuple),
    scope=TEXTS,
    target=TEXTS,
    tag_field=TEXTS,
    is_object=st.booleans(),
    directives=FIELDS,
)
REQUESTS = st.builds(
    PeerRequest,
    asset=ASSETS,
    method=st.sampled_from(["GET", "HEAD"]),
    path=SENT,
    query=SENT,
    fields=FIELDS,
    version=st.none() | VERSIONS,
    variant=TEXTS,
)
PLAIN = AssetDescription("id", "main", "2:id4:film", "film", (0.0, 1.0, 2.0, 3.0, False, ()))


@given(REQUESTS)
def test_request_is_read_as_it_was_written(request: PeerRequest) -> None:
    text = encode_request(request)
    assert text is not None
    assert text.isascii()
    assert text.isprintable()
    assert len(text) <= ENCODED_BYTES_MAX
    assert decode_request(text) == request


def test_long_names_fit_because_they_repeat() -> None:
    name = "films/" + "".join(f"{n:x}/" for n in range(2000))
    asset = AssetDescription("id", "main", f"2:id{name}", name, PLAIN.rules, target=f"/{name}")
    text = encode_request(PeerRequest(asset, path=name))
    assert text is not None
    assert len(text) < 2 * len(name)
    assert decode_request(text) == PeerRequest(asset, path=name)


def test_request_that_is_too_long_has_no_text() -> None:
    huge = base64.b64encode(random.Random(1).randbytes(40_000)).decode()
    assert encode_request(PeerRequest(PLAIN, query=huge)) is None
    assert encode_request(PeerRequest(PLAIN, query="a" * DECODED_BYTES_MAX)) is None


def test_compressed_text_that_grows_without_limit_is_refused() -> None:
    bomb = base64.b64encode(zlib.compress(b"[" * (64 << 20), 9)).decode()
    assert decode_request("deflate:" + bomb[: len(bomb)]) is None
    small = base64.b64encode(zlib.compress(b" " * (1 << 20), 9)).decode()
    assert len(small) < ENCODED_BYTES_MAX
    assert decode_request(f"deflate:{small}") is None


@given(st.text(max_size=300) | st.binary(max_size=200).map(lambda data: data.decode("latin-1")))
def test_any_text_is_a_request_or_none(text: str) -> None:
    for tried in (text, f"deflate:{text}"):
        request = decode_request(tried)
        assert request is None or isinstance(request, PeerRequest)


@given(REQUESTS, st.data())
def test_request_with_another_value_is_read_or_refused(
    request: PeerRequest, data: st.DataObject
) -> None:
    text = encode_request(request)
    assert text is not None
    if text.startswith("deflate:"):
        return
    values = json.loads(text)
    at = data.draw(st.integers(0, len(values) - 1))
    values[at] = data.draw(
        st.none() | st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=3)
    )
    changed = decode_request(json.dumps(values))
    assert changed is None or isinstance(changed, PeerRequest)


CRASHERS = (
    "",
    "[]",
    "{}",
    "[" * 5000,
    "deflate:",
    "deflate:AAAA",
    "deflate:\N{SNOWMAN}",
    '["a"]',
    "1e999",
    json.dumps([None] * 17),
    json.dumps([[]] * 17),
)


@pytest.mark.parametrize("text", CRASHERS)
def test_damaged_request_is_none(text: str) -> None:
    assert decode_request(text) is None


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (11, "POST"),
        (12, "a path"),
        (13, "a\nquery"),
        (14, [["name\r\n", "value"]]),
        (14, [["name", "value\r\nother: 1"]]),
        (15, ["etag\n", 1, None]),
        (15, ["etag", -1, None]),
        (15, ["etag", True, None]),
        (4, [0, 1, float("nan"), 3, False, []]),
        (4, [-1, 1, 2, 3, False, []]),
        (2, ""),
    ],
)
def test_request_that_could_split_a_message_is_refused(at: int, value: object) -> None:
    text = encode_request(PeerRequest(PLAIN))
    assert text is not None
    values = json.loads(text)
    values[at] = value
    assert decode_request(json.dumps(values)) is None


@given(NAMES, st.integers(0, 9999), st.integers(0, 1 << 20), st.booleans())
def test_header_is_read_as_it_was_written(
    edge: str, rank: int, sequence: int, is_cached_only: bool
) -> None:
    header = PeerHeader(edge, rank, position_at(3, sequence), is_cached_only)
    assert decode_peer(encode_peer(header)) == header


@given(st.text(max_size=100))
def test_any_text_is_a_header_or_none(text: str) -> None:
    header = decode_peer(text)
    assert header is None or encode_peer(header) == text or header.rank < 1000


@pytest.mark.parametrize(
    "text",
    [
        "",
        "edge=a; rank=0",
        "edge=; rank=0; need=1-1",
        "edge=a b; rank=0; need=1-1",
        f"edge={'a' * 65}; rank=0; need=1-1",
        "edge=a; rank=-1; need=1-1",
        "edge=a; rank=0; need=9999999-1",
        "edge=a; rank=0; need=1-1; cached; cached",
        "edge=a; rank=0; need=1-1\n",
    ],
)
def test_damaged_header_is_none(text: str) -> None:
    assert decode_peer(text) is None


@given(
    st.integers(0, 1 << 50),
    st.booleans(),
    st.none() | st.sampled_from(OriginFailure),
    st.floats(0, 1e10),
)
def test_answer_is_read_as_it_was_written(
    as_of: int, is_stale: bool, failure: OriginFailure | None, held_s: float
) -> None:
    answer = PeerAnswer(as_of, is_stale, failure, held_s)
    assert decode_answer(dict(encode_answer(answer))) == answer


def test_response_without_position_is_a_refusal() -> None:
    assert decode_answer({"streamedge-refused": "behind"}) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"streamedge-as-of": "x"},
        {"streamedge-as-of": "1-1", "streamedge-failure": "x"},
        {"streamedge-as-of": "1-1", "streamedge-held": "x"},
        {"streamedge-as-of": "1-1", "streamedge-held": "-1"},
        {"streamedge-as-of": "1-1", "streamedge-held": "nan"},
    ],
)
def test_damaged_answer_raises(fields: dict[str, str]) -> None:
    with pytest.raises(ValueError):
        decode_answer(fields)


def test_own_fields_are_removed_whatever_their_case() -> None:
    fields = [("StreamEdge-As-Of", "1-1"), ("etag", '"a"'), ("streamedge-x", "1")]
    assert protocol.without_own_fields(fields) == [("etag", '"a"')]
