"""What holds for all commands: JSON for programs, exit codes, and NO_COLOR."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from streamedge.cli import output
from streamedge.cli.command_tree import command_tree, option_names
from streamedge.cli.main import app
from tests.support.process.terminal import terminal_output

COMMANDS = dict(command_tree(typer.main.get_command(app)))
REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"
# Commands without --json, and what they print instead.
WITHOUT_JSON = {
    "serve": "log lines, which are JSON",
    "check": "mistakes, a line each",
    "password": "a hash",
    "top": "frames for a terminal; status --json has the numbers",
    "monitoring": "a file for Prometheus or Grafana",
    "init": "a config file",
    "completion": "a script for the shell",
    "cache export": "JSON lines in any case",
    "fleet zone": "a DNS zone",
    "fleet certificate": "files",
}


def test_each_command_prints_json_but_those_that_print_something_else() -> None:
    without = {
        words.removeprefix("streamedge ")
        for words, command in COMMANDS.items()
        if "--json" not in option_names(command)
        and (not hasattr(command, "commands") or command.invoke_without_command)
    }
    assert without - {"streamedge"} == set(WITHOUT_JSON)


@pytest.mark.parametrize("words", COMMANDS)
def test_help_loses_no_text_in_brackets(words: str) -> None:
    """Markup takes [admin.tokens] for a style and drops it; so brackets are escaped there."""
    command = COMMANDS[words]
    texts = [command.help, command.epilog, *(getattr(one, "help", "") for one in command.params)]
    for text in filter(None, texts):
        assert set(re.findall(r"(?<!\\)\[(/?[a-z][^\]]*)\]", text)) <= {"bold", "/bold"}


def test_reference_names_each_exit_code() -> None:
    head = REFERENCE.read_text().partition("The text below")[0]
    codes = {0, *(value for name, value in vars(output).items() if name.startswith("EXIT_"))}
    documented = re.findall(r"(?:Exit codes: |; )(\d) (?:is|means)", head.replace("\n", " "))
    assert [int(code) for code in documented] == sorted(codes)


@pytest.mark.parametrize("words", [["--help"], ["config", "reference", "edge."], ["status"]])
def test_terminal_gets_no_colour_with_no_color(words: list[str], tmp_path: Path) -> None:
    coloured, plain = (terminal_output(words, tmp_path, **more) for more in ({}, {"NO_COLOR": "1"}))
    colour = re.compile(rb"\x1b\[(?:[0-9]+;)*(?:3[0-7]|9[0-7]|38;[0-9;]+)m")
    assert not colour.search(plain)
    if words == ["--help"]:
        assert colour.search(coloured)


NEEDS_SOME = {"streamedge invalidate", "streamedge warm"}  # arguments, or an option in their place
WITH_CONFIG = [words for words, command in COMMANDS.items() if "--config" in option_names(command)]


@pytest.mark.parametrize("words", WITH_CONFIG)
def test_config_that_cannot_be_looked_at_is_a_mistake_with_a_reason(words: str) -> None:
    """As below a folder that this user may not enter."""
    arguments = [one for one in COMMANDS[words].params if not one.opts[0].startswith("-")]
    mandatory = [one for one in arguments if one.required or words in NEEDS_SOME]
    values = ["1"] * len(mandatory)
    config = "n" * 300
    result = CliRunner().invoke(app, [*words.split()[1:], *values, "--config", config])
    assert result.exit_code == 2
    assert f"{config}: cannot be read: File name too long" in result.output


@pytest.mark.parametrize("words", [["invalidate", "EWEB"], ["warm"]])
def test_command_without_what_it_acts_on_is_a_mistake(words: list[str]) -> None:
    """Before the edge is called."""
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert "give" in result.output
