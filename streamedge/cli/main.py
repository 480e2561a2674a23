"""The ``streamedge`` command: words for the operator, and nothing else.

Owns options, help, what is printed and the exit codes: 0 is well, 1 is an edge that cannot be
started or asked, or that says no, 2 is a config, or something to sign, that will not do. What a
config means is ``config``'s business, and running the edge is ``edge``'s. What one command needs
alone is imported there, so that the others start sooner.
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from streamedge.config.load import load
from streamedge.config.schema.config import Config
from streamedge.errors import ConfigError, StreamEdgeError

if TYPE_CHECKING:
    from rich.table import Table

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
    " Every key of the config file is explained in docs/reference/config.md.",
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
    gc.disable()  # nothing that is imported is garbage; the supervisor turns it on again
    loaded = _load_or_exit(config)
    from streamedge.process.supervisor import serve as run  # noqa: PLC0415  # keeps check and help quick

    raise typer.Exit(run(loaded, config))


@app.command(
    epilog="Example: [bold]streamedge check --config config.toml[/bold]."
    " Exit code 2 and one line on stderr for each mistake; 0 and a summary when there is none."
    " Next: [bold]streamedge serve[/bold]."
)
def check(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Validate a config file: every mistake at once, or a summary of what it serves."""
    from rich.console import Console  # noqa: PLC0415

    from streamedge.cli.config_summary import summary  # noqa: PLC0415
    from streamedge.control.recovery import problem_with  # noqa: PLC0415

    loaded = _load_or_exit(config)
    if problem := problem_with(loaded.edge.cache):
        typer.echo(f"streamedge: {problem}", err=True)
        raise typer.Exit(EXIT_CONFIG_INVALID)
    # Values are the operator's own text, in which brackets are no markup.
    console = Console(markup=False, highlight=False)
    for table in summary(loaded):
        console.print(table)
    console.print(f"{config}: no mistakes. Next: streamedge serve --config {config}")


@app.command(
    epilog="Example: [bold]streamedge distributions[/bold], or with an id for its behaviors:"
    " [bold]streamedge distributions EWEB[/bold]. The config file and the control database beside"
    " the cache are read, so the edge need not run. What the API has made is changed through the"
    " API; what the file declares, there, and then [bold]streamedge reload[/bold]."
)
def distributions(
    identifier: Annotated[
        str, typer.Argument(metavar="[ID]", help="The distribution to show; left out: all.")
    ] = "",
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="Print a list of JSON objects.")] = False,
) -> None:
    """Show the distributions that the config declares and that were made through the API."""
    loaded = _load_or_exit(config)
    from streamedge.cli.listings import NoDistributionError, distribution_tables, list_distributions  # noqa: PLC0415
    from streamedge.control.database import ControlError  # noqa: PLC0415

    with _told(ControlError, NoDistributionError):
        listed = list_distributions(loaded, identifier)
    _show(listed, distribution_tables(listed), as_json=as_json)


@app.command(
    epilog="Example: edit config.toml, then [bold]streamedge reload[/bold]. The running edge reads"
    " the file that it was started with, as it does on SIGHUP; no connection is dropped. A file"
    " with mistakes changes nothing: exit code 2 and one line on stderr for each. What needs a"
    " restart (listen, workers, the cache's folder) is named and stays as it is."
)
def reload(
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what POST /reload on the admin address says.")
    ] = False,
) -> None:
    """Have the running edge read its config file anew."""
    loaded = _load_or_exit(config, "nothing has changed")
    from streamedge.cli.admin_client import (  # noqa: PLC0415
        AdminError,
        reload_summary,
    )
    from streamedge.cli.admin_client import reload as ask_reload  # noqa: PLC0415

    with _answered():
        try:
            said = ask_reload(loaded.listen.admin)
        except AdminError as exc:
            if "problems" not in exc.answer:
                raise
            _show_mistakes(exc.answer["problems"], "nothing has changed")
            raise typer.Exit(EXIT_CONFIG_INVALID) from exc
    if as_json:
        typer.echo(json.dumps(said, indent=2))
        return
    for line in reload_summary(said):
        typer.echo(line)


