"""The ``streamedge fleet`` commands: what operators see of a fleet, and do with its edges."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamedge.cli.admin_options import admin_of, runs_subcommand
from streamedge.cli.output import (
    DEFAULT_CONFIG,
    EXIT_EDGE_REFUSED,
    ConfigOption,
    JsonResultOption,
    SameConfigOption,
    exit_on,
    exit_on_admin_error,
    report,
    show,
)
from streamedge.config.schema.units import parse_address
from streamedge.fleet.zone import TTL_S

if TYPE_CHECKING:
    from rich.table import Table

    from streamedge.config.schema.config import Config

fleet_app = typer.Typer(
    rich_markup_mode="rich",
    epilog="Any edge of the fleet answers; all of them answer the same. A plan for maintenance:"
    " [bold]streamedge fleet drain fra-1[/bold] sends viewers to other edges; wait until its load"
    " is 0, stop it, do the work, start it, [bold]streamedge fleet undrain fra-1[/bold]. The edge"
    " must be running; GET /fleet on its admin address has the same table as JSON.",
)

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="The edge's name, as streamedge fleet shows it.")
]


@fleet_app.callback(invoke_without_command=True)
def fleet(
    context: typer.Context,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the response to GET /fleet as JSON.")
    ] = False,
) -> None:
    """Show the edges of the fleet: place, state, position in the shared log, lag and load.

    States: joining (not up to date yet), up, lost (no longer reaches the engine), draining, gone
    (does not report), unknown (this edge does not reach the engine). Lag is the number of entries
    that an edge has yet to apply.
    """
    if runs_subcommand(context, config):
        return
    from streamedge.cli.admin_client import call  # noqa: PLC0415

    admin = admin_of(context, config)
    with exit_on_admin_error():
        document = call(admin, "GET", "/fleet")
    show(document, fleet_tables(document), as_json=as_json, ending=fleet_summary(document))


@fleet_app.command(epilog="Example: [bold]streamedge fleet drain fra-1[/bold].")
def drain(
    context: typer.Context,
    name: NameArgument,
    config: SameConfigOption = None,
    as_json: JsonResultOption = False,
) -> None:
    """Send viewers elsewhere; what runs at the edge finishes.

    Its traffic check answers 503, RTMP clients that can get a request to reconnect, and other
    edges get from it what it has cached. It goes on draining after a restart, until undrain.
    """
    document = _change(context, config, "POST", name, "/drain")
    sentence = f"{name} drains. Next: streamedge fleet shows its load; stop it when it is 0."
    if document.get("held_writes"):
        sentence += (
            f"\nIt holds queued writes of {document['held_writes']} objects, which no other edge"
            " has: its streamedge writes shows when they are sent."
        )
    report({"name": name} | document, sentence, as_json=as_json)


@fleet_app.command(
    epilog="Examples: [bold]streamedge fleet zone > zone.txt[/bold];"
    " [bold]streamedge fleet zone --push http://127.0.0.1:8081 --api-key-file key[/bold]."
    " What PowerDNS needs is in docs/guides/nearest-edge.md."
)
def zone(
    context: typer.Context,
    push: Annotated[
        str, typer.Option(metavar="URL", help="Write the records through PowerDNS's API there.")
    ] = "",
    api_key_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File with the value of api-key in pdns.conf."),
    ] = None,
    dns: Annotated[
        str,
        typer.Option(metavar="HOST:PORT", help="Where PowerDNS answers DNS; default: URL's host."),
    ] = "",
    zone_name: Annotated[
        str,
        typer.Option(
            "--zone",
            metavar="NAME",
            help="The zone; default: the closest ones that PowerDNS has, or what all aliases have"
            " in common.",
        ),
    ] = "",
    port: Annotated[
        int,
        typer.Option(
            min=0,
            max=65_535,
            help="Port of the edges' traffic check over HTTP; default: this edge's listen.http.",
        ),
    ] = 0,
    ttl: Annotated[
        int, typer.Option(min=0, max=86_400, help="Seconds that resolvers keep an answer.")
    ] = TTL_S,
    nameserver: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST", help="A name server of a new zone; may be repeated. Default: ns1.ZONE."
        ),
    ] = None,
    config: SameConfigOption = None,
) -> None:
    """Print the DNS zone that sends viewers to the nearest edge, or push it to PowerDNS.

    Every alias of a distribution gets a LUA record, and every edge a name of its own below it.
    A push changes only the records that it has made before; run it again after aliases or edges
    have changed.
    """
    from streamedge.cli.admin_client import AdminError  # noqa: PLC0415
    from streamedge.cli.fleet.powerdns import PowerDnsError  # noqa: PLC0415
    from streamedge.cli.fleet.zone import ZoneOptions, push_zone, read_zone, zone_file  # noqa: PLC0415
    from streamedge.fleet.zone import ZoneError  # noqa: PLC0415

    try:
        dns_address = parse_address(dns) if dns else None
    except ValueError as exc:
        raise typer.BadParameter(str(exc), param_hint="--dns") from exc
    admin = admin_of(context, config)
    options = ZoneOptions(zone_name, port, ttl, nameserver or ())
    with exit_on(AdminError, ZoneError, PowerDnsError):
        if bool(push) != (api_key_file is not None):
            raise PowerDnsError("--push and --api-key-file belong together")
        fleet_zone = read_zone(admin)
        if api_key_file is None:
            typer.echo(zone_file(fleet_zone, options), nl=False)
            return
        for line in push_zone(fleet_zone, options, push, api_key_file, dns_address):
            typer.echo(line)


@fleet_app.command(epilog="Example: [bold]streamedge fleet undrain fra-1[/bold].")
def undrain(
    context: typer.Context,
    name: NameArgument,
    config: SameConfigOption = None,
    as_json: JsonResultOption = False,
) -> None:
    """Let viewers come to the edge again."""
    document = _change(context, config, "POST", name, "/undrain")
    sentence = f"{name} takes viewers again as soon as it is up."
    report({"name": name} | document, sentence, as_json=as_json)


@fleet_app.command(epilog="Example: [bold]streamedge fleet remove fra-1[/bold].")
def remove(
    context: typer.Context,
    name: NameArgument,
    config: SameConfigOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also if it holds queued writes: they are lost.")
    ] = False,
    as_json: JsonResultOption = False,
) -> None:
    """Remove an edge that has stopped; one that is started again joins again."""
    document = _change(context, config, "DELETE", name, "?force=1" if force else "")
    sentence = f"{name} has left the fleet. Remove it from fleet.tiers of the other edges' configs."
    report({"name": name} | document, sentence, as_json=as_json)


@fleet_app.command(
    epilog="Examples: [bold]streamedge fleet owner https://cdn.example.com/film.mp4[/bold],"
    " [bold]streamedge fleet owner rtmp://cdn.example.com/vod/film.mp4[/bold]."
)
def owner(
    context: typer.Context,
    url: Annotated[str, typer.Argument(metavar="URL", help="An object's URL, as viewers use it.")],
    config: SameConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Show which edges of the tier own the parts of an object.

    The owner of a part requests it from the origin for all edges; if it fails, the next one does.
    """
    from urllib.parse import quote  # noqa: PLC0415

    from streamedge.cli.admin_client import call  # noqa: PLC0415

    admin = admin_of(context, config)
    with exit_on_admin_error():
        document = call(admin, "GET", f"/fleet/owner?url={quote(url, safe='')}")
    show(document, owner_tables(document), as_json=as_json)


