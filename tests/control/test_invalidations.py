"""Items of invalidations: parsing, and the targets that they match."""

from __future__ import annotations

import re
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.control.invalidations import (
    EVERYTHING,
    ITEM_CHARACTERS_MAX,
    TAG_CHARACTERS_MAX,
    TAGS_MAX,
    Item,
    ItemError,
    ItemKind,
    comparable,
    matches_pieces,
    parse_item,
    tags_of,
    target_of,
    with_root_object,
)


def matches(item: Item, target: str) -> bool:
    """Whether an item other than a tag matches a target."""
    if item.kind is ItemKind.WILDCARD:
        return matches_pieces(item.pieces, comparable(target))
    return item.kind is ItemKind.EVERYTHING or item.text == comparable(target)


# Forms: CloudFront Developer Guide, "Specifying the files to invalidate". Only this edge allows a
# star before the end.
@pytest.mark.parametrize(
    ("item", "target", "is_match"),
    [
        ("/images/image1.jpg", "/images/image1.jpg", True),
        ("/images/image1.jpg", "/images/image1.JPG", False),
        ("/images/image1.jpg", "/images/image1.jpg?v=1", False),
        ("/images/image1.jpg?v=1", "/images/image1.jpg?v=1", True),
        ("/images/image1.jpg?v=1", "/images/image1.jpg", False),
        ("/images/image1.jpg?v=1", "/images/image1.jpg?v=2", False),
        ("/images/image1.jpg*", "/images/image1.jpg?v=2", True),
        ("/images/image1.jpg*", "/images/image1.jpg", True),
        ("/images/*", "/images/", True),
        ("/images/*", "/images/deep/image.jpg?v=1", True),
        ("/images/*", "/image", False),
        ("/images/image*", "/images/image1.jpg", True),
        ("/*", "/", True),
        ("/*", "/any?thing", True),
        ("/*/", "/a/b/", True),
        ("/*/", "/", False),
        ("/*.jpg", "/a/b.jpg", True),
        ("/*.jpg", "/a/b.jpg?v=1", False),
        ("/*.jpg*", "/a/b.jpg?v=1", True),
        ("/pa*th*", "/path", True),
        ("/pa*th*", "/pa/other/th/more", True),
        ("/pa*th*", "/pat", False),
        ("/a*a", "/a", False),
        ("/a*a", "/aa", True),
        ("/ab*ba*ab", "/abbab", False),
        ("/ab*ba*ab", "/abbaab", True),
        ("/", "/", True),
        ("/", "/index.html", False),
        # Percent-encoding is decoded once, as in requests.
        ("/caf%C3%A9.txt", "/café.txt", True),
        ("/café.txt", "/café.txt", True),
        ("/a%20b", "/a b", True),
        ("/a%2520b", "/a b", False),
        ("/a%2Ab", "/a*b", True),
        ("/a%2Ab", "/axb", False),
        ("/a%2A*", "/a*b", True),
        ("/a%2A*", "/axb", False),
        ("/a%3Fb", target_of("a?b"), True),
        ("/a%3Fb", "/a?b", False),
        ("/a?b", target_of("a?b"), False),
        ("/a%3F*", target_of("a?b", "v=1"), True),
        ("/a%3Fb?v=1", target_of("a?b", "v=1"), True),
        ("/a*", target_of("a?b"), True),
        ("/50%2520off", target_of("50%20off"), True),
        ("/50%20off", target_of("50%20off"), False),
        ("/50%20off", target_of("50 off"), True),
        ("/100%25", target_of("100%"), True),
        ("/*25", target_of("100%"), False),
        ("/f?q=a%3Fb", target_of("f", "q=a?b"), True),
        ("/f?q=a?b", target_of("f", "q=a%3Fb"), True),
        ("/*?b", target_of("f", "q=a?b"), True),
        ("/f?q=a%26b", "/f?q=a&b", True),
        ("/f?q=a&b", "/f?q=a%26b", True),
    ],
)
def test_item_matches_targets(item: str, target: str, is_match: bool) -> None:
    assert matches(parse_item(item), target) is is_match


@pytest.mark.parametrize("text", ["/*", "/**", "/***"])
def test_only_stars_match_everything(text: str) -> None:
    assert parse_item(text) == Item(ItemKind.EVERYTHING, EVERYTHING)


def test_adjacent_stars_are_one_star() -> None:
    assert parse_item("/a**b***c") == parse_item("/a*b*c")


def test_tag_is_case_insensitive() -> None:
    assert parse_item("#News") == Item(ItemKind.TAG, "news")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "begins with"),
        ("a", "begins with"),
        ("*", "begins with"),
        ("https://www.example.com/a", "begins with"),
        ("/a b", "space"),
        ("/a\n", "space"),
        ("/a\0", "space"),
        ("/a%", "hexadecimal"),
        ("/a%2", "hexadecimal"),
        ("/a%zz", "hexadecimal"),
        ("/" + "a" * ITEM_CHARACTERS_MAX, "longer"),
        ("#", "tag"),
        ("#a,b", "tag"),
        ("#a b", "tag"),
        ("#" + "a" * (TAG_CHARACTERS_MAX + 1), "tag"),
    ],
)
def test_invalid_item_is_refused_with_a_reason(text: str, reason: str) -> None:
    with pytest.raises(ItemError, match=reason):
        parse_item(text)


@given(st.text(max_size=60))
def test_any_text_parses_or_raises_item_error(text: str) -> None:
    for candidate in (text, f"/{text}", f"#{text}"):
        try:
            parse_item(candidate)
        except ItemError:
            continue


LETTERS = st.text("ab/?*", max_size=14)


@given(LETTERS, st.text("ab/?", max_size=20))
def test_wildcard_matches_like_a_regular_expression(pattern: str, target: str) -> None:
    item = parse_item(f"/{pattern}")
    expression = re.escape(f"/{pattern}").replace(r"\*", ".*")
    assert matches(item, f"/{target}") is bool(re.fullmatch(expression, f"/{target}", re.DOTALL))


@given(st.text("a%?*2530F", min_size=1, max_size=12))
def test_percent_encoded_name_matches_its_target(name: str) -> None:
    assert matches(parse_item("/" + quote(name)), target_of(name))
    assert not matches(parse_item("/" + quote(name)), target_of(name, "v=1"))
    assert matches(parse_item(f"/{quote(name)}?*"), target_of(name, "v=1"))


def test_matching_takes_one_pass_over_the_target() -> None:
    # A matcher with backtracking would not end within the test's timeout.
    item = parse_item("/" + "*a" * 1500 + "*b")
    assert not matches(item, "/" + "a" * 100_000)
    assert matches(item, "/" + "a" * 100_000 + "b")


@given(st.lists(st.text("ab,# \t", max_size=12), max_size=4))
def test_tags_are_separated_by_commas(values: list[str]) -> None:
    words = {word.strip().lower() for word in ",".join(values).split(",")} - {""}
    assert tags_of(values) == words


def test_tags_of_one_response_are_limited() -> None:
    assert len(tags_of([",".join(map(str, range(10 * TAGS_MAX)))])) == TAGS_MAX


def test_slash_adds_the_root_object() -> None:
    assert with_root_object(["/", "/a"], "in dex.html") == ("/", "/a", "/in%20dex.html")
    assert with_root_object(["/a"], "index.html") == ("/a",)
    assert with_root_object(["/"], "") == ("/",)
