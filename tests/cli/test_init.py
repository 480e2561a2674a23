"""``streamedge init`` writes files that ``check`` accepts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from streamedge.cli.init import Answers, config_text, mistakes
from streamedge.cli.main import app
from streamedge.config.load import load
from streamedge.config.schema.config import DirectoryOriginConfig, S3OriginConfig
from tests.support.process.terminal import terminal_output

TOO_LONG = "n" * 300  # looking at it fails, as below a folder that one may not enter


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "media").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("origin", ["media", "s3://films", "s3://films/a/b", "https://a.example"])
def test_file_has_no_mistakes(folder: Path, origin: str) -> None:
    result = CliRunner().invoke(app, ["init", "--origin", origin])
    assert result.exit_code == 0, result.output
    checked = CliRunner().invoke(app, ["check"])
    assert checked.exit_code == 0, checked.output
    assert "config.toml" in os.listdir(folder)
    assert not list(folder.glob(".streamedge-*"))


def test_options_are_in_the_file(folder: Path) -> None:
    options = ["--origin", "s3://films/a", "--region", "eu-central-1", "--http", ":8081"]
    options += ["--http", "[::1]:8081", "--alias", "cdn.example.com"]
    options += ["--cache-size", "1073741824"]
    assert CliRunner().invoke(app, ["init", *options]).exit_code == 0
    config = load(folder / "config.toml")
    origin = config.origins["main"]
    assert isinstance(origin, S3OriginConfig)
    assert (origin.bucket, origin.prefix, origin.region) == ("films", "a/", "eu-central-1")
    assert config.listen.http == (("0.0.0.0", 8081), ("::1", 8081))
    assert config.distributions[0].aliases == ("cdn.example.com",)
    assert config.edge.cache_size == 1 << 30


def test_existing_file_is_replaced_only_on_request(folder: Path) -> None:
    (folder / "config.toml").write_text("mine")
    refused = CliRunner().invoke(app, ["init", "--origin", "media"])
    assert (refused.exit_code, (folder / "config.toml").read_text()) == (2, "mine")
    assert "--force" in refused.output
    assert CliRunner().invoke(app, ["init", "--origin", "media", "--force"]).exit_code == 0


def test_mistake_in_an_option_writes_nothing(folder: Path) -> None:
    result = CliRunner().invoke(app, ["init", "--origin", "media", "--http", "nonsense"])
    assert result.exit_code == 2
    assert "streamedge: --http: expected an address" in result.output
    assert not (folder / "config.toml").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--origin", "none"], "--origin none: there is no such folder"),
        (["--origin", "www.example.org"], "a web server is https://www.example.org"),
        (["--origin", "www.example.org/a"], "a web server is https://www.example.org/a"),
        (["--origin", "ftp://a.example"], "give a folder, s3://BUCKET, or a URL with http://"),
        (["--origin", "song.mp3"], "it is a file; give the folder"),
        (["--origin", "https://a.example/?b"], "--origin: expected a string (http://"),
        (["--origin", "media", "--endpoint", "http://a"], "--endpoint is for a bucket"),
        (["--origin", "media", "--region", "eu-west-1"], "--region is for a bucket"),
        (["--origin", TOO_LONG], f"{TOO_LONG}: File name too long"),
        (["--origin", "media", "--output", TOO_LONG], f"{TOO_LONG}: File name too long"),
        (["--origin", "media", "--output", "media"], "media is a folder: --output names a file"),
        (["--origin", "media", "--output", "song.mp3/a/b.toml"], "song.mp3/a: Not a directory"),
        (["--origin", "media", "--output", "/proc/config.toml"], "/proc/"),
        (["--origin", "s3://a", "--endpoint", "b"], "--endpoint: expected"),
        (["--origin", "s3://a b"], "--origin: expected"),
        (["--origin", "media", "--rtmp", "x"], "--rtmp: expected an address"),
        (["--origin", "media", "--admin", ":8080", "--http", ":8080"], "--admin: 0.0.0.0:8080 is"),
        (["--origin", "media", "--cache-size", "20gb"], "--cache-size: expected a size"),
        (["--origin", "media", "--alias", "a/b"], "--alias: expected"),
    ],
)
def test_mistake_names_the_option(folder: Path, options: list[str], expected: str) -> None:
    (folder / "song.mp3").touch()
    result = CliRunner().invoke(app, ["init", *options])
    assert result.exit_code == 2, result.output
    assert expected in result.output
    assert not (folder / "config.toml").exists()


def test_folder_is_relative_to_the_current_one(folder: Path) -> None:
    options = ["--origin", "media", "--output", "etc/edge.toml"]
    result = CliRunner().invoke(app, ["init", *options])
    assert result.exit_code == 0, result.output
    origin = load(folder / "etc" / "edge.toml").origins["main"]
    assert isinstance(origin, DirectoryOriginConfig)
    assert origin.path == folder / "media"


def test_endpoint_of_an_s3_server_is_in_the_file(folder: Path) -> None:
    options = ["--origin", "s3://films", "--endpoint", "http://127.0.0.1:9000"]
    assert CliRunner().invoke(app, ["init", *options]).exit_code == 0
    origin = load(folder / "config.toml").origins["main"]
    assert isinstance(origin, S3OriginConfig)
    assert origin.endpoint == "http://127.0.0.1:9000"


def test_without_options_and_terminal_it_says_what_to_give(folder: Path) -> None:
    result = CliRunner().invoke(app, ["init"])
    assert result.exit_code == 2
    assert "--origin" in result.output


def test_questions_on_a_terminal_have_defaults(folder: Path) -> None:
    (folder / "films").mkdir()
    shown = terminal_output(["init"], folder, typed="films\n\n127.0.0.1:1936\n")
    assert b"Where are the objects" in shown
    config = load(folder / "config.toml")
    origin = config.origins["main"]
    assert isinstance(origin, DirectoryOriginConfig)
    assert origin.path == folder / "films"
    assert config.listen.http == (("127.0.0.1", 8080),)
    assert config.listen.rtmp == (("127.0.0.1", 1936),)


def test_commented_keys_exist(folder: Path) -> None:
    """A key that the file shows in a comment is one of the schema, with its default value."""
    lines = config_text(Answers("media")).splitlines()
    text = "\n".join(
        line.removeprefix("# ") if line.startswith("# ") and " = " in line else line
        for line in lines
    )
    assert "name = " in text
    assert mistakes(text, folder) == []


def test_file_goes_to_standard_output(folder: Path) -> None:
    result = CliRunner().invoke(app, ["init", "--origin", "media", "-o", "-"])
    assert result.output == config_text(Answers("media"))
