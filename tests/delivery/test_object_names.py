"""Names that viewers spell: decoded once, and never a way out of the origin's prefix."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.delivery.object_names import NAME_BYTES_MAX, object_name

NEVER = "".join(map(chr, range(32))) + "\x7f\\"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (b"/film.mp4", "film.mp4"),
        (b"film.mp4", "film.mp4"),
        (b"/dir/film.mp4", "dir/film.mp4"),
        (b"/a%20b%2Bc", "a b+c"),
        (b"/a+b", "a+b"),
        (b"/%C3%A9t%C3%A9.mp4", "été.mp4"),
        (b"/a%252e", "a%2e"),  # decoded exactly once
        (b"/%252e%252e/secret", "%2e%2e/secret"),
        (b"/a%2Fb", "a/b"),
        (b"/...", "..."),
        (b"/..a/b..", "..a/b.."),
        (b"//a", "/a"),
        (b"/a//b", "a//b"),
        (b"/dir/", "dir/"),
        (b"/100%", "100%"),
        (b"/%zz", "%zz"),
        ("/film.mp4", "film.mp4"),
    ],
)
def test_object_name_is_the_decoded_path(path: bytes | str, name: str) -> None:
    assert object_name(path) == name


@pytest.mark.parametrize(
    "path",
    [
        b"",
        b"/",
        b"/..",
        b"/.",
        b"/../secret",
        b"/a/../../secret",
        b"/a/..",
        b"/a/./b",
        b"/%2e%2e/secret",
        b"/%2E%2e/secret",
        b"/.%2e/secret",
        b"/%2e",
        b"/a%2f..%2fb",
        b"/%2f../secret",
        b"/a%2f%2e%2e",
        b"/..%2fsecret",
        b"/a%00b",
        b"/a%0Ab",
        b"/a%0db",
        b"/a%7F",
        b"/%1f",
        b"/a\tb",
        b"/a\0b",
        b"/a\\b",
        b"/..\\secret",
        b"/%5c..%5csecret",
        b"/%ff",
        b"/%c0%ae%c0%ae/secret",  # overlong UTF-8 for ".."
        b"/%ed%a0%80",  # a surrogate
    ],
)
def test_path_without_an_object_name_is_refused(path: bytes) -> None:
    assert object_name(path) is None


def test_name_limit_counts_decoded_bytes() -> None:
    assert object_name("/" + "a" * NAME_BYTES_MAX) == "a" * NAME_BYTES_MAX
    assert object_name("/" + "a" * (NAME_BYTES_MAX + 1)) is None
    assert object_name("/" + "%C3%A9" * (NAME_BYTES_MAX // 2)) == "é" * (NAME_BYTES_MAX // 2)
    assert object_name("/" + "é" * (NAME_BYTES_MAX // 2 + 1)) is None


@given(st.binary(max_size=2048))
def test_any_path_gives_a_harmless_name_or_none(path: bytes) -> None:
    name = object_name(path)
    if name is not None:
        assert 0 < len(name.encode()) <= NAME_BYTES_MAX
        assert not {"..", "."} & set(name.split("/"))
        assert set(NEVER).isdisjoint(name)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters=NEVER), min_size=1))
def test_every_name_has_a_path(name: str) -> None:
    refused = len(name.encode()) > NAME_BYTES_MAX or {"..", "."} & set(name.split("/"))
    assert object_name("/" + quote(name)) == (None if refused else name)
