"""The ``streamedge`` command: exit codes, messages and help."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest
from typer.testing import CliRunner

from streamedge.cli.main import app
from streamedge.cli.output import SMALLEST_CONFIG
from streamedge.config.load import load
from tests.support.certificate_authority import CertificateAuthority
from tests.support.patience import PATIENCE_S

ROOT = Path(__file__).parents[1]
SECRET = "hunter2-wJalrXUtnFEMI"

runner = CliRunner()


@pytest.fixture(name="config")
def _config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A valid config in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "media").mkdir()
    path = tmp_path / "config.toml"
    path.write_text(SMALLEST_CONFIG)
    return path


def test_check_summarizes_a_valid_config(config: Path) -> None:
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
    for text in (
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
        assert text in result.stdout
    assert "hunter2" not in result.stdout


def test_check_omits_limits_with_their_default(config: Path) -> None:
    assert config.exists()
    assert "limits." not in runner.invoke(app, ["check"]).stdout


@pytest.mark.parametrize(
    ("listen", "is_useless"),
    [
        ("rtmp = []", True),
        ('rtmp = []\nrtmps = ["127.0.0.1:1936"]', True),
        ("", False),
        ('rtmp = []\nmixed = ["127.0.0.1:1936"]', False),
    ],
)
def test_check_warns_of_rtmpe_without_an_address(
    config: Path, tmp_path: Path, listen: str, is_useless: bool
) -> None:
    pair = CertificateAuthority(tmp_path).issue("localhost")
    text = SMALLEST_CONFIG + f"[listen]\nrtmpe = true\n{listen}\n"
    files = f'certificate = "{pair.certificate}"\nkey = "{pair.key}"\n'
    config.write_text(text + f"[[certificates]]\n{files}")
    result = runner.invoke(app, ["check"])
    assert result.exit_code == 0, result.output
    assert ("Warning: listen.rtmpe has no effect" in result.stdout) is is_useless


@pytest.mark.parametrize(
    ("text", "serves_nothing"),
    [("", True), (SMALLEST_CONFIG, False), ('[api]\nkeys = { AKIAEDGE = "secret" }', False)],
)
def test_check_warns_of_a_file_that_serves_nothing(
    config: Path, text: str, serves_nothing: bool
) -> None:
    config.write_text(text)
    result = runner.invoke(app, ["check"])
    assert result.exit_code == 0, result.output
    assert ("Warning: nothing is served" in result.stdout) is serves_nothing


@pytest.mark.parametrize("command", ["check", "serve"])
def test_mistakes_are_on_stderr_and_the_exit_code_is_2(config: Path, command: str) -> None:
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
def test_missing_config_is_reported_with_its_path_and_an_example(
    config: Path, command: str
) -> None:
    config.unlink()
    result = runner.invoke(app, [command])
    assert result.exit_code == 2
    assert str(config) in result.stderr
    assert "--config FILE" in result.stderr
    assert result.stderr.endswith(SMALLEST_CONFIG + "\n")


def test_example_of_the_message_for_a_missing_config_loads(config: Path) -> None:
    assert len(load(config).distributions) == 2


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--help"], ["serve", "check", "--version", "config.md"]),
        (["serve", "--help"], ["--config", "Example:", "SIGTERM", "/healthz"]),
        (["check", "--help"], ["--config", "Example:", "Next:"]),
        (["writes", "--help"], ["--config", "--json", "retry", "discard", "Example:", "/writes"]),
        (["writes", "retry", "--help"], ["SERIAL", "--unconditional", "If-Match", "Example:"]),
        (["writes", "discard", "--help"], ["SERIAL", "Example:"]),
    ],
)
def test_help_has_options_and_an_example(arguments: list[str], expected: list[str]) -> None:
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0
    for words in expected:
        assert words in result.stdout


def test_version_is_printed() -> None:
    result = runner.invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.stdout.startswith("streamedge ")


def test_importing_the_command_imports_no_server_modules() -> None:
    code = (
        "import sys, streamedge.__main__, streamedge.cli.main;"
        "print(sorted({'uvicorn', 'boto3', 'h11', 'numpy'} & set(sys.modules)))"
    )
    completed = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_S,
    )
    assert completed.stdout == "[]\n"


WRITES = {
    "by_state": {"queued": 2, "sending": 1, "conflict": 1, "failed": 0},
    "held_bytes": 3 << 20,
    "accepted": 9,
    "done": 5,
    "rows": [
        {
            "serial": 7,
            "state": "conflict",
            "method": "PUT",
            "origin": "bucket",
            "object": "[b]film[/b].mp4",
            "size_bytes": 2 << 20,
            "age_s": 3725.4,
            "attempts": 2,
            "problem": "answered 412",
        },
    ],
    "rows_left_off": 3,
}


class _AdminAddress(BaseHTTPRequestHandler):
    """Sends the next of ``answers``, and records each request."""

    answers: ClassVar[list[tuple[int, bytes]]] = []
    requests: ClassVar[list[str]] = []

    def _answer(self) -> None:
        self.requests.append(f"{self.command} {self.path}")
        status, body = self.answers.pop(0)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_DELETE = _answer  # noqa: N815  # names that http.server calls

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""


@contextmanager
def admin_address(
    config: Path, *answers: tuple[int, object], host: str = "127.0.0.1"
) -> Iterator[list[str]]:
    """An admin address that sends ``answers``; yields the requests that it received."""
    _AdminAddress.requests = []
    _AdminAddress.answers = [
        (status, body if isinstance(body, bytes) else json.dumps(body).encode())
        for status, body in answers
    ]
    with HTTPServer(("127.0.0.1", 0), _AdminAddress) as server:
        config.write_text(f'{SMALLEST_CONFIG}\n[listen]\nadmin = "{host}:{server.server_port}"\n')
        serving = Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        try:
            yield _AdminAddress.requests
        finally:
            server.shutdown()
            serving.join()


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_writes_shows_queued_writes_and_dead_letters(
    config: Path, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # the edge is called without a proxy
    with admin_address(config, (200, WRITES), host=host) as requests:
        result = runner.invoke(app, ["writes"])
    assert requests == ["GET /writes"]
    assert (result.exit_code, result.stderr) == (0, "")
    (row,) = (line for line in result.stdout.splitlines() if "film" in line)
    for text in ("7", "conflict", "PUT [b]film[/b].mp4", "bucket", "2MiB", "1:02:05", "412"):
        assert text in row
    assert "and 3 more" in result.stdout
    assert "3 waiting, 1 failed, 3MiB on disk; 5 of 9 accepted writes are done." in result.stdout


def test_writes_as_json_is_the_response_of_the_edge(config: Path) -> None:
    with admin_address(config, (200, WRITES)):
        result = runner.invoke(app, ["writes", "--json"])
    assert json.loads(result.stdout) == WRITES


def test_writes_shows_an_empty_queue_in_one_line(config: Path) -> None:
    nothing = {
        "by_state": {"queued": 0, "sending": 0, "conflict": 0, "failed": 0},
        "held_bytes": 0,
        "accepted": 0,
        "done": 0,
        "rows": [],
        "rows_left_off": 0,
    }
    with admin_address(config, (200, nothing)):
        result = runner.invoke(app, ["writes"])
    (line,) = result.stdout.splitlines()
    assert line.startswith("0 waiting, 0 failed")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["retry", "7"], "POST /writes/7/retry?unconditional=0"),
        (["retry", "7", "--unconditional"], "POST /writes/7/retry?unconditional=1"),
        (["discard", "7"], "DELETE /writes/7"),
    ],
)
@pytest.mark.parametrize("config_comes", ["first", "last", "by default"])
def test_retry_and_discard_send_their_request_to_the_edge(
    config: Path, arguments: list[str], expected: str, config_comes: str
) -> None:
    named = ["--config", "other.toml"]
    if config_comes != "by default":
        config = config.rename(config.with_name("other.toml"))
    with admin_address(config, (200, {"serial": 7, "outcome": "queued"})) as requests:
        result = runner.invoke(
            app,
            {
                "first": ["writes", *named, *arguments],
                "last": ["writes", *arguments, *named],
                "by default": ["writes", *arguments],
            }[config_comes],
        )
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("Write 7 is ")
    assert requests == [expected]


@pytest.mark.parametrize("arguments", [[], ["retry", "7"], ["discard", "7"]])
@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (404, {"error": "no write 7 is kept"}, "no write 7 is kept"),
        (503, {"error": "the write queue: disk I/O error"}, "disk I/O error"),
        (404, b"<html>", "the admin address answered 404 Not Found"),
        (500, [], "the admin address answered 500"),
        (200, b"<html>", "is not the edge's admin address"),
    ],
)
def test_refused_call_exits_with_1_and_its_reason(
    config: Path, arguments: list[str], status: int, body: object, reason: str
) -> None:
    with admin_address(config, (status, body)):
        result = runner.invoke(app, ["writes", *arguments])
    assert (result.exit_code, result.stdout) == (1, "")
    assert reason in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("arguments", [[], ["retry", "7"], ["discard", "7"]])
def test_edge_that_is_not_running_exits_with_1_and_advice(
    config: Path, arguments: list[str]
) -> None:
    with admin_address(config):
        pass
    result = runner.invoke(app, ["writes", *arguments])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no edge answers on its admin address 127.0.0.1:" in result.stderr
    assert "streamedge serve" in result.stderr
