"""The banner that the edge prints once it is up."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from streamedge.config.schema.config import Config
from streamedge.process.banner import EXAMPLES_MAX, print_banner, stream_name


def banner(capsys: pytest.CaptureFixture[str], **tables: Any) -> list[str]:
    """The lines on stderr for a config; stdout must stay empty, because it may be the log."""
    print_banner(Config.model_validate(tables))
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def commands(lines: list[str], program: str) -> list[list[str]]:
    return [words for words in map(shlex.split, lines) if words[:1] == [program]]


def distributions(**more: Any) -> tuple[dict[str, Any], ...]:
    return (
        {"id": "EWEB", "type": "web", "origin": "main", **more},
        {"id": "ESTREAM", "type": "rtmp", "origin": "main", **more},
    )


def test_banner_has_files_of_a_folder_as_examples(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("b.flv", "a.mp4", "c.mp3", "notes.txt"):
        (tmp_path / name).touch()
    lines = banner(
        capsys,
        origins={"main": {"type": "directory", "path": str(tmp_path)}},
        distributions=distributions(),
    )
    assert commands(lines, "curl") == [
        ["curl", "-O", f"http://127.0.0.1:8080/{name}"] for name in ("a.mp4", "b.flv", "c.mp3")
    ]
    assert commands(lines, "ffplay") == [
        ["ffplay", f"rtmp://127.0.0.1:1935/cfx/st/{name}"]
        for name in ("mp4:a.mp4", "b", "mp3:c.mp3")
    ]
    assert any("curl http://127.0.0.1:9090/healthz" in line for line in lines)


def test_banner_limits_the_number_of_examples(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3 * EXAMPLES_MAX):
        (tmp_path / f"{number}.mp4").touch()
    origins = {"main": {"type": "directory", "path": str(tmp_path)}}
    lines = banner(capsys, origins=origins, distributions=distributions())
    assert len(commands(lines, "ffplay")) == EXAMPLES_MAX


def test_banner_has_a_placeholder_for_an_origin_that_cannot_be_listed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = banner(
        capsys,
        origins={"main": {"type": "http", "url": "https://media.example.org"}},
        listen={"http": ("0.0.0.0:80",), "rtmp": ("[::1]:1935",)},
        distributions=distributions(),
    )
    assert commands(lines, "curl") == [["curl", "-O", "http://127.0.0.1:80/dir/film.mp4"]]
    assert commands(lines, "ffplay") == [["ffplay", "rtmp://[::1]:1935/cfx/st/mp4:dir/film.mp4"]]


def test_banner_uses_a_host_name_without_wildcard(capsys: pytest.CaptureFixture[str]) -> None:
    lines = banner(
        capsys,
        origins={"main": {"type": "http", "url": "https://media.example.org"}},
        distributions=distributions(aliases=("*.example.com", "cdn.example.com")),
    )
    assert commands(lines, "curl") == [["curl", "-O", "http://cdn.example.com:8080/dir/film.mp4"]]


def test_banner_quotes_names_with_spaces_and_brackets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my [bold]film's.mp4").touch()
    origins = {"main": {"type": "directory", "path": str(tmp_path)}}
    lines = banner(capsys, origins=origins, distributions=distributions())
    (curl,) = commands(lines, "curl")
    assert curl[2] == "http://127.0.0.1:8080/my%20%5Bbold%5Dfilm%27s.mp4"
    (play,) = commands(lines, "ffplay")
    assert play[1] == "rtmp://127.0.0.1:1935/cfx/st/mp4:my%20%5Bbold%5Dfilm%27s.mp4"


def test_banner_omits_distributions_without_a_listener(capsys: pytest.CaptureFixture[str]) -> None:
    lines = banner(
        capsys,
        origins={"main": {"type": "http", "url": "https://media.example.org"}},
        listen={"rtmp": ()},
        distributions=distributions(),
    )
    assert not any("ESTREAM" in line for line in lines)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("film.mp4", "mp4:film.mp4"),
        ("dir/song.mp3", "mp3:dir/song.mp3"),
        ("old.flv", "old"),
        ("film.mov", "mp4:film.mov"),
        ("other", "other"),
    ],
)
def test_stream_name_has_the_prefix_of_its_extension(name: str, expected: str) -> None:
    assert stream_name(name) == expected