@app.command(
    epilog='Example: [bold]streamedge invalidate EWEB "/news/*" /index.html[/bold], or of all'
    ' responses with a tag: [bold]--tag news[/bold]. A star may stand anywhere; "/*" is everything;'
    " /page means the form without query, /page?v=2 the one with it. It is in force from the next"
    " request on, in every worker, over HTTP and RTMP."
)
def invalidate(
    distribution: Annotated[str, typer.Argument(metavar="DIST", help="The distribution's id.")],
    paths: Annotated[
        list[str] | None, typer.Argument(metavar="PATH…", help="What is to go, as in a URL.")
    ] = None,
    tags: Annotated[
        list[str] | None, typer.Option("--tag", metavar="T", help="A cache tag that is to go.")
    ] = None,
    soft: Annotated[
        bool, typer.Option("--soft", help="Let it be stale, as at the end of its TTL.")
    ] = False,
    revoke: Annotated[
        bool, typer.Option("--revoke", help="End responses and plays of it that run.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Answer once every worker has looked.")
    ] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what POST /invalidations says.")
    ] = False,
) -> None:
    """Have what is cached asked for anew before its time."""
    loaded = _load_or_exit(config, "nothing has changed")
    from streamedge.cli import admin_client as client  # noqa: PLC0415

    admin, wishes = loaded.listen.admin, {"soft": soft, "revoke": revoke, "wait": wait}
    with _answered():
        said = client.invalidate(admin, distribution, paths or (), tags or (), **wishes)
    typer.echo(json.dumps(said, indent=2) if as_json else client.invalidation_summary(said))
    if said.get("applied") is False:
        raise typer.Exit(EXIT_EDGE_REFUSED)


@app.command(
    epilog="Example: [bold]streamedge sign mp4:dir/film.mp4 --key site.pem --key-id K2JCJMDEHXQW5F"
    " --expires 2h[/bold]. Times are seconds of the epoch, dates such as 2030-01-31T18:00:00Z, or"
    " from now on: 90m, 2h, 7d. A URL is signed as players will ask for it, with its query. For"
    ' many objects: [bold]streamedge sign "https://cdn.example.com/videos/*" … --cookies[/bold],'
    ' which curl takes as --cookie "$(streamedge sign …)". The edge need not run;'
    " [bold]streamedge keys[/bold] shows which keys it trusts."
)
def sign(
    name: Annotated[
        str,
        typer.Argument(metavar="URL|STREAM", help="What to sign: a URL, or a stream's name."),
    ],
    key: Annotated[
        Path, typer.Option(metavar="PEM", help="The private key: RSA, or ECDSA on P-256.")
    ],
    key_id: Annotated[str, typer.Option(metavar="ID", help="The public key's name at the edge.")],
    policy: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A policy of your own, as JSON.")
    ] = None,
    expires: Annotated[str, typer.Option(metavar="WHEN", help="Until when it may be begun.")] = "",
    begins: Annotated[
        str, typer.Option("--from", metavar="WHEN", help="From when on; left out: at once.")
    ] = "",
    ip: Annotated[
        list[str] | None,
        typer.Option(metavar="NET", help="From which address or network; may be repeated."),
    ] = None,
    hash_name: Annotated[
        Literal["sha1", "sha256"], typer.Option("--hash", help="As CloudFront, sha1 if not said.")
    ] = "sha1",
    cookies: Annotated[bool, typer.Option("--cookies", help="Print a Cookie field.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Sign a URL, a stream's name or cookies, as publishers do for CloudFront."""
    from streamedge.cli import sign as signing  # noqa: PLC0415

    if bool(policy) == bool(expires) or (policy and (begins or ip)):
        raise typer.BadParameter("say --expires, and --from and --ip if you want; or --policy")
    now_s = time.time()
    try:
        signer = signing.load_signer(key, key_id, "SHA256" if hash_name == "sha256" else "SHA1")
        if policy is not None:
            signature = signing.sign_policy(signer, name, signing.read_policy(policy), now_s)
        else:
            until_s = signing.parse_when(expires, now_s)
            from_s = signing.parse_when(begins, now_s) if begins else None
            terms = signing.Terms(until_s, from_s, tuple(ip or ()))
            signature = signing.sign_terms(signer, name, terms, now_s)
        signed = None if cookies else signing.signed_name(name, signature)
    except signing.SigningError as exc:
        typer.echo(f"streamedge: {exc}", err=True)
        raise typer.Exit(EXIT_CONFIG_INVALID) from exc
    if as_json:
        typer.echo(json.dumps(signing.described(signer, signature, signed), indent=2))
    else:
        typer.echo(signed or signing.cookie_field(signature))


@app.command(
    epilog="Example: [bold]streamedge keys[/bold]. A signature is taken if its Key-Pair-Id names a"
    " key in a group that the distribution, or the behavior of the path, has among its"
    " trusted_key_groups. To change keys, add the new one to the group, sign with it, then remove"
    " the old, each with [bold]streamedge reload[/bold]. The edge need not run."
)
def keys(
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="Print a list of JSON objects.")] = False,
) -> None:
    """Show the public keys that signatures are verified with, and who trusts them."""
    loaded = _load_or_exit(config)
    from streamedge.cli.listings import key_tables, list_keys  # noqa: PLC0415
    from streamedge.control.database import ControlError  # noqa: PLC0415

    with _told(ControlError):
        listed = list_keys(loaded)
    none = "No public keys. Declare them in tables [public_keys.ID] of the config file."
    _show(listed, key_tables(listed), as_json=as_json, ending="" if listed else none)


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
    from streamedge.cli.admin_client import list_writes, writes_summary, writes_tables  # noqa: PLC0415

    loaded = _load_or_exit(config)
    with _answered():
        listed = list_writes(loaded.listen.admin)
    _show(listed, writes_tables(listed), as_json=as_json, ending=writes_summary(listed))


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
    from streamedge.cli.admin_client import retry_write  # noqa: PLC0415

    with _answered():
        retry_write(loaded.listen.admin, serial, unconditional=unconditional)
    typer.echo(f"Write {serial} is queued again, under a new number. Next: streamedge writes")


