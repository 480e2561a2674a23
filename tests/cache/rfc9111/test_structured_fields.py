"""Parsing Dictionaries: RFC 8941 §3.2 and §4.2."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamedge.cache.rfc9111.structured_fields import (
    Member,
    Token,
    UnreadableFieldError,
    parse_dictionary,
)


@pytest.mark.parametrize(
    ("text", "members"),
    [
        ("", {}),
        ("  ", {}),
        ('en="Applepie", da=:w4ZibGV0w6ZydGU=:', {"en": "Applepie", "da": "Æbletærte".encode()}),
        ("a=?0, b, c; foo=bar", {"a": False, "b": True, "c": True}),  # §3.2's examples
        ("rating=1.5, feelings=(joy sadness)", {"rating": 1.5, "feelings": ["joy", "sadness"]}),
        ("a=(1 2), b=3, c=4;aa=bb, d=(5 6);valid", {"a": [1, 2], "b": 3, "c": 4, "d": [5, 6]}),
        ("a=-42,b=*tok/en:1", {"a": -42, "b": "*tok/en:1"}),
        ("a=999999999999999", {"a": 999999999999999}),
        (r'a="x, \"y\" \\"', {"a": r'x, "y" \ '.rstrip()}),
        ("a=1\t,\t b=2", {"a": 1, "b": 2}),
        ("a=1, a=2", {"a": 2}),
        ("a=( )", {"a": []}),
        ('a=("x";p=1 y; q);r="s"', {"a": ["x", "y"]}),
        ("a;x=1;y", {"a": True}),
    ],
)
def test_dictionary_gives_its_members(text: str, members: dict[str, Member]) -> None:
    assert parse_dictionary(text) == members


def test_token_differs_from_a_string() -> None:
    members = parse_dictionary('a=b, c="b"')
    assert isinstance(members["a"], Token)
    assert not isinstance(members["c"], Token)


@pytest.mark.parametrize(
    "text",
    [
        "A=1",
        "a=1,",
        ",a=1",
        "a=1,,b=2",
        "a=1 b=2",
        "a =1",
        "a= 1",
        "a=",
        "a=1, &&&&&",
        "a=1.",
        "a=1.2345",
        "a=1234567890123.1",
        "a=1000000000000000",
        "a=-",
        "a=--1",
        'a="x',
        'a="\\x"',
        'a="é"',
        'a="\x00"',
        "a=:x",
        "a=:x:",
        "a=?2",
        "a=(1",
        "a=(1,2)",
        'a=("x""y")',
        "a=(1 2)3",
        "a;",
        "a;=1",
        "a;b=",
        "a=@1",
        "\ta=1",
        "a=٣",
    ],
)
def test_syntax_error_makes_the_whole_field_unreadable(text: str) -> None:
    with pytest.raises(UnreadableFieldError):
        parse_dictionary(text)


@settings(deadline=None)
@given(st.one_of(st.text(max_size=100), st.text(alphabet='a=1?"\\:;,() .-*', max_size=100)))
def test_any_text_gives_a_dictionary_or_an_error(text: str) -> None:
    try:
        members = parse_dictionary(text)
    except UnreadableFieldError:
        return
    assert all(key and key == key.lower() for key in members)


@pytest.mark.parametrize("text", ['a="' + '\\"' * 50_000, "a" + ";b" * 50_000, '"' * 100_000])
def test_long_text_is_parsed_in_one_pass(text: str) -> None:
    try:
        members = parse_dictionary(text)
    except UnreadableFieldError:
        return
    assert members == {"a": True}
