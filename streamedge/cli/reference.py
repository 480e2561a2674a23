"""The command reference of docs/reference/cli.md: one section for each command.

``python -m streamedge.cli.reference`` prints the text between the two markers of that page. The
text is generated from the typer application, so it is the same as that of ``--help``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from typer.main import get_command

from streamedge.cli.command_tree import command_tree
from streamedge.cli.main import app

BEGIN = "<!-- command reference: begin -->"
END = "<!-- command reference: end -->"

_MARKUP = re.compile(r"\[bold\](.*?)\[/bold\]")


def render() -> str:
    """All commands as Markdown: usage, description, arguments and options."""
    return "\n".join(_section(words, command) for words, command in commands())


def commands() -> Iterator[tuple[str, Any]]:
    """Each command, such as ``"streamedge writes retry"``, with its click command.

    A group precedes its commands.
    """
    yield from command_tree(get_command(app))


def _section(words: str, command: Any) -> str:
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option"]
    usage = [words, *map(_argument_usage, arguments), *map(_option_usage, options)]
    if getattr(command, "commands", None):
        usage.append("[COMMAND]" if command.invoke_without_command else "COMMAND")
    lines = [f"## `{words}`", "", f"    {' '.join(usage)}", "", _plain(command.help or ""), ""]
    if arguments or options:
        lines += ["| Argument or option | Meaning |", "|---|---|"]
        lines += [f"| `{_name(each)}` | {_cell(each)} |" for each in (*arguments, *options)]
        lines.append("")
    if command.epilog:
        lines += [_code(command.epilog), ""]
    return "\n".join(lines)


def _argument_usage(argument: Any) -> str:
    name = _metavar(argument)
    return name if argument.required or name.startswith("[") else f"[{name}]"


def _option_usage(option: Any) -> str:
    name = max(option.opts, key=len)
    usage = name if option.is_flag else f"{name} {_metavar(option)}"
    return usage if option.required else f"[{usage}]"


def _name(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return _metavar(parameter).strip("[]").replace("|", "\\|")
    names = ", ".join(sorted(parameter.opts, key=len, reverse=True))
    value = _metavar(parameter).replace("|", "\\|")
    return names if parameter.is_flag else f"{names} {value}"


def _metavar(parameter: Any) -> str:
    if parameter.metavar:
        return str(parameter.metavar)
    annotation = parameter.type_descriptor.annotation
    if get_origin(annotation) is Literal:
        return "|".join(map(str, get_args(annotation)))
    return str(parameter.name).upper()


def _cell(parameter: Any) -> str:
    meaning = _plain(parameter.help or "").replace("|", "\\|")
    default = parameter.default
    if parameter.required:
        return f"{meaning} Required."
    if default is None or isinstance(default, bool) or not str(default) or callable(default):
        return meaning
    return f"{meaning} Default: `{default}`."


def _plain(text: str) -> str:
    return _MARKUP.sub(r"\1", text).replace("\\[", "[").strip()


def _code(text: str) -> str:
    """Help text as Markdown: bold text of the terminal becomes code."""
    return _MARKUP.sub(r"`\1`", text).replace("\\[", "[").strip()


if __name__ == "__main__":
    sys.stdout.write(render())