@writes_app.command(epilog="Example: [bold]streamedge writes discard 7[/bold].")
def discard(
    context: typer.Context, serial: SerialArgument, config: SameConfigOption = None
) -> None:
    """Give a kept write up: its bytes are removed, and cannot be had again."""
    loaded = _load_or_exit(config or context.obj)
    from streamedge.cli.admin_client import discard_write  # noqa: PLC0415

    with _answered():
        discard_write(loaded.listen.admin, serial)
    typer.echo(f"Write {serial} is gone.")


def main() -> None:
    """The entry point of the ``streamedge`` command."""
    app()


def _load_or_exit(path: Path, outcome: str = "nothing was started") -> Config:
    """The config, or its mistakes on stderr and exit code 2."""
    if not path.exists():
        typer.echo(_advice_when_missing(path), err=True)
        raise typer.Exit(EXIT_CONFIG_INVALID)
    try:
        return load(path)
    except ConfigError as exc:
        _show_mistakes(exc.problems, outcome)
        raise typer.Exit(EXIT_CONFIG_INVALID) from exc


def _show_mistakes(problems: Sequence[str], outcome: str) -> None:
    for problem in problems:
        typer.echo(problem, err=True)
    count = len(problems)
    typer.echo(f"{count} mistake{'s' if count > 1 else ''}; {outcome}.", err=True)


@contextmanager
def _answered() -> Iterator[None]:
    """Exit code 1 and the reason on stderr where the running edge gives no answer, or says no."""
    from streamedge.cli.admin_client import AdminError  # noqa: PLC0415

    with _told(AdminError):
        yield


@contextmanager
def _told(*expected: type[StreamEdgeError]) -> Iterator[None]:
    """Exit code 1 and the reason on stderr for what is expected to go wrong."""
    try:
        yield
    except expected as exc:
        typer.echo(f"streamedge: {exc}", err=True)
        raise typer.Exit(EXIT_EDGE_REFUSED) from exc


def _show(listed: object, tables: Iterable[Table], *, as_json: bool, ending: str = "") -> None:
    """Prints a list as JSON, or as tables with a line behind them."""
    if as_json:
        typer.echo(json.dumps(listed, indent=2))
        return
    from rich.console import Console  # noqa: PLC0415

    # Values are the operator's own text, in which brackets are no markup.
    console = Console(markup=False, highlight=False)
    for table in tables:
        console.print(table)
    if ending:
        console.print(ending)


def _advice_when_missing(path: Path) -> str:
    return (
        f"No config file: looked for {path.absolute()}.\n"
        "Say where it is with --config FILE, or write one there. This is enough to serve a folder"
        f" named media over HTTP and RTMP:\n\n{SMALLEST_CONFIG}"
    )
