"""``streamedge config``: shows a config, compares two, and explains keys."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streamedge.cli.output import (
    DEFAULT_CONFIG,
    EXIT_CONFIG_INVALID,
    EXIT_EDGE_REFUSED,
    ConfigOption,
    load_or_exit,
)

if TYPE_CHECKING:
    from streamedge.config.schema.config import Config

config_app = typer.Typer(
    rich_markup_mode="rich",
    no_args_is_help=True,
    epilog="Example: [bold]streamedge config show[/bold]. The edge need not run.",
)


@config_app.command(
    epilog="Example: [bold]streamedge config show --config /etc/streamedge/config.toml[/bold]."
    " Included files are in it, paths are absolute, and secrets are masked."
)
def show(
    config: ConfigOption = DEFAULT_CONFIG,
    all_keys: Annotated[
        bool, typer.Option("--all", help="Also keys with their default value, as comments.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the keys and values as a JSON object.")
    ] = False,
) -> None:
    """Show the whole config as one TOML file, without secrets."""
    loaded = load_or_exit(config)
    from streamedge.config.as_toml import config_as_toml, key_values  # noqa: PLC0415

    if as_json:
        typer.echo(json.dumps(key_values(loaded, with_defaults=all_keys), indent=2))
        return
    typer.echo(config_as_toml(loaded, with_defaults=all_keys), nl=False)


@config_app.command(
    epilog="Examples: [bold]streamedge config diff old.toml --config new.toml[/bold];"
    " [bold]streamedge config diff[/bold] compares with the defaults. Exit code 1 if they differ,"
    " as diff has it. Secrets are masked: a changed one is named without its values."
)
def diff(
    other: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]", help="The config to compare with; default: one without keys."
        ),
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="Print a list of JSON objects.")] = False,
) -> None:
    """Show which keys differ between two configs, and which of them need a restart."""
    after = load_or_exit(config)
    from streamedge.config.schema.config import Config  # noqa: PLC0415

    before = Config() if other is None else load_or_exit(other)
    rows = list(_differences(before, after))
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    for row in () if as_json else rows:
        typer.echo(f"{row['key']}: {row['before']} → {row['after']} ({row['applies']})")
    if rows:
        raise typer.Exit(EXIT_EDGE_REFUSED)


def _differences(before: Config, after: Config) -> Iterator[dict[str, str]]:
    from streamedge.config.as_toml import key_values  # noqa: PLC0415
    from streamedge.process.reload import changes, plan_reload  # noqa: PLC0415

    needs_restart = set(plan_reload(before, before, after).needs_restart)
    old, new = key_values(before), key_values(after)
    rows: dict[str, tuple[str, str]] = {
        key: (old.get(key, "default"), new.get(key, "default"))
        for key in (*old, *(key for key in new if key not in old))
        if old.get(key) != new.get(key)
    }
    for key in changes(before, after):
        if not any(name == key or name.startswith(f"{key}.") for name in rows):
            rows[key] = ("changed", "changed")  # a secret, or an order
    for key, (one, other) in rows.items():
        is_restart = any(key == name or key.startswith(f"{name}.") for name in needs_restart)
        applies = "restart" if is_restart else "live"
        yield {"key": key, "before": one, "after": other, "applies": applies}


@config_app.command(
    epilog="Examples: [bold]streamedge config reference listen.http[/bold];"
    " [bold]streamedge config reference tls[/bold] finds all keys with that word."
)
def reference(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="WORD…",
            help="Show only keys with all of these words, in the name or the explanation.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a list of JSON objects.")] = False,
) -> None:
    """Explain the keys of the config file: type, default, limits, and whether a reload applies."""
    from streamedge.config.reference import entries  # noqa: PLC0415

    rows = [
        entry
        for entry in entries()
        if all(word.lower() in " ".join(entry.values()).lower() for word in words or ())
    ]
    if not rows:
        typer.echo(f"streamedge: no key has {' and '.join(words or ())}", err=True)
        raise typer.Exit(EXIT_CONFIG_INVALID)
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        limits = f", {row['limits']}" if row["limits"] else ""
        typer.echo(
            f"{row['key']}  {row['type']}{limits}; default: {row['default']}; {row['reload']}"
        )
        typer.echo(f"    {row['meaning']}")
