"""The ``streamedge`` command: words for the operator, and nothing else.

Owns options, help, what is printed and the exit codes: 0 is well, 2 is a config that will not
do. What a config means is ``config``'s business, and running the edge is ``edge``'s. What one
command needs alone is imported there, so that the others start sooner.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from streamedge.config.load import load
from streamedge.config.schema import Config
from streamedge.errors import ConfigError

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


def _advice_when_missing(path: Path) -> str:
    return (
        f"No config file: looked for {path.absolute()}.\n"
        "Say where it is with --config FILE, or write one there. This is enough to serve a folder"
        f" named media over HTTP and RTMP:\n\n{SMALLEST_CONFIG}"
    )
