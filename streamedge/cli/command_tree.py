"""All commands of the command line, for what is generated from them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def command_tree(root: Any, words: str = "streamedge") -> Iterator[tuple[str, Any]]:
    """Each command, such as ``"streamedge writes retry"``, with its click command.

    A group precedes its commands. ``root``: the click command of the application. Hidden commands,
    which are other names of shown ones, are left out.
    """
    yield words, root
    for name, subcommand in getattr(root, "commands", {}).items():
        if not subcommand.hidden:
            yield from command_tree(subcommand, f"{words} {name}")


def option_names(command: Any) -> set[str]:
    """All names of a command's options, such as ``--config`` and ``-c``."""
    names = {"--help"}
    for parameter in command.params:
        if parameter.param_type_name == "option":
            names.update(parameter.opts)
    return names
