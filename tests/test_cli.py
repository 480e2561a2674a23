"""What the operator types and reads: exit codes, messages, help."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from streamedge.cli import SMALLEST_CONFIG, app
from streamedge.config.load import load

ROOT = Path(__file__).parents[1]
SECRET = "hunter2-wJalrXUtnFEMI"

runner = CliRunner()


@pytest.fixture(name="config")
def _config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config that serves something, in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "media").mkdir()
    path = tmp_path / "config.toml"
    path.write_text(SMALLEST_CONFIG)
    return path


def test_check_sums_up_a_good_config(config: Path) -> None:
    config.write_text(
        SMALLEST_CONFIG
        + f"""
[limits]
http_idle = "5s"
[origins.bucket]
type = "s3"
bucket = "videos"
access_key_id = "AKIA"
secret_access_key = "{SECRET}"
[origins.site]
type = "http"
url = "https://user:{SECRET}@example.org/films"
"""
    )
    result = runner.invoke(app, ["check"])
    assert result.exit_code == 0
    assert result.stderr == ""
    for shown in (
        "http://127.0.0.1:8080",
        "rtmp://127.0.0.1:1935",
        "EWEB",
        "ESTREAM",
        "cfx/st",
        "videos",
        "https://example.org/films",
        "20GiB",
        "limits.http_idle",
        "5s",
        "30s",
        "config.toml: no mistakes. Next: streamedge serve --config config.toml",
    ):
        assert shown in result.stdout
    assert "hunter2" not in result.stdout


def test_limits_at_their_defaults_are_not_shown(config: Path) -> None:
    assert config.exists()
    assert "limits." not in runner.invoke(app, ["check"]).stdout


@pytest.mark.parametrize("command", ["check", "serve"])
def test_every_mistake_is_on_stderr_and_the_exit_code_is_2(config: Path, command: str) -> None:
    config.write_text("[edge]\nworkers = true\nnam = 1")
    result = runner.invoke(app, [command, "--config", "config.toml"])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "config.toml:2: edge.workers: expected a whole number (0 to 256), found true",
        'config.toml:3: edge.nam: unknown key; did you mean "name"?',
        "2 mistakes; nothing was started.",
    ]


@pytest.mark.parametrize("command", ["check", "serve"])
def test_a_missing_config_says_where_it_looked_and_what_to_do(config: Path, command: str) -> None:
    config.unlink()
    result = runner.invoke(app, [command])
    assert result.exit_code == 2
    assert str(config) in result.stderr
    assert "--config FILE" in result.stderr
    assert result.stderr.endswith(SMALLEST_CONFIG + "\n")


def test_the_config_it_advises_is_a_good_one(config: Path) -> None:
    assert len(load(config).distributions) == 2


@pytest.mark.parametrize(
    ("arguments", "taught"),
    [
        (["--help"], ["serve", "check", "--version", "README.md"]),
        (["serve", "--help"], ["--config", "Example:", "SIGTERM", "/healthz"]),
        (["check", "--help"], ["--config", "Example:", "Next:"]),
    ],
)
def test_help_teaches(arguments: list[str], taught: list[str]) -> None:
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0
    for words in taught:
        assert words in result.stdout


def test_version() -> None:
    result = runner.invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.stdout.startswith("streamedge ")


def test_the_package_runs_as_a_module_and_help_loads_no_server() -> None:
    code = (
        "import sys, streamedge.__main__, streamedge.cli;"
        "print(sorted({'uvicorn', 'boto3', 'aiohttp', 'numpy'} & set(sys.modules)))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert ran.stdout == "[]\n"
