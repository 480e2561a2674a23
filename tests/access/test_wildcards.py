"""CloudFront's wildcards: which resources a pattern matches, section by section."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.access.wildcards import compile_pattern, resource_matches

DOMAIN = "d111111abcdef8.cloudfront.net"


@pytest.mark.parametrize(
    ("pattern", "resource"),
    [
        # Developer Guide, "Wildcard characters": the pattern and its three objects.
        (f"http://{DOMAIN}/*game_download.zip*", f"http://{DOMAIN}/game_download.zip"),
        (
            f"http://{DOMAIN}/*game_download.zip*",
            f"http://{DOMAIN}/example_game_download.zip?license=yes",
        ),
        (
            f"http://{DOMAIN}/*game_download.zip*",
            f"http://{DOMAIN}/test_game_download.zip?license=temp",
        ),
        ("", f"https://{DOMAIN}/film.mp4"),
        ("*", f"https://{DOMAIN}/film.mp4?a=b"),
        ("*", "dir/film"),
        ("http*://a/b", "http://a/b"),
        ("http*://a/b", "https://a/b"),
        ("*://a/b", "https://a/b"),
        ("http?://a/b", "https://a/b"),
        ("https://*.example.com/b", "https://www.example.com/b"),
        ("https://a:8443/*", "https://a:8443/b"),
        ("https://*", "https://a/b?c=d"),
        ("https://a*", "https://abc/d?e"),
        ("https://a/*", "https://a/"),
        ("https://a/*", "https://a/b/c/d.ts?e=f?g"),
        ("https://a/*/film.mp4", "https://a/b/c/film.mp4"),
        ("https://a/film.mp?", "https://a/film.mp4"),
        # The question mark of a query: escaped, and as older policies wrote it.
        (r"https://a/b\?size=large", "https://a/b?size=large"),
        ("https://a/b?size=large", "https://a/b?size=large"),
        (r"https://a/b\?*", "https://a/b?size=large"),
        (r"https://a/*\?size=*", "https://a/b/c?size=large"),
        (r"https://a/b\?u=*&v=2", "https://a/b?u=http://x/?y&v=2"),
        ("*a/b", "http://cdn.a/b"),
        ("*/videos/*", "https://a/videos/b"),
        ("*.mp4", "https://a/videos/b.mp4"),
        # Streams' names.
        ("dir/film", "dir/film"),
        ("dir/*", "dir/film.mp4?color=red"),
        ("*film.mp4", "dir/film.mp4"),
        (r"dir/film\?color=red", "dir/film?color=red"),
        ("dir/film?ref=http://x/*", "dir/film?ref=http://x/y"),
        ("rtmp://a/cfx/st/*", "rtmp://a/cfx/st/dir/film"),
        ("dir/fílm?", "dir/fílm4"),
    ],
)
def test_pattern_matches_resource(pattern: str, resource: str) -> None:
    assert resource_matches(pattern, resource)


@pytest.mark.parametrize(
    ("pattern", "resource"),
    [
        ("https://a/b", "http://a/b"),
        ("https://a/b", "https://a/B"),
        ("https://a/b", "https://A/b"),
        ("https://a/*", "HTTPS://a/b"),
        ("https://a/b", "https://a/bc"),
        ("https://a/b", "https://a/b?c=d"),
        ("https://a/b/", "https://a/b"),
        # A star ends where its section ends.
        ("https://*/film.mp4", "https://a/b/film.mp4"),
        ("*://film.mp4", "https://a/b://film.mp4"),
        ("https://*.example.com/b", "https://evil/x.example.com/b"),
        ("https://a/*.mp4", "https://a/secret?b.mp4"),
        (r"https://a/b*\?size=large", "https://a/bc"),
        (r"https://a/b\?size=large", "https://axb?size=large"),
        (r"https://a/b\?size=large", "https://a/bxsize=large"),
        (r"https://a/b\?*", "https://a/b"),
        ("https://a/film.mp?", "https://a/film.mp"),
        ("https://a/film.mp?", "https://a/film.mp44"),
        ("https://a/x", "https://ab/x"),
        ("https://a/*/*/c", "https://a/b/c"),
        ("*a/b", "http://a/c/b"),
        # A URL is no stream's name, and a name no URL.
        ("https://a/*", "a/b"),
        ("a/*", "https://a/b"),
        ("dir/film", "dir/film2"),
        ("dir/film", "/dir/film"),
    ],
)
def test_pattern_does_not_match_resource(pattern: str, resource: str) -> None:
    assert not resource_matches(pattern, resource)


SMALL = st.text(alphabet="ab/*?", max_size=12)


@given(pattern=SMALL, text=st.text(alphabet="ab/", max_size=12))
def test_section_matches_like_a_regular_expression(pattern: str, text: str) -> None:
    expression = "".join({"*": ".*", "?": "."}.get(each, re.escape(each)) for each in pattern)
    expected = re.fullmatch(expression, text) is not None
    assert resource_matches(f"https://h/{pattern}", f"https://h/{text}") is expected
    assert resource_matches("x" + pattern, "x" + text) is expected


@given(pattern=SMALL, text=st.text(alphabet="ab/?", max_size=12))
def test_only_a_final_star_matches_into_the_query(pattern: str, text: str) -> None:
    def expression_of(index: int, symbol: str) -> str:
        if symbol == "*":
            return "[^?]*" if index < len(pattern.rstrip("*")) else ".*"
        return "." if symbol == "?" else re.escape(symbol)

    path, mark, query = text.partition("?")
    # Further question marks of the query are ordinary characters.
    special = path + mark + query.replace("?", "_")
    expression = "".join(expression_of(index, symbol) for index, symbol in enumerate(pattern))
    expected = re.fullmatch(expression, special) is not None
    assert resource_matches(f"https://h/{pattern}", f"https://h/{text}") is expected


@given(st.text(max_size=80), st.text(max_size=80))
def test_any_pattern_and_any_text_give_a_result(pattern: str, resource: str) -> None:
    assert resource_matches(pattern, resource) in {True, False}


def test_hostile_pattern_takes_linear_time() -> None:
    """A backtracking matcher would not end within the test's timeout."""
    text = "https://a/" + "a" * 8_000
    for pattern in ("https://a/" + "*a" * 2_000 + "b", "https://a/" + "*?" * 2_000 + "b"):
        assert not compile_pattern(pattern).match(text)
