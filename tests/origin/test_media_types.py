"""The media type of an extension."""

from __future__ import annotations

import pytest

from streamedge.origin.media_types import guess_media_type


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("dir/film.flv", "video/x-flv"),
        ("film.mp4", "video/mp4"),
        ("FILM.MP4", "video/mp4"),
        ("song.m4a", "audio/mp4"),
        ("song.mp3", "audio/mpeg"),
        ("film.mov", "video/quicktime"),
        ("live.m3u8", "application/vnd.apple.mpegurl"),
        ("seg1.ts", "video/mp2t"),
        ("film.mpd", "application/dash+xml"),
        ("seg1.m4s", "video/iso.segment"),
        ("film.vtt", "text/vtt"),
        ("film.webm", "video/webm"),
        ("film.mkv", "video/x-matroska"),
        ("page.html", "text/html"),
        ("poster.jpg", "image/jpeg"),
        ("archive.tar.gz", "application/octet-stream"),
        ("film", "application/octet-stream"),
        ("", "application/octet-stream"),
        ("film.mp4/part", "application/octet-stream"),
        ("data:text/html,film.mp4", "video/mp4"),
    ],
)
def test_media_type_follows_from_the_extension(name: str, media_type: str) -> None:
    assert guess_media_type(name) == media_type
