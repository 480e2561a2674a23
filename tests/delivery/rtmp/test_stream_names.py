"""streamedge/delivery/rtmp/stream_names.py: how players split a URL, and what the parts mean.

The splits were observed in FFmpeg 5.1, rtmpdump 2.4, GStreamer 1.22's rtmpsrc and rtmp2src, and
nginx-rtmp 1.2.2; JW Player 6 splits before a prefix, or else at the last slash.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.delivery.rtmp.stream_names import (
    ApplicationMatch,
    StreamName,
    candidates,
    choose_application,
    known_extension,
    split_stream_name,
    stream_names,
    usual_prefix,
)

MEDIA_EXTENSIONS = ("mp4", "mov", "flv", "mp3", "mkv", "mka", "webm", "ts", "m2ts", "mts", "aac")
CONFIGURED = ("cfx/st", "vod", "vod/extra")
HOST = "rtmp://edge.example:1935"


def chosen(app: str, tc_url: str = "", *offers: tuple[str, ...]) -> ApplicationMatch | None:
    choice = choose_application(app, tc_url, offers or [CONFIGURED])
    return None if choice is None else choice[1]


def parts_of(
    app: str, name: str, tc_url: str = "", *offers: tuple[str, ...]
) -> tuple[str, list[str], str]:
    """The application, objects and query of a client's connect and play."""
    match = chosen(app, tc_url or f"{HOST}/{app}", *offers)
    assert match is not None
    streams = stream_names(match, name)
    objects = [each for stream in streams for each in candidates(stream)]
    assert len({stream.query for stream in streams}) == 1
    return match.application, objects, streams[0].query


# The application


@pytest.mark.parametrize(
    ("app", "choice"),
    [
        ("cfx/st", ("cfx/st", "")),
        ("cfx/st/", ("cfx/st", "")),
        ("/cfx/st", ("cfx/st", "")),
        ("cfx/st/_definst_", ("cfx/st", "")),
        ("cfx/st/_definst_/dir", ("cfx/st", "dir")),
        ("cfx/st/dir/_definst_", ("cfx/st", "dir/_definst_")),
        ("cfx/st/dir/sub", ("cfx/st", "dir/sub")),
        ("cfx/st//mp4:dir", ("cfx/st", "mp4:dir")),
        ("vod?token=a/b", ("vod", "")),
        ("vod/dir?x", ("vod", "dir")),
        ("vod/extra", ("vod/extra", "")),
        ("vod/extra/dir", ("vod/extra", "dir")),
        ("vod/extras", ("vod", "extras")),
    ],
)
def test_application_named_in_full_is_chosen(app: str, choice: tuple[str, str]) -> None:
    match = chosen(app)
    assert match is not None
    assert (match.application, match.folder, match.missing) == (*choice, "")


@pytest.mark.parametrize(
    "app", ["", "/", "cfx/stx", "cf", "cfx/s", "VOD", "live", "xcfx/st", "?vod", "st"]
)
def test_unknown_application_is_not_chosen(app: str) -> None:
    assert chosen(app) is None
    assert chosen(app, f"{HOST}/{app}") is None


@pytest.mark.parametrize(
    ("app", "tc_url", "choice"),
    [
        ("cfx", "/cfx/st", ("cfx/st", "", "st")),
        ("cfx", "/cfx/st/", ("cfx/st", "", "st")),
        ("cfx", "/cfx/st?token=a", ("cfx/st", "", "st")),
        ("cfx", "/cfx/st/_definst_", ("cfx/st", "", "st")),
        ("cfx", "/cfx/st/dir", ("cfx/st", "dir", "st")),
        ("", "/vod", ("vod", "", "vod")),
        ("cfx/st", "/vod", ("cfx/st", "", "")),
        ("vod", "/vod/extra", ("vod", "", "")),
    ],
)
def test_application_completed_by_the_url_is_chosen(
    app: str, tc_url: str, choice: tuple[str, str, str]
) -> None:
    match = chosen(app, HOST + tc_url)
    assert match is not None
    assert (match.application, match.folder, match.missing) == choice


@pytest.mark.parametrize("tc_url", ["/vod", "/vod/cfx/st", "/st/cfx", "", "/cfx/other"])
def test_url_of_another_application_completes_nothing(tc_url: str) -> None:
    assert chosen("cfx/other", HOST + tc_url) is None
    assert chosen("live", HOST + tc_url) is None


