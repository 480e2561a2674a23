"""The ``streamedge`` command: words for the operator, and nothing else.

Owns options, help, what is printed and the exit codes: 0 is well, 1 is an edge that cannot be
started or asked, or that says no, 2 is a config that will not do. What a config means is
``config``'s business, and running the edge is ``edge``'s. What one command needs alone is imported
there, so that the others start sooner.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from streamedge.config.load import load
from streamedge.config.schema import Config
from streamedge.errors import ConfigError

EXIT_EDGE_REFUSED = 1
EXIT_CONFIG_INVALID = 2

SMALLEST_CONFIG = """\
[origins.samples]
type = "directory"
path = "media"

[[distributions]]
id = "EWEB"
type = "web"
origin = "samples"

[[distributions]]
id = "ESTREAM"
type = "rtmp"
origin = "samples"
"""

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    epilog="Begin with [bold]streamedge check[/bold], then [bold]streamedge serve[/bold]."
    " Every key of the config file is explained in README.md, under Config reference.",
)

ConfigOption = Annotated[
    Path,
    typer.Option(
        "--config", "-c", metavar="FILE", help="The config file; paths in it start from its folder."
    ),
]
DEFAULT_CONFIG = Path("config.toml")


def _show_version(is_asked: bool) -> None:
    if not is_asked:
        return
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415

    try:
        number = version("streamedge")
    except PackageNotFoundError:
        number = "(a source tree that is not installed)"
    typer.echo(f"streamedge {number}")
    raise typer.Exit


@app.callback()
def streamedge(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and leave."
        ),
    ] = False,
) -> None:
    """One edge of a content delivery network: media from S3, HTTP or a folder, over RTMP and HTTP.

    What is asked for is fetched from its origin, kept, and sent on while the download still runs.
    """


@app.command(
    epilog="Example: [bold]streamedge serve --config /etc/streamedge/config.toml[/bold]."
    " SIGTERM lets running viewers finish; /healthz on the admin address says when it is up."
)
def serve(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Run the edge until it is stopped."""
    loaded = _load_or_exit(config)
    from streamedge.edge.supervisor import serve as run  # noqa: PLC0415  # keeps check and help quick

    raise typer.Exit(run(loaded))


@app.command(
    epilog="Example: [bold]streamedge check --config config.toml[/bold]."
    " Exit code 2 and one line on stderr for each mistake; 0 and a summary when there is none."
    " Next: [bold]streamedge serve[/bold]."
)
def check(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Validate a config file: every mistake at once, or a summary of what it serves."""
    from rich.console import Console  # noqa: PLC0415

    from streamedge.config.summary import summary  # noqa: PLC0415

    loaded = _load_or_exit(config)
    # Values are the operator's own text, in which brackets are no markup.
    console = Console(markup=False, highlight=False)
    for table in summary(loaded):
        console.print(table)
    console.print(f"{config}: no mistakes. Next: streamedge serve --config {config}")


writes_app = typer.Typer(
    rich_markup_mode="rich",
    epilog='Writes wait where a behavior has write = "back". Those that are queued or being sent'
    " need nobody: they are tried until the origin takes them. A conflict (its condition did not"
    " hold at the origin) and a failure (the origin will never take it) are kept until you say"
    " what becomes of them. The edge must be running: its admin address is asked, where"
    " GET /writes says the same. Example: [bold]streamedge writes[/bold], then"
    " [bold]streamedge writes retry 7 --unconditional[/bold] to write number 7 over whatever the"
    " origin has, or [bold]streamedge writes discard 7[/bold] to give it up.",
)
app.add_typer(writes_app, name="writes")

SerialArgument = Annotated[
    int, typer.Argument(metavar="SERIAL", help="The write's number, as streamedge writes shows it.")
]
SameConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", metavar="FILE", help="The config file of the running edge."),
]


@writes_app.callback(invoke_without_command=True)
def writes(
    context: typer.Context,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what GET /writes on the admin address says.")
    ] = False,
) -> None:
    """Show the writes that an origin does not have yet, and decide about those it refused."""
    if context.invoked_subcommand is not None:
        context.obj = config
        return
    from rich.console import Console  # noqa: PLC0415

    from streamedge.edge.writes_client import list_writes, sum_up, tables  # noqa: PLC0415

    loaded = _load_or_exit(config)
    with _answered():
        listed = list_writes(loaded.listen.admin)
    if as_json:
        typer.echo(json.dumps(listed, indent=2))
        return
    console = Console(markup=False, highlight=False)
    for table in tables(listed):
        console.print(table)
    console.print(sum_up(listed))


@writes_app.command(epilog="Example: [bold]streamedge writes retry 7[/bold].")
def retry(
    context: typer.Context,
    serial: SerialArgument,
    unconditional: Annotated[
        bool,
        typer.Option(
            "--unconditional",
            help="Drop its If-Match and If-None-Match, which would fail again in a conflict: it"
            " overwrites whatever the origin has by now.",
        ),
    ] = False,
    config: SameConfigOption = None,
) -> None:
    """Try a kept write again, as the newest of its object."""
    loaded = _load_or_exit(config or context.obj)
    from streamedge.edge.writes_client import retry_write  # noqa: PLC0415

    with _answered():
        retry_write(loaded.listen.admin, serial, unconditional=unconditional)
    typer.echo(f"Write {serial} is queued again, under a new number. Next: streamedge writes")


@writes_app.command(epilog="Example: [bold]streamedge writes discard 7[/bold].")
def discard(
    context: typer.Context, serial: SerialArgument, config: SameConfigOption = None
) -> None:
    """Give a kept write up: its bytes are removed, and cannot be had again."""
    loaded = _load_or_exit(config or context.obj)
    from streamedge.edge.writes_client import discard_write  # noqa: PLC0415

    with _answered():
        discard_write(loaded.listen.admin, serial)
    typer.echo(f"Write {serial} is gone.")


def main() -> None:
    """The entry point of the ``streamedge`` command."""
    app()


def _load_or_exit(path: Path) -> Config:
    """The config, or its mistakes on stderr and exit code 2."""
    if not path.exists():
        typer.echo(_advice_when_missing(path), err=True)
        raise typer.Exit(EXIT_CONFIG_INVALID)
    try:
        return load(path)
    except ConfigError as exc:
        for problem in exc.problems:
            typer.echo(problem, err=True)
        count = len(exc.problems)
        typer.echo(f"{count} mistake{'s' if count > 1 else ''}; nothing was started.", err=True)
        raise typer.Exit(EXIT_CONFIG_INVALID) from exc


@contextmanager
def _answered() -> Iterator[None]:
    """Exit code 1 and the reason on stderr where the running edge gives no answer, or says no."""
    from streamedge.edge.writes_client import AdminError  # noqa: PLC0415

    try:
        yield
    except AdminError as exc:
        typer.echo(f"streamedge: {exc}", err=True)
        raise typer.Exit(EXIT_EDGE_REFUSED) from exc


def _advice_when_missing(path: Path) -> str:
    return (
        f"No config file: looked for {path.absolute()}.\n"
        "Say where it is with --config FILE, or write one there. This is enough to serve a folder"
        f" named media over HTTP and RTMP:\n\n{SMALLEST_CONFIG}"
    )
