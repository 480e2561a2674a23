"""The ``streamedge log`` command: the lines of the running edge's log, as they are written."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlencode

import typer

from streamedge.cli.admin_options import admin_of
from streamedge.cli.output import DEFAULT_CONFIG, ConfigOption, exit_on_admin_error

_HEAD = frozenset({"time", "event", "process"})


def log(
    context: typer.Context,
    event: Annotated[str, typer.Option(metavar="NAME", help="Only lines of this event.")] = "",
    match: Annotated[
        str, typer.Option(metavar="TEXT", help="Only lines with this text, in any case.")
    ] = "",
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the lines as they are in the log.")
    ] = False,
) -> None:
    """Follow the log of the running edge: the newest lines, then each new one, until Ctrl-C."""
    from streamedge.cli.admin_client import events  # noqa: PLC0415

    admin = admin_of(context, config)
    query = urlencode({"event": event, "match": match})
    with exit_on_admin_error(), contextlib.suppress(KeyboardInterrupt):
        for line in events(admin, f"/log/stream?{query}"):
            typer.echo(json.dumps(line) if as_json else readable(line))


def readable(line: Mapping[str, Any]) -> str:
    """A log line as text: its time, process and event, then its other fields."""
    clock = time.strftime("%H:%M:%S", time.localtime(line.get("time", 0)))
    fields = [
        f"{name}={value if isinstance(value, int | float) else json.dumps(value)}"
        for name, value in line.items()
        if name not in _HEAD
    ]
    return " ".join([clock, str(line.get("process", "-")), str(line.get("event", "-")), *fields])