def test_beginning_of_only_one_application_selects_it() -> None:
    assert chosen("cfx", f"{HOST}/cfx") == ApplicationMatch("cfx/st", missing="st")
    assert chosen("cfx") == ApplicationMatch("cfx/st", missing="st")
    assert chosen("a/b", "", ("a/b/c/d", "a")) == ApplicationMatch("a", folder="b")
    assert chosen("a/b", "", ("a/b/c/d",)) == ApplicationMatch("a/b/c/d", missing="c/d")

    assert choose_application("cfx", "", [("vod",), ("cfx/st",), ("cfx/st",)]) == (
        1,
        ApplicationMatch("cfx/st", missing="st"),
    )


@pytest.mark.parametrize("offers", [(("cfx/st", "cfx/live"),), (("cfx/st",), ("cfx/live",))])
def test_beginning_of_several_applications_selects_none(
    offers: tuple[tuple[str, ...], ...],
) -> None:
    assert chosen("cfx", f"{HOST}/cfx", *offers) is None
    assert choose_application("cfx", f"{HOST}/cfx/st", offers) == (
        0,
        ApplicationMatch("cfx/st", missing="st"),
    )


def test_first_listed_application_named_in_full_is_chosen() -> None:
    assert choose_application("vod/dir", "", [["cfx/st"], ["vod"], ["vod/dir"]]) == (
        1,
        ApplicationMatch("vod", "dir"),
    )


# The name


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("film", ("", "film", "")),
        ("mp4:film", ("mp4", "film", "")),
        ("MP4:film.mp4", ("mp4", "film.mp4", "")),
        ("mp4:film.mp4/", ("mp4", "film.mp4", "")),
        ("mp3:a/b", ("mp3", "a/b", "")),
        ("flv:a", ("flv", "a", "")),
        ("odd:a", ("", "odd:a", "")),
        (":a", ("", ":a", "")),
        ("mp4:mp4%3Aa", ("mp4", "a", "")),
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
def test_name_is_split(name: str, parsed: tuple[str, str, str]) -> None:
    assert split_stream_name(name) == StreamName(*parsed)


def test_positions_of_prefix_and_instance_are_parsed() -> None:
    assert split_stream_name("dir/mp4:a") == StreamName("mp4", "dir/a", "", has_inner_prefix=True)
    assert split_stream_name("flv:dir/mp4:a") == StreamName(
        "mp4", "dir/a", "", has_inner_prefix=True
    )
    assert split_stream_name("_definst_/mp4:dir/a") == StreamName(
        "mp4", "dir/a", "", has_instance=True
    )
    assert split_stream_name("dir/_definst_/a").path == "dir/_definst_/a"


def objects(name: str, folder: str = "") -> list[str]:
    (stream,) = stream_names(ApplicationMatch("cfx/st", folder), name)
    return candidates(stream)


@pytest.mark.parametrize(
    ("name", "folder", "choice"),
    [
        ("dir/film.mp4", "", ["dir/film.mp4"]),
        ("mp4:dir/film.mp4", "", ["dir/film.mp4"]),
        ("mp4:dir/film.flv", "", ["dir/film.flv", "dir/film.flv.mp4"]),
        ("mp4:film", "dir", ["dir/film.mp4", "dir/film", "dir/film.m4a", "dir/film.mov",
                             "dir/film.m4v", "dir/film.f4v"]),
        ("film", "dir", ["dir/film.flv", "dir/film", "dir/film.mp4", "dir/film.mp3"]),
        ("film", "flv:dir", ["dir/film.flv", "dir/film"]),
        ("flv:film", "", ["film.flv", "film"]),
        ("mp3:song", "", ["song.mp3", "song"]),
        ("mp3:song.mp3", "", ["song.mp3"]),
        ("FILM.MP4", "", ["FILM.MP4"]),
        *((f"film.{each}", "", [f"film.{each}"]) for each in MEDIA_EXTENSIONS),
        ("/film.mp4", "dir", ["dir/film.mp4"]),
        ("film%20one.mp4?a=b", "", ["film one.mp4"]),
        ("%C3%A9t%C3%A9.flv", "", ["été.flv"]),
        ("été.flv", "", ["été.flv"]),
        ("version.2", "", ["version.2.flv", "version.2", "version.2.mp4", "version.2.mp3"]),
    ],
)  # fmt: skip
def test_name_means_its_candidate_objects(name: str, folder: str, choice: list[str]) -> None:
    assert objects(name, folder) == choice


