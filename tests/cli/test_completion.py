"""Completion scripts know all commands and options; bash completes with them."""

from __future__ import annotations

import subprocess

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from streamedge.cli.completion import SHELLS, all_words, script
from streamedge.cli.main import app
from tests.support.patience import PATIENCE_S

ROOT = get_command(app)


@pytest.mark.parametrize("shell", SHELLS)
def test_script_names_every_command(shell: str) -> None:
    text = CliRunner().invoke(app, ["completion", shell]).output
    assert text == script(shell, ROOT)
    for each in all_words(ROOT):
        assert each.command.rpartition(" ")[2] in text


def complete(*words: str) -> set[str]:
    """What bash offers in place of the last word."""
    line = " ".join(f"'{word}'" for word in words)
    program = (
        f"{script('bash', ROOT)}\nCOMP_WORDS=({line}); COMP_CWORD={len(words) - 1};"
        ' _streamedge; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", program], capture_output=True, text=True, check=True, timeout=PATIENCE_S
    )
    return set(done.stdout.split())


def test_bash_completes_commands_options_and_files() -> None:
    assert {"serve", "check", "upgrade", "writes"} <= complete("streamedge", "")
    assert complete("streamedge", "upg") == {"upgrade"}
    assert complete("streamedge", "writes", "re") == {"retry"}
    assert "--unconditional" in complete("streamedge", "writes", "retry", "--")
    assert complete("streamedge", "serve", "--config", "pyproj") == {"pyproject.toml"}


@pytest.mark.parametrize("shell", SHELLS)
def test_shell_accepts_the_script(shell: str) -> None:
    command = [shell, "--no-execute"] if shell == "fish" else [shell, "-n"]
    checked = subprocess.run(
        command,
        input=script(shell, ROOT),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert (checked.returncode, checked.stderr) == (0, "")
