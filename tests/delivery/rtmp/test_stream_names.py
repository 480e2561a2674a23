"""streamedge/delivery/rtmp/names.py: the spellings of applications and streams."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.delivery.rtmp.names import (
    ApplicationMatch,
    StreamName,
    candidates,
    known_extension,
    match_application,
    split_stream_name,
    usual_prefix,
)

CONFIGURED = ("cfx/st", "vod", "vod/extra")


@pytest.mark.parametrize(
    ("app", "found"),
    [
        ("cfx/st", ("cfx/st", "")),
        ("cfx/st/", ("cfx/st", "")),
        ("/cfx/st", ("cfx/st", "")),
        ("cfx/st/_definst_", ("cfx/st", "")),
        ("cfx/st/_definst_/dir", ("cfx/st", "dir")),
        ("cfx/st/dir/sub", ("cfx/st", "dir/sub")),
        ("vod?token=a/b", ("vod", "")),
        ("vod/dir?x", ("vod", "dir")),
        ("vod/extra", ("vod/extra", "")),
        ("vod/extra/dir", ("vod/extra", "dir")),
        ("vod/extras", ("vod", "extras")),
    ],
)
def test_applications(app: str, found: tuple[str, str]) -> None:
    assert match_application(app, CONFIGURED) == ApplicationMatch(*found)


@pytest.mark.parametrize("app", ["", "/", "cfx", "cfx/stx", "VOD", "live", "xcfx/st", "?vod"])
def test_other_applications(app: str) -> None:
    assert match_application(app, CONFIGURED) is None


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("film", ("", "film", "")),
        ("mp4:film", ("mp4", "film", "")),
        ("MP4:film.mp4", ("mp4", "film.mp4", "")),
        ("mp3:a/b", ("mp3", "a/b", "")),
        ("flv:a", ("flv", "a", "")),
        ("odd:a", ("", "odd:a", "")),
        (":a", ("", ":a", "")),
        ("mp4:a?Expires=1&Signature=x?y", ("mp4", "a", "Expires=1&Signature=x?y")),
        ("a%3FExpires%3D1%26b%3dc", ("", "a", "Expires=1&b=c")),
        ("a%3f", ("", "a", "")),
        ("mp4%3Adir%2Fa%3FExpires%3D1%26b%3dc", ("mp4", "dir%2Fa", "Expires=1&b=c")),
        ("mp4:a?Expires%3D1%26b%3dc", ("mp4", "a", "Expires=1&b=c")),
        ("a?b=c%3Dd", ("", "a", "b=c%3Dd")),
        ("a?b%3Fc", ("", "a", "b%3Fc")),
        ("", ("", "", "")),
    ],
)
def test_taking_names_apart(name: str, parsed: tuple[str, str, str]) -> None:
    assert split_stream_name(name) == StreamName(*parsed)


@pytest.mark.parametrize(
    ("name", "folder", "objects"),
    [
        ("dir/film.mp4", "", ["dir/film.mp4"]),
        ("mp4:dir/film.mp4", "", ["dir/film.mp4"]),
        ("mp4:dir/film.flv", "", ["dir/film.flv"]),
        ("mp4:film", "dir", ["dir/film.mp4", "dir/film", "dir/film.m4a", "dir/film.mov",
                             "dir/film.m4v", "dir/film.f4v"]),
        ("film", "dir", ["dir/film.flv", "dir/film", "dir/film.mp4", "dir/film.mp3"]),
        ("flv:film", "", ["film.flv", "film"]),
        ("mp3:song", "", ["song.mp3", "song"]),
        ("mp3:song.mp3", "", ["song.mp3"]),
        ("FILM.MP4", "", ["FILM.MP4"]),
        ("/film.mp4", "dir", ["dir/film.mp4"]),
        ("film%20one.mp4?a=b", "", ["film one.mp4"]),
        ("%C3%A9t%C3%A9.flv", "", ["été.flv"]),
        ("été.flv", "", ["été.flv"]),
        ("version.2", "", ["version.2.flv", "version.2", "version.2.mp4", "version.2.mp3"]),
    ],
)  # fmt: skip
def test_objects_that_a_name_may_mean(name: str, folder: str, objects: list[str]) -> None:
    assert candidates(name, folder) == objects


@pytest.mark.parametrize(
    ("path", "extension", "prefix"),
    [
        ("dir/film.mp4", "mp4", "mp4"),
        ("film.F4V", "f4v", "mp4"),
        ("film.flv", "flv", "flv"),
        ("song.mp3", "mp3", "mp3"),
        ("film.3gp", "3gp", ""),
        ("film", "", ""),
        ("dir.mp4/film", "", ""),
        ("version.2", "", ""),
        ("", "", ""),
    ],
)
def test_extensions_and_their_prefixes(path: str, extension: str, prefix: str) -> None:
    assert known_extension(path) == extension
    assert usual_prefix(extension) == prefix


@pytest.mark.parametrize(
    "name",
    [
        "", "mp4:", "?a", "../film.mp4", "a/../film.mp4", "a/./b", "%2e%2e/film", "a%00b.mp4",
        "a\0b", "a\\b.mp4", "a%5cb.mp4", "x" * 1025, "é" * 600, "%ff.mp4",
    ],
)  # fmt: skip
def test_what_is_no_name(name: str) -> None:
    assert candidates(name) == []


def test_a_folder_cannot_lead_out_either() -> None:
    assert candidates("film.mp4", "..") == []
    assert candidates("film.mp4", "a/../..") == []


@given(name=st.text(max_size=60), folder=st.text(max_size=20))
def test_no_name_leads_out_of_the_origin(name: str, folder: str) -> None:
    for found in candidates(name, folder):
        assert ".." not in found.split("/")
        assert "\0" not in found
        assert not found.startswith("/") or folder.startswith("/") or "//" in found or "%2" in name
