"""``streamedge password``: hashes for ``[admin]`` of the config file."""

from __future__ import annotations

import sys

import typer

from streamedge.admin.access.passwords import (
    PASSWORD_CHARACTERS_MAX,
    hash_password,
    hash_token,
    new_token,
)
from streamedge.cli.output import EXIT_CONFIG_INVALID

PASSWORD_CHARACTERS_MIN = 8


def prompt_password() -> None:
    """Prints the hash of a password that is typed twice, or of the first line of stdin."""
    if sys.stdin.isatty():
        password = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    else:
        password = sys.stdin.readline().removesuffix("\n")
    if not PASSWORD_CHARACTERS_MIN <= len(password) <= PASSWORD_CHARACTERS_MAX:
        typer.echo(
            f"streamedge: expected {PASSWORD_CHARACTERS_MIN} to {PASSWORD_CHARACTERS_MAX}"
            f" characters, not {len(password)}",
            err=True,
        )
        raise typer.Exit(EXIT_CONFIG_INVALID)
    typer.echo(hash_password(password))


def print_token() -> None:
    """Prints a new token, and the hash that belongs into the config file."""
    token = new_token()
    typer.echo(f"token {token}\nhash  {hash_token(token)}")
