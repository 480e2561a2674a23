"""Completion scripts for shells, made from the commands themselves.

A script knows all commands and options; files complete after options that take one. It starts no
program, so that it is quick.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from streamedge.cli.command_tree import command_tree, option_names

SHELLS = ("bash", "zsh", "fish")
_FILE_METAVARS = frozenset({"FILE", "PEM", "FOLDER"})
_MARKUP = re.compile(r"\[/?bold\]")


@dataclass(frozen=True, slots=True)
class Words:
    """A command, such as ``"streamedge writes"``, and what may follow it."""

    command: str
    help: str
    subcommands: tuple[str, ...]
    options: tuple[str, ...]
    file_options: tuple[str, ...]


def all_words(root: Any) -> Iterator[Words]:
    """All commands, groups before their commands. ``root``: the application's click command."""
    for words, command in command_tree(root):
        options = sorted(option_names(command))
        files = [
            name
            for parameter in command.params
            if str(getattr(parameter, "metavar", "")) in _FILE_METAVARS
            for name in getattr(parameter, "opts", ())
        ]
        subcommands = tuple(getattr(command, "commands", {}))
        yield Words(words, _first_line(command), subcommands, tuple(options), tuple(files))


def script(shell: str, root: Any) -> str:
    """The completion script of a shell of SHELLS."""
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](list(all_words(root)))


def _first_line(command: Any) -> str:
    text = _MARKUP.sub("", command.help or "").strip().splitlines()
    return text[0] if text else ""


def _bash(commands: Sequence[Words]) -> str:
    cases = "\n".join(
        f'    "{each.command}") words="{" ".join((*each.subcommands, *each.options))}";'
        f' files="{" ".join(each.file_options)}" ;;'
        for each in commands
    )
    return f"""\
# Completion of streamedge for bash; made by: streamedge completion bash
_streamedge() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}}
  local command=streamedge words files word
  for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
    case "$command $word" in
      {" | ".join(f'"{each.command}"' for each in commands if " " in each.command)})
        command="$command $word" ;;
    esac
  done
  case "$command" in
{cases}
  esac
  if [[ " $files " == *" $before "* ]]; then
    mapfile -t COMPREPLY < <(compgen -f -- "$current")
  else
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
  fi
}}
complete -o filenames -o bashdefault -F _streamedge streamedge
"""


def _zsh(commands: Sequence[Words]) -> str:
    cases = "\n".join(
        f'    "{each.command}") candidates=({" ".join((*each.subcommands, *each.options))});'
        f" files=({' '.join(each.file_options)}) ;;"
        for each in commands
    )
    return f"""\
#compdef streamedge
# Completion of streamedge for zsh; made by: streamedge completion zsh
_streamedge() {{
  local command=streamedge word
  local -a candidates files
  for word in ${{words[2,CURRENT-1]}}; do
    case "$command $word" in
      {"|".join(f'"{each.command}"' for each in commands if " " in each.command)})
        command="$command $word" ;;
    esac
  done
  case "$command" in
{cases}
  esac
  if (( ${{files[(Ie)${{words[CURRENT-1]}}]}} )); then
    _files
  else
    compadd -a candidates
  fi
}}
compdef _streamedge streamedge
"""


def _fish(commands: Sequence[Words]) -> str:
    lines = ["# Completion of streamedge for fish; made by: streamedge completion fish"]
    lines.append("complete -c streamedge -f")
    help_of = {each.command: each.help for each in commands}
    for each in commands:
        path = each.command.split()[1:]
        condition = _fish_condition(path, each.subcommands)
        for name in each.subcommands:
            about = help_of.get(f"{each.command} {name}", "")
            lines.append(f"complete -c streamedge -n {condition} -a {name} -d {_quoted(about)}")
        for option in each.options:
            kind = "-l" if option.startswith("--") else "-s"
            takes = " -r -F" if option in each.file_options else ""
            lines.append(
                f"complete -c streamedge -n {condition} {kind} {option.lstrip('-')}{takes}"
            )
    return "\n".join(lines) + "\n"


def _fish_condition(path: list[str], subcommands: tuple[str, ...]) -> str:
    seen = [f"__fish_seen_subcommand_from {name}" for name in path]
    if subcommands:
        seen.append(f"not __fish_seen_subcommand_from {' '.join(subcommands)}")
    return _quoted("; and ".join(seen) or "true")


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
