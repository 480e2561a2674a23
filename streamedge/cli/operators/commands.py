"""The commands that show a running edge: ``status``, ``top``, ``viewers`` and ``monitoring``."""

from __future__ import annotations

from importlib.resources import files
from typing import Annotated, Literal
from urllib.parse import quote, urlencode

import typer

from streamedge.cli.admin_options import admin_of, runs_subcommand
from streamedge.cli.output import (
    DEFAULT_CONFIG,
    EXIT_EDGE_REFUSED,
    EXIT_PARTLY_DONE,
    ConfigOption,
    JsonResultOption,
    SameConfigOption,
    exit_on_admin_error,
    report,
    show,
)

LISTED = 100  # viewers without --limit
FILES = {
    "rules": "prometheus/rules.yml",
    "rules-test": "prometheus/rules_test.yml",
    "dashboard": "grafana/streamedge.json",
}


def status(
    context: typer.Context,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Exit with code 1 if the edge does not serve, or a critical alert fires.",
        ),
    ] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the response to GET /status as JSON.")
    ] = False,
) -> None:
    """Show what the edge does now: traffic, hit ratio, origins, certificates, alerts."""
    from streamedge.cli.admin_client import call  # noqa: PLC0415
    from streamedge.cli.operators.status import has_critical, status_tables  # noqa: PLC0415

    admin = admin_of(context, config)
    with exit_on_admin_error():
        document = call(admin, "GET", "/status")
    show(document, status_tables(document), as_json=as_json)
    if check and (not document["ready"] or has_critical(document)):
        raise typer.Exit(EXIT_EDGE_REFUSED)


def top(
    context: typer.Context,
    interval: Annotated[
        float,
        typer.Option(min=0.5, max=60, metavar="SECONDS", help="The time between two updates."),
    ] = 1.0,
    count: Annotated[
        int, typer.Option(min=0, metavar="N", help="End after so many updates; 0: at Ctrl-C.")
    ] = 0,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Show traffic, origins and alerts, updated each second, and the busiest viewers."""
    from streamedge.cli.operators.top import show_top  # noqa: PLC0415

    admin = admin_of(context, config)
    with exit_on_admin_error():
        show_top(admin, interval, count)


viewers_app = typer.Typer(
    rich_markup_mode="rich",
    epilog="A viewer is an RTMP session, or an address with an agent on a site over HTTP. The"
    " edge begins to note HTTP viewers when an operator looks, so those that pause between two"
    " requests appear later. The edge must be running; GET /viewers on its admin address has the"
    " same list. Examples: [bold]streamedge viewers --kind rtmp --sort -sent_bytes[/bold], then"
    " [bold]streamedge viewers end 3f1c-2a[/bold].",
)


@viewers_app.callback(invoke_without_command=True)
def viewers(
    context: typer.Context,
    kind: Annotated[
        Literal["rtmp", "http"] | None, typer.Option(help="Only viewers over RTMP, or over HTTP.")
    ] = None,
    match: Annotated[
        str,
        typer.Option(metavar="TEXT", help="Only those with this text in address, object, agent, …"),
    ] = "",
    retiring: Annotated[
        bool,
        typer.Option(
            "--retiring", help="Only those that workers from before an upgrade still serve."
        ),
    ] = False,
    sort: Annotated[
        str,
        typer.Option(
            metavar="FIELD",
            help="rate, sent_bytes, age_s, idle_s, position_s, requests, address or object;"
            ' "-" in front: largest first.',
        ),
    ] = "-rate",
    limit: Annotated[int, typer.Option(min=1, help="List at most so many.")] = LISTED,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the response to GET /viewers as JSON.")
    ] = False,
) -> None:
    """List who watches and downloads now, over RTMP and HTTP, in all workers."""
    if runs_subcommand(context, config):
        return
    from streamedge.cli.admin_client import call  # noqa: PLC0415
    from streamedge.cli.operators.viewers import viewers_summary, viewers_tables  # noqa: PLC0415

    query = {"sort": sort, "limit": str(limit), "kind": kind or "", "match": match}
    query["retiring"] = "true" if retiring else ""
    query = {name: value for name, value in query.items() if value}
    admin = admin_of(context, config)
    with exit_on_admin_error():
        document = call(admin, "GET", f"/viewers?{urlencode(query)}")
    show(document, viewers_tables(document), as_json=as_json, ending=viewers_summary(document))


@viewers_app.command(
    epilog="Example: [bold]streamedge viewers end 3f1c-2a h0123456789abcdef[/bold]. Exit code 3 if"
    " only some of them were viewers, 1 if none was. Viewers may come again."
)
def end(
    context: typer.Context,
    identifiers: Annotated[
        list[str], typer.Argument(metavar="ID…", help="Ids, as streamedge viewers shows them.")
    ],
    config: SameConfigOption = None,
    as_json: JsonResultOption = False,
) -> None:
    """End viewers: close the RTMP session, or cut the HTTP responses."""
    from streamedge.cli.admin_client import AdminError, call, session  # noqa: PLC0415

    admin = admin_of(context, config)
    failures = 0
    with exit_on_admin_error(), session(admin) as caller:
        for identifier in identifiers:
            try:
                ended = call(caller, "DELETE", f"/viewers/{quote(identifier, safe='')}")
            except AdminError as exc:
                failures += 1
                typer.echo(f"streamedge: {exc}", err=True)
            else:
                report(ended, f"{identifier} is ended.", as_json=as_json)
    if failures:
        is_partly_done = failures < len(identifiers)
        raise typer.Exit(EXIT_PARTLY_DONE if is_partly_done else EXIT_EDGE_REFUSED)


def monitoring(
    file: Annotated[
        Literal["rules", "rules-test", "dashboard"],
        typer.Argument(help="The alert rules, their tests, or the dashboard."),
    ],
) -> None:
    """Print the alert rules for Prometheus, or the dashboard for Grafana."""
    typer.echo(files("streamedge.ops").joinpath(FILES[file]).read_text(), nl=False)
