"""``streamedge writes``: the queued writes of a running edge, and its dead letters."""

from __future__ import annotations

from typing import Annotated

import typer

from streamedge.cli.admin_options import admin_of, runs_subcommand
from streamedge.cli.output import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonResultOption,
    SameConfigOption,
    exit_on_admin_error,
    report,
    show,
)

writes_app = typer.Typer(
    rich_markup_mode="rich",
    epilog='The edge queues writes of behaviors with write = "back". Queued writes are sent until'
    " the origin accepts them. A conflict (its condition failed at the origin) and a failure (the"
    " origin refused it for good) are dead letters: they stay until you retry or discard them."
    " The edge must be running; GET /writes on its admin address has the same list."
    " Example: [bold]streamedge writes[/bold], then"
    " [bold]streamedge writes retry 7 --unconditional[/bold] to overwrite the origin's object with"
    " write 7, or [bold]streamedge writes discard 7[/bold] to delete it.",
)

SerialArgument = Annotated[
    int, typer.Argument(metavar="SERIAL", help="The write's number, as streamedge writes shows it.")
]


@writes_app.callback(invoke_without_command=True)
def writes(
    context: typer.Context,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the response to GET /writes as JSON.")
    ] = False,
) -> None:
    """List queued writes; retry or discard those that the origin refused."""
    if runs_subcommand(context, config):
        return
    from streamedge.cli.admin_client import list_writes, writes_summary, writes_tables  # noqa: PLC0415

    admin = admin_of(context, config)
    with exit_on_admin_error():
        items = list_writes(admin)
    show(items, writes_tables(items), as_json=as_json, ending=writes_summary(items))


@writes_app.command(epilog="Example: [bold]streamedge writes retry 7[/bold].")
def retry(
    context: typer.Context,
    serial: SerialArgument,
    unconditional: Annotated[
        bool,
        typer.Option(
            "--unconditional",
            help="Send it without If-Match and If-None-Match, and so overwrite the origin's"
            " object.",
        ),
    ] = False,
    config: SameConfigOption = None,
    as_json: JsonResultOption = False,
) -> None:
    """Retry a failed write, as the newest write of its object."""
    from streamedge.cli.admin_client import retry_write  # noqa: PLC0415

    admin = admin_of(context, config)
    with exit_on_admin_error():
        response = retry_write(admin, serial, unconditional=unconditional)
    sentence = f"Write {serial} is queued again, under a new number. Next: streamedge writes"
    report({"serial": serial} | response, sentence, as_json=as_json)


@writes_app.command(epilog="Example: [bold]streamedge writes discard 7[/bold].")
def discard(
    context: typer.Context,
    serial: SerialArgument,
    config: SameConfigOption = None,
    as_json: JsonResultOption = False,
) -> None:
    """Delete a failed write and its bytes."""
    from streamedge.cli.admin_client import discard_write  # noqa: PLC0415

    admin = admin_of(context, config)
    with exit_on_admin_error():
        response = discard_write(admin, serial)
    report({"serial": serial} | response, f"Write {serial} is deleted.", as_json=as_json)