@fleet_app.command(epilog="Example: [bold]streamedge fleet check || alarm[/bold].")
def check(
    context: typer.Context,
    config: SameConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Look for problems of the fleet; exit code 1 if there are any.

    Settings of the engine that lose data, edges that do not report or lack a place or addresses,
    unknown names in tiers, and certificates that expire within 30 days.
    """
    from streamedge.cli.admin_client import call  # noqa: PLC0415

    admin = admin_of(context, config)
    with exit_on_admin_error():
        document = call(admin, "GET", "/fleet/check")
    problems = document["problems"]
    if as_json:
        typer.echo(json.dumps(document, indent=2))
    else:
        for problem in problems:
            typer.echo(problem)
        typer.echo(f"{len(problems)} problem{'s' * (len(problems) != 1)}.")
    if problems:
        raise typer.Exit(EXIT_EDGE_REFUSED)


@fleet_app.command(
    epilog="Example: [bold]streamedge fleet certificate fra-1 --ca fleet-ca.pem[/bold] writes"
    " fra-1.pem and fra-1.key. The first time it also makes the CA: fleet-ca.pem, which every edge"
    " gets, and fleet-ca.key, which stays where you make certificates. Then name the files under"
    " \\[fleet] in the edge's config."
)
def certificate(
    name: Annotated[str, typer.Argument(metavar="NAME", help="edge.name in the edge's config.")],
    ca: Annotated[
        Path, typer.Option("--ca", metavar="FILE", help="The CA's certificate; made if missing.")
    ] = Path("fleet-ca.pem"),
    days: Annotated[
        int, typer.Option(min=1, max=3650, help="How long the edge's certificate is valid.")
    ] = 365,
) -> None:
    """Make an edge's certificate for the connections between edges."""
    from streamedge.cli.fleet.certificates import CertificateFilesError, make_certificate  # noqa: PLC0415

    with exit_on(CertificateFilesError):
        files = make_certificate(name, ca, days)
    for file in files:
        typer.echo(f"Wrote {file}")


def engine_problems(config: Config) -> list[str]:
    """Settings of the engine that lose data, or why it cannot be reached."""
    import asyncio  # noqa: PLC0415

    from streamedge.shared_log.engine import EngineError  # noqa: PLC0415
    from streamedge.shared_log.opening import open_engine  # noqa: PLC0415

    async def find() -> list[str]:
        fleet = config.fleet
        try:
            engine = open_engine(fleet.engine, fleet.prefix, client_name="streamedge-check")
            try:
                return await engine.problems()
            finally:
                await engine.close()
        except EngineError as exc:
            return [str(exc)]

    return asyncio.run(find())


def _change(
    context: typer.Context, config: Path | None, method: str, name: str, action: str = ""
) -> dict[str, Any]:
    from urllib.parse import quote  # noqa: PLC0415

    from streamedge.cli.admin_client import call  # noqa: PLC0415

    admin = admin_of(context, config)
    with exit_on_admin_error():
        return call(admin, method, f"/fleet/{quote(name, safe='')}{action}")


def fleet_summary(document: Mapping[str, Any]) -> str:
    """The state of the edge that has answered, and of the engine, in one line."""
    engine = "answers" if document["engine_up"] else "does not answer"
    text = f"{document['edge']} is {document['state']}; the engine {document['engine']} {engine}"
    if document["unpublished"]:
        text += f"; {document['unpublished']} entries of this edge wait for it"
    return f"{text}."


def fleet_tables(document: Mapping[str, Any]) -> Iterator[Table]:
    """The edges as a table."""
    from rich.table import Table  # noqa: PLC0415

    table = Table(title="Fleet", title_justify="left", title_style="bold")
    for column in ("Name", "Place", "State", "Position", "Lag", "Load", "Addresses"):
        table.add_column(column, overflow="fold")
    for edge in document["edges"]:
        place = ""
        if edge["location"] is not None:
            latitude, longitude = edge["location"]
            place = f"{latitude:g}, {longitude:g}"
        table.add_row(
            edge["name"],
            place,
            edge["state"],
            edge["position"] or "",
            "" if edge["lag"] is None else str(edge["lag"]),
            "" if edge["load"] is None else str(edge["load"]),
            ", ".join(edge["addresses"]),
        )
    yield table


def owner_tables(document: Mapping[str, Any]) -> Iterator[Table]:
    """The owners of an object's parts as a table."""
    from rich.table import Table  # noqa: PLC0415

    from streamedge.config.schema.units import format_size_bytes  # noqa: PLC0415

    title = f"{document['object']} of {document['origin']}, tier {document['tier']}"
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in ("Bytes from", "Owner", "Then"):
        table.add_column(column, overflow="fold")
    for number, names in enumerate(document["parts"]):
        begin = format_size_bytes(number * document["part_bytes"])
        table.add_row(begin, names[0], ", ".join(names[1:]))
    yield table
