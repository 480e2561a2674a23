"""A head that is filled is the one that is built for the same fields of the origin."""

from __future__ import annotations

from hypothesis import assume, given
from hypothesis import strategies as st

from streamedge.cache.reader import CacheResult
from streamedge.delivery.http.http1.encoding import encode_head
from streamedge.delivery.http.policy.response_headers import CorsPolicy, ResponseHeadersPolicy
from streamedge.delivery.http.response.build import passed_fields
from streamedge.delivery.http.response.remembered_pass import (
    LENGTH_MARK,
    RememberedPass,
    marked_fields,
)
from streamedge.delivery.http.response.response import (
    ResponseContext,
    ResponseHead,
    response_fields,
)
from streamedge.origin import Fields, VariedFields
from streamedge.origin.http_client.head_templates import parse_repeated_head

POLICIES = (
    ResponseHeadersPolicy(),
    ResponseHeadersPolicy(removed=frozenset({"x-id"}), replaced=(("etag", "own"),)),
    ResponseHeadersPolicy(added=(("X-Id", "added"),), cors=CorsPolicy(("*",), ("GET",))),
)
LINES = ("ETag", "X-Id", "Set-Cookie", "set-cookie", "X-Cache", "X-Amz-Id-2", "Last-Modified")
CONNECTIONS = ("Connection: keep-alive", "Connection: x-id", "Vary: x-id, accept")
VALUE = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"))


def build(fields: Fields, length: str, policy: ResponseHeadersPolicy) -> ResponseHead:
    context = ResponseContext("e", 5.5, CacheResult.MISS, "c%d", policy, origin_field="https://a")
    return ResponseHead(
        200,
        [("content-length", length), *response_fields(passed_fields(fields), None, context)],
    )


def origin_fields(names: list[str], values: list[str], line: str, size: int) -> Fields:
    lines = [f"{name}: {value}" for name, value in zip(names, values, strict=True)]
    text = "\r\n".join(["HTTP/1.1 200 OK", line, f"Content-Length: {size}", *lines, "", ""])
    return parse_repeated_head(text.encode("latin-1"), "GET").fields


@given(
    st.lists(st.sampled_from(LINES), max_size=5),
    st.data(),
    st.sampled_from(POLICIES),
    st.sampled_from(CONNECTIONS),
)
def test_filled_head_is_the_one_that_is_built(
    names: list[str], data: st.DataObject, policy: ResponseHeadersPolicy, line: str
) -> None:
    def draw_fields(size: int) -> Fields:
        values = [data.draw(VALUE) for _name in names]
        return origin_fields(names, values, line, size)

    first, second = draw_fields(1000), draw_fields(7)
    assert isinstance(first, VariedFields)
    assume(isinstance(second, VariedFields))
    marked = build(marked_fields(first), LENGTH_MARK, policy)
    remembered = RememberedPass(first, 5.5, marked, encode_head, CacheResult.MISS, None, "")
    assert remembered.holds(second, 5.9)
    assert not remembered.holds(second, 6.0)
    for fields, size in ((second, 7), (second, 7), (first, 1000)):
        built = build(fields, str(size), policy)
        head, encoded = remembered.fill(fields, size)
        assert head == built
        assert encoded == encode_head(built)
