"""No name leads outside an origin's prefix."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamedge.errors import OriginError, OriginFailure
from streamedge.origin.names import KEY_MAX_BYTES, object_key, object_path

UNRESERVED = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")

# Any string, and strings of the characters that matter.
NAMES = st.text() | st.lists(
    st.sampled_from(["..", ".", "", "a", "%2e%2e", "\\", "\0", "…", "..a", "\ud800"])
).map("/".join)


def path_or_failure(prefix: str, name: str) -> str | OriginFailure:
    try:
        return object_path(prefix, name)
    except OriginError as error:
        return error.failure


@pytest.mark.parametrize(
    ("prefix", "name", "path"),
    [
        ("", "dir/film.mp4", "dir/film.mp4"),
        ("media", "film.mp4", "media/film.mp4"),
        ("/media/tv/", "film.mp4", "media/tv/film.mp4"),
        ("", "a b", "a%20b"),
        ("", "a+b", "a%2Bb"),
        ("", "100%", "100%25"),
        ("", "a%2Fb", "a%252Fb"),
        ("", "~user", "~user"),
        ("", "a?b#c", "a%3Fb%23c"),
        ("", "été/☃", "%C3%A9t%C3%A9/%E2%98%83"),
        ("", "(1)*!'&=;:@,$", "%281%29%2A%21%27%26%3D%3B%3A%40%2C%24"),
        ("", "a//b", "a//b"),
        ("p", "/a", "p//a"),
        ("", "...", "..."),
        ("", "..a/b..", "..a/b.."),
        ("", "", ""),
        ("p", "", "p/"),
    ],
)
def test_name_is_encoded_as_a_path(prefix: str, name: str, path: str) -> None:
    assert object_path(prefix, name) == path


@pytest.mark.parametrize(
    ("prefix", "name"),
    [
        ("", ".."),
        ("", "../a"),
        ("", "a/.."),
        ("", "a/../b"),
        ("media", "../secret"),
        ("media", "/../secret"),
        ("media", "a//../../secret"),
        ("", "./a"),
        ("", "a/./b"),
        ("media/..", "a"),
        ("", "a\0b"),
        ("", "..\\a"),
        ("", "a\\b"),
        ("", "\udcff"),
        ("", "a" * (KEY_MAX_BYTES + 1)),
        ("", "é" * (KEY_MAX_BYTES // 2) + "a"),
        ("p", "a" * (KEY_MAX_BYTES - 1)),
    ],
)
def test_invalid_name_is_refused(prefix: str, name: str) -> None:
    with pytest.raises(OriginError) as caught:
        object_path(prefix, name)
    assert caught.value.failure is OriginFailure.NOT_FOUND
    assert str(caught.value).isascii()
    assert len(str(caught.value)) < 1000


def test_name_length_is_limited() -> None:
    assert object_key("p", "a" * (KEY_MAX_BYTES - 2)) == "p/" + "a" * (KEY_MAX_BYTES - 2)
    assert len(object_path("", "é" * (KEY_MAX_BYTES // 2))) == 6 * (KEY_MAX_BYTES // 2)


@given(st.sampled_from(["", "p", "a/b", "/x/"]), NAMES)
@example("p", "..")
def test_any_name_stays_below_its_prefix_or_is_not_found(prefix: str, name: str) -> None:
    path = path_or_failure(prefix, name)
    if isinstance(path, OriginFailure):
        assert path is OriginFailure.NOT_FOUND
        return
    folder = prefix.strip("/")
    assert path.startswith(folder)
    assert not {"..", "."} & set(path.split("/"))
    assert set(path) <= UNRESERVED | set("%/")
    assert unquote_to_bytes(path).decode() == (f"{folder}/{name}" if folder else name)
