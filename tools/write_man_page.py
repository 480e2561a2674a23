"""Writes the manual page streamedge(1), made from the commands themselves, to standard output.

python tools/write_man_page.py | man -l -
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

from typer.main import get_command

from streamedge.cli.command_tree import command_tree
from streamedge.cli.main import app

EXIT_CODES = {
    0: "Success.",
    1: "The edge cannot start, does not answer or refuses the call; for config diff: they differ.",
    2: "The config file, or the command line, has a mistake.",
    3: "A part was not done.",
}
FILES = {
    "/etc/streamedge/config.toml": "The config file of the service.",
    "/var/lib/streamedge": "The state of the service: its cache, and what the API has made.",
}
_BOLD = re.compile(r"\[bold\](.*?)\[/bold\]")


def page() -> str:
    """The page in man(7)'s macros."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    root = get_command(app)
    yield f'.TH STREAMEDGE 1 "" "StreamEdge {version("streamedge")}" "StreamEdge"'
    yield ".SH NAME"
    yield "streamedge \\- edge of a content delivery network for HTTP and RTMP"
    yield ".SH SYNOPSIS"
    yield "\\fBstreamedge\\fR [\\fIOPTIONS\\fR] \\fICOMMAND\\fR [\\fIARGUMENTS\\fR]"
    yield ".SH DESCRIPTION"
    yield _text(root.help or "")
    yield ".SH OPTIONS"
    for option in root.params:
        yield from _parameter(option)
    yield ".SH COMMANDS"
    for words, command in command_tree(root):
        if command is not root:
            yield from _command(words, command)
    yield ".SH EXIT STATUS"
    for code, meaning in EXIT_CODES.items():
        yield from (".TP", f"\\fB{code}\\fR", _text(meaning))
    yield ".SH FILES"
    for path, meaning in FILES.items():
        yield from (".TP", f"\\fI{path}\\fR", _text(meaning))


def _command(words: str, command: Any) -> Iterator[str]:
    yield f".SS {_text(words)}"
    yield _text(command.help or "")
    for parameter in command.params:
        yield from _parameter(parameter)
    if command.epilog:
        yield ".PP"
        yield _text(command.epilog)


def _parameter(parameter: Any) -> Iterator[str]:
    metavar = str(parameter.metavar or str(parameter.name).upper())
    if parameter.param_type_name == "argument":
        name = f"\\fI{_text(metavar)}\\fR"
    else:
        names = ", ".join(sorted(parameter.opts, key=len, reverse=True))
        value = "" if parameter.is_flag else f" \\fI{_text(metavar)}\\fR"
        name = f"\\fB{_text(names)}\\fR{value}"
    yield from (".TP", name, _text(parameter.help or ""))


def _text(text: str) -> str:
    """Text without characters that man(7) would interpret."""
    escaped = text.strip().replace("\\[", "[").replace("\\", "\\e").replace("-", "\\-")
    lines = _BOLD.sub(r"\\fB\1\\fR", escaped).splitlines()
    return "\n".join(
        f"\\&{line}" if line.startswith((".", "'")) else line for line in lines if line
    )


if __name__ == "__main__":
    sys.stdout.write(page())