@pytest.mark.parametrize(
    ("path", "extension", "prefix"),
    [
        ("dir/film.mp4", "mp4", "mp4"),
        ("film.F4V", "f4v", "mp4"),
        ("film.flv", "flv", "flv"),
        ("song.mp3", "mp3", "mp3"),
        ("film.3gp", "3gp", ""),
        ("film.mkv", "mkv", ""),
        ("film.TS", "ts", ""),
        ("film", "", ""),
        ("dir.mp4/film", "", ""),
        ("version.2", "", ""),
        ("", "", ""),
    ],
)
def test_extension_has_its_usual_prefix(path: str, extension: str, prefix: str) -> None:
    assert known_extension(path) == extension
    assert usual_prefix(extension) == prefix


@pytest.mark.parametrize(
    "name",
    [
        "", "mp4:", "?a", "../film.mp4", "a/../film.mp4", "a/./b", "%2e%2e/film", "a%00b.mp4",
        "a\0b", "a\\b.mp4", "a%5cb.mp4", "x" * 1025, "é" * 600, "%ff.mp4", "mp4:../film.mp4",
        "a/mp4:../b.mp4", "mp4:.", "a\x01b.mp4", "a%0ab.mp4", "mp4:a%0d", "a\x7f.flv",
        "_definst_/../film.mp4",
    ],
)  # fmt: skip
def test_invalid_name_means_no_object(name: str) -> None:
    assert objects(name) == []


def test_folder_of_an_application_cannot_lead_out() -> None:
    for folder in ("..", "a/../..", "mp4:..", "_definst_/.."):
        assert objects("film.mp4", folder) == []


# Whole URLs, as players split them


@pytest.mark.parametrize(
    ("app", "name", "choice"),
    [
        # rtmp://HOST/cfx/st/mp4:dir/film.mp4
        ("cfx/st", "mp4:dir/film.mp4", "dir/film.mp4"),  # FFmpeg, mpv, VLC
        ("cfx/st/mp4:dir", "mp4:film", "dir/film.mp4"),  # rtmpdump, rtmpsrc
        ("cfx/st/mp4:dir", "film.mp4", "dir/film.mp4"),  # rtmp2src
        ("cfx/st/", "mp4:dir/film.mp4", "dir/film.mp4"),  # JW Player
        ("cfx", "st/mp4:dir/film.mp4", "dir/film.mp4"),  # nginx-rtmp
        ("cfx", "mp4:dir/film.mp4", "dir/film.mp4"),  # rtmpdump -r .../cfx/st -y NAME
        # rtmp://HOST/cfx/st/mp4:dir/sub/film.mp4
        ("cfx/st/mp4:dir", "mp4:sub/film", "dir/sub/film.mp4"),
        ("cfx/st/mp4:dir/sub", "film.mp4", "dir/sub/film.mp4"),
        ("vod/mp4:dir/sub", "mp4:film", "dir/sub/film.mp4"),
        # rtmp://HOST/cfx/st/dir/sub/film.mp4
        ("cfx/st", "mp4:dir/sub/film.mp4", "dir/sub/film.mp4"),
        ("cfx/st/dir", "mp4:sub/film", "dir/sub/film.mp4"),
        ("cfx/st/dir/sub", "film.mp4", "dir/sub/film.mp4"),
        ("vod/dir", "mp4:sub/film.mp4", "dir/sub/film.mp4"),
        # rtmp://HOST/cfx/st/dir/mp4:film.mp4
        ("cfx/st", "dir/mp4:film.mp4", "dir/film.mp4"),
        ("cfx/st/dir", "mp4:film.mp4", "dir/film.mp4"),
        # rtmp://HOST/cfx/st/dir/clip.flv and /flv:dir/clip
        ("cfx/st", "dir/clip", "dir/clip.flv"),
        ("cfx/st/dir", "clip", "dir/clip.flv"),
        ("cfx/st/dir", "clip.flv", "dir/clip.flv"),
        ("cfx/st", "flv:dir/clip", "dir/clip.flv"),
        ("cfx/st/flv:dir", "clip", "dir/clip.flv"),
        ("cfx/st/mp3:dir", "mp3:song", "dir/song.mp3"),
        ("cfx/st/mp3:dir", "song.mp3", "dir/song.mp3"),
        # the default instance
        ("vod/_definst_/mp4:dir", "mp4:film", "dir/film.mp4"),
        ("vod/_definst_", "mp4:dir/film.mp4", "dir/film.mp4"),
        ("cfx/st", "_definst_/mp4:dir/film.mp4", "dir/film.mp4"),
        ("cfx/st/_definst_", "mp4:dir/film.mp4", "dir/film.mp4"),
        ("cfx", "st/_definst_/mp4:dir/film.mp4", "dir/film.mp4"),
        # slashes and percent signs
        ("cfx/st", "/mp4:dir/film.mp4", "dir/film.mp4"),
        ("cfx/st//mp4:dir", "film.mp4", "dir/film.mp4"),
        ("cfx/st", "mp4:film.mp4/", "film.mp4"),
        ("cfx/st/mp4:film.mp4", "", "film.mp4"),
        ("cfx/st/mp4%3Adir", "mp4:film", "dir/film.mp4"),
        ("cfx/st", "mp4:mp4%3Adir/film.mp4", "dir/film.mp4"),
        ("cfx/st/mp4:dir%20x", "mp4:fi lm", "dir x/fi lm.mp4"),
        ("cfx/st/mp4:dir%20x", "fi%20lm.mp4", "dir x/fi lm.mp4"),
        ("cfx/st/dir", "mp4:fi:lm", "dir/fi:lm.mp4"),
        # rtmp://HOST/cfx/st?slist=mp4:dir/film.mp4
        ("cfx/st?slist=mp4:dir/film.mp4", "mp4:dir/film.mp4", "dir/film.mp4"),
        ("cfx/st?slist=dir/film.mp4&x=1", "mp4:dir/film", "dir/film.mp4"),
    ],
)
def test_url_of_each_player_means_the_object(app: str, name: str, choice: str) -> None:
    application, objects, query = parts_of(app, name)
    assert (application, objects[0], query) == (
        "vod" if app.startswith("vod") else "cfx/st",
        choice,
        "",
    )
    signed = parts_of(app, f"{name}?Expires=1&Signature=a~b")
    assert signed == (application, objects, "Expires=1&Signature=a~b")


