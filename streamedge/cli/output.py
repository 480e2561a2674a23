"""What the commands share: options, the config, errors and tables.

Exit codes: see ``main``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamedge.config.load import load
from streamedge.config.schema.config import Config
from streamedge.errors import ConfigError, StreamEdgeError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

EXIT_EDGE_REFUSED = 1
EXIT_CONFIG_INVALID = 2
EXIT_PARTLY_DONE = 3
_UNWRAPPED_COLUMNS = 10_000  # wider than any row: the longest name of an object has 1,024 bytes

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

ConfigOption = Annotated[
    Path,
    typer.Option(
        "--config", "-c", metavar="FILE", help="The config file; paths in it start from its folder."
    ),
]
DEFAULT_CONFIG = Path("config.toml")
SameConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", metavar="FILE", help="The config file of the running edge."),
]

JsonResultOption = Annotated[
    bool, typer.Option("--json", help="Print what was done as a JSON object on a line.")
]


def load_or_exit(path: Path, outcome: str = "nothing was started") -> Config:
    """Loads the config, or prints its mistakes to stderr and exits with code 2."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError) as exc:
        typer.echo(_advice_when_missing(path), err=True)
        raise typer.Exit(EXIT_CONFIG_INVALID) from exc
    except OSError:
        pass  # load says why
    try:
        return load(path)
    except ConfigError as exc:
        show_mistakes(exc.problems, outcome)
        raise typer.Exit(EXIT_CONFIG_INVALID) from exc


def show_mistakes(problems: Sequence[str], outcome: str) -> None:
    for problem in problems:
        typer.echo(problem, err=True)
    count = len(problems)
    typer.echo(f"{count} mistake{'s' if count > 1 else ''}; {outcome}.", err=True)


@contextmanager
def exit_on_admin_error() -> Iterator[None]:
    """Exits with code 1 and the reason on stderr if the edge does not answer or refuses."""
    from streamedge.cli.admin_client import AdminError  # noqa: PLC0415

    with exit_on(AdminError):
        yield


@contextmanager
def exit_on(*expected: type[StreamEdgeError]) -> Iterator[None]:
    """Exits with code 1 and the reason on stderr on one of the expected errors."""
    try:
        yield
    except expected as exc:
        typer.echo(f"streamedge: {exc}", err=True)
        raise typer.Exit(EXIT_EDGE_REFUSED) from exc


@contextmanager
def exit_on_file_error() -> Iterator[None]:
    """Exits with code 2 and the reason on stderr if a file cannot be read or written."""
    try:
        yield
    except OSError as exc:
        typer.echo(f"streamedge: {exc.filename}: {exc.strerror}", err=True)
        raise typer.Exit(EXIT_CONFIG_INVALID) from exc


def show(items: object, tables: Iterable[Table], *, as_json: bool, ending: str = "") -> None:
    """Prints a list as JSON, or as tables followed by the line ``ending``."""
    if as_json:
        typer.echo(json.dumps(items, indent=2))
        return
    console = table_console()
    for table in tables:
        console.print(table)
    if ending:
        console.print(ending)


def table_console() -> Console:
    """The console for tables. Where the output is no terminal, no cell or line is wrapped."""
    from rich.console import Console  # noqa: PLC0415

    # The values are the operator's text; brackets in them are no markup.
    console = Console(markup=False, highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _UNWRAPPED_COLUMNS
    return console


def report(result: Mapping[str, Any], sentence: str, *, as_json: bool) -> None:
    """Prints what was done: as a JSON object on a line, or as a sentence."""
    typer.echo(json.dumps(result) if as_json else sentence)


def _advice_when_missing(path: Path) -> str:
    return (
        f"No config file at {path.absolute()}.\n"
        "Name yours with --config FILE, or make one: streamedge init. This one serves the folder"
        f" media over HTTP and RTMP:\n\n{SMALLEST_CONFIG}"
    )