@pytest.mark.parametrize(
    ("app", "name", "query"),
    [
        # rtmp2src splits at the last slash, even in the query.
        ("cfx/st/mp4:dir/film.mp4?token=a", "b", "token=a/b"),
        ("cfx/st/dir/film.mp4?x=1&token=a/b/c", "d&y=2", "x=1&token=a/b/c/d&y=2"),
        ("vod/mp4:dir/film?token=a", "b", "token=a/b"),
    ],
)
def test_cut_query_is_joined(app: str, name: str, query: str) -> None:
    _, objects, choice = parts_of(app, name)
    assert (objects[0], choice) == ("dir/film.mp4", query)


@pytest.mark.parametrize(
    ("name", "objects"),
    [
        ("mp4:clip.mov", ["clip.mov", "clip.mov.mp4"]),
        ("mp4:dir/talk.ts", ["dir/talk.ts", "dir/talk.ts.mp4"]),
        ("mp3:song.aac", ["song.aac", "song.aac.mp3"]),
        ("mp4:clip.mp4", ["clip.mp4"]),
        ("clip.mov", ["clip.mov"]),
        ("flv:clip.flv", ["clip.flv"]),
    ],
)
def test_name_with_two_extensions_plays_without_its_last_one(name: str, objects: list[str]) -> None:
    """librtmp plays clip.mov.mp4 as mp4:clip.mov."""
    assert parts_of("vod", name)[1] == objects


def test_query_of_the_connection_is_not_part_of_the_stream() -> None:
    assert parts_of("vod?token=a/b", "film.mp4") == ("vod", ["film.mp4"], "")
    assert parts_of("vod/dir?token=a", "film.mp4?x=1") == ("vod", ["dir/film.mp4"], "x=1")


def test_folder_named_like_the_end_of_the_application_gives_two_candidates() -> None:
    assert parts_of("cfx", "st/film.mp4")[1] == ["film.mp4", "st/film.mp4"]
    assert parts_of("cfx/st", "st/film.mp4")[1] == ["st/film.mp4"]


def test_whole_url_as_tc_url_means_the_object() -> None:
    url = f"{HOST}/cfx/st/mp4:dir/film.mp4"
    assert parts_of("cfx/st", "mp4:dir/film.mp4", url)[1] == ["dir/film.mp4"]
    assert parts_of("cfx", "st/mp4:dir/film.mp4", url)[1][0] == "dir/film.mp4"
    assert "dir/film.mp4" in parts_of("cfx", "mp4:dir/film.mp4", url)[1]


# Properties

segments = st.text(st.sampled_from("ab c.-_é"), min_size=1, max_size=6).filter(
    lambda segment: segment.strip(".") != ""
)


class Url(NamedTuple):
    """A URL below the host, and the object that it means."""

    application: str
    path: str
    prefix: str
    object: str


@st.composite
def urls(draw: st.DrawFn) -> Url:
    application = draw(st.sampled_from(["cfx/st", "vod"]))
    folders = draw(st.lists(segments, max_size=4))
    extension, prefix = draw(
        st.sampled_from([(".mp4", "mp4:"), (".mp4", ""), (".flv", ""), (".flv", "flv:"),
                         (".mp3", "mp3:"), (".mp3", "")])
    )  # fmt: skip
    path = "/".join([*folders, draw(segments) + extension])
    return Url(application, path, prefix, path)


def without_extension(name: str) -> str:
    return name[:-4]


def as_ffmpeg(url: Url) -> tuple[str, str]:
    """rtmp_open in libavformat/rtmpproto.c."""
    rest = url.prefix + url.path
    app = url.application
    if app == "vod" and "/" in rest and ":" not in rest.partition("/")[0]:
        first, _, rest = rest.partition("/")
        app = f"vod/{first}"
    if not rest.startswith(("mp4:", "flv:", "mp3:")):
        if rest.endswith(".mp4"):
            return app, f"mp4:{rest}"
        if rest.endswith(".flv"):
            return app, without_extension(rest)
    return app, rest


def as_librtmp(url: Url) -> tuple[str, str]:
    """RTMP_ParseURL and RTMP_ParsePlaypath in librtmp/parseurl.c."""
    parts = f"{url.application}/{url.prefix}{url.path}".split("/")
    at = min(3, len(parts) - 1)
    app, name = "/".join(parts[:at]), "/".join(parts[at:])
    prefix = {".mp4": "mp4:", ".mp3": "mp3:", ".flv": ""}[name[-4:]]
    if prefix and name.startswith(prefix):
        return app, name
    return app, prefix + without_extension(name)


def as_rtmp2src(url: Url) -> tuple[str, str]:
    app, _, name = f"{url.application}/{url.prefix}{url.path}".rpartition("/")
    return app, name


def as_nginx(url: Url) -> tuple[str, str]:
    app, _, name = f"{url.application}/{url.prefix}{url.path}".partition("/")
    return app, name


@given(url=urls(), query=st.sampled_from(["", "?Expires=1&Signature=a~b"]))
def test_all_players_mean_the_same_object_with_the_same_url(url: Url, query: str) -> None:
    for cut in (as_ffmpeg, as_librtmp, as_rtmp2src, as_nginx):
        app, name = cut(url)
        application, objects, found_query = parts_of(app, name + query, "", ("cfx/st", "vod"))
        assert application == url.application, cut
        if not known_extension(without_extension(url.path)):
            assert objects[0] == url.object, cut
        elif not url.path.endswith(".flv"):
            # A player may have dropped the last extension, and one is left: clip.aac.mp4.
            assert url.object in objects, cut
        assert found_query == query[1:]


@given(
    app=st.text(max_size=20),
    tc_url=st.text(max_size=30),
    name=st.text(st.sampled_from("ab/.:?%2eEmp4flv_definst\0\\"), max_size=60),
    folder=st.text(st.sampled_from("ab/.:%2e?mp4"), max_size=20),
)
def test_no_name_leads_out_of_the_origin(app: str, tc_url: str, name: str, folder: str) -> None:
    for sent in (app, f"vod/{folder}", "cfx", f"cfx/st/{folder}"):
        match = chosen(sent, tc_url) or chosen(sent)
        if match is None:
            continue
        for stream in stream_names(match, name):
            for choice in candidates(stream):
                assert not {"..", "."} & set(choice.split("/"))
                assert "\0" not in choice
                assert "\\" not in choice
