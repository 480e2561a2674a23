"""The ``streamedge`` command: options, help, output and exit codes.

Exit codes: 0 is success; 1 means that the edge cannot start, does not answer or refuses the call; 2
means that the config, or the text to sign, is invalid; 3 means that a part was not done. Modules
that only one command needs are imported in that command, so that the others start sooner.
"""

from __future__ import annotations

import gc
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from streamedge.cli.admin_options import AdminOptions, admin_of
from streamedge.cli.cache.commands import cache_app
from streamedge.cli.cache.warm import warm
from streamedge.cli.config_commands import config_app
from streamedge.cli.fleet.commands import fleet_app
from streamedge.cli.init import init
from streamedge.cli.operators.commands import monitoring, status, top, viewers_app
from streamedge.cli.operators.log import log
from streamedge.cli.output import (
    DEFAULT_CONFIG,
    EXIT_CONFIG_INVALID,
    EXIT_EDGE_REFUSED,
    ConfigOption,
    exit_on,
    exit_on_admin_error,
    load_or_exit,
    show,
    show_mistakes,
    table_console,
)
from streamedge.cli.writes import writes_app

if TYPE_CHECKING:
    from streamedge.config.schema.config import Config

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    epilog="Begin with [bold]streamedge check[/bold], then [bold]streamedge serve[/bold]."
    " Every key of the config file is explained in docs/reference/config.md.",
)


def _show_version(is_requested: bool) -> None:
    if not is_requested:
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
    context: typer.Context,
    admin: Annotated[
        str,
        typer.Option(
            metavar="URL",
            envvar="STREAMEDGE_ADMIN",
            help="The admin address of the edge to call: https://HOST:PORT or unix:PATH; default:"
            " the one in the config file.",
        ),
    ] = "",
    user: Annotated[
        str, typer.Option(metavar="NAME", help="Log in as this user; the password is prompted for.")
    ] = "",
    token: Annotated[
        str,
        typer.Option(
            metavar="TOKEN",
            envvar="STREAMEDGE_ADMIN_TOKEN",
            help="A token of \\[admin.tokens]; better in the environment, where other users of the"
            " machine do not see it.",
        ),
    ] = "",
    ca: Annotated[
        Path | None,
        typer.Option(
            metavar="PEM",
            help="The authority of the certificate of --admin URL, or that certificate itself.",
        ),
    ] = None,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Run one edge of a content delivery network: S3, HTTP or a folder to RTMP and HTTP viewers.

    The edge fetches objects from their origins, caches them, and sends them on while the download
    is still running.
    """
    context.obj = AdminOptions(admin, user, token, ca)


@app.command(
    epilog="Example: [bold]streamedge serve --config /etc/streamedge/config.toml[/bold]."
    " SIGTERM lets viewers finish first; /healthz on the admin address answers 200 when it is up."
)
def serve(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Start the edge and run it until it is stopped."""
    gc.disable()  # imported modules are no garbage; the supervisor enables it again
    loaded = handed_over_config() or load_or_exit(config)
    from streamedge.process.start import serve as run  # noqa: PLC0415  # keeps check and help quick

    raise typer.Exit(run(loaded, config))


def handed_over_config() -> Config | None:
    """The config of an upgrade, which its trial has read; None at a normal start."""
    if "STREAMEDGE_HANDOVER" not in os.environ:
        return None
    from streamedge.process.handover import handed_config  # noqa: PLC0415

    return handed_config(os.environ)


@app.command(
    epilog="Example: [bold]streamedge check --config config.toml[/bold]."
    " Exit code 2 and one line on stderr for each mistake; else exit code 0 and a summary."
    " Next: [bold]streamedge serve[/bold]."
)
def check(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Check a config file: report every mistake, or show a summary."""
    from streamedge.cli.config_summary import summary  # noqa: PLC0415
    from streamedge.control.recovery import problem_with  # noqa: PLC0415

    loaded = load_or_exit(config)
    if problem := problem_with(loaded.edge.cache):
        typer.echo(f"streamedge: {problem}", err=True)
        raise typer.Exit(EXIT_CONFIG_INVALID)
    console = table_console()
    for table in summary(loaded):
        console.print(table)
    for warning in _warnings(loaded, config):
        console.print(f"Warning: {warning}")
    console.print(f"{config}: no mistakes. Next: streamedge serve --config {config}")


def _warnings(config: Config, file: Path) -> Iterator[str]:
    from streamedge.cli.served_warnings import served_warnings  # noqa: PLC0415

    yield from served_warnings(config, file)
    if config.listen.rtmpe and not (config.listen.rtmp or config.listen.mixed):
        yield "listen.rtmpe has no effect: listen.rtmp and listen.mixed have no address"
    if not config.distributions and not config.api.keys:
        yield "nothing is served: there are no [[distributions]], and no keys in [api] to make any"
    if config.fleet.engine:
        from streamedge.cli.fleet.commands import engine_problems  # noqa: PLC0415

        yield from engine_problems(config)
    if any(section.nearest for section in config.distributions):
        from streamedge.cli.fleet.nearest_warnings import nearest_warnings  # noqa: PLC0415

        yield from nearest_warnings(config)


@app.command(
    epilog="Example: [bold]streamedge distributions[/bold], or with an id for its behaviors:"
    " [bold]streamedge distributions EWEB[/bold]. The config file and the control database beside"
    " the cache are read, so the edge need not run. Change distributions of the API through the"
    " API, and those of the file in the file, followed by [bold]streamedge reload[/bold]."
)
def distributions(
    identifier: Annotated[
        str, typer.Argument(metavar="[ID]", help="The distribution to show; default: all.")
    ] = "",
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="Print a list of JSON objects.")] = False,
) -> None:
    """List the distributions of the config file and of the API."""
    loaded = load_or_exit(config)
    from streamedge.cli.listings import NoDistributionError, distribution_tables, list_distributions  # noqa: PLC0415
    from streamedge.control.database import ControlError  # noqa: PLC0415

    with exit_on(ControlError, NoDistributionError):
        items = list_distributions(loaded, identifier)
    show(items, distribution_tables(items), as_json=as_json)


@app.command(
    epilog="Example: edit config.toml, then [bold]streamedge reload[/bold]. The running edge reads"
    " the file that it was started with, as on SIGHUP, and drops no connection. A file with"
    " mistakes changes nothing: exit code 2 and one line on stderr for each mistake. Keys that"
    " need a restart (listen, workers, the cache folder) are listed and keep their values."
)
def reload(
    context: typer.Context,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the response to POST /reload as JSON.")
    ] = False,
) -> None:
    """Reload the config file of the running edge."""
    admin = admin_of(context, config)
    from streamedge.cli.admin_client import (  # noqa: PLC0415
        AdminError,
        reload_summary,
    )
    from streamedge.cli.admin_client import reload as request_reload  # noqa: PLC0415

    with exit_on_admin_error():
        try:
            result = request_reload(admin)
        except AdminError as exc:
            if "problems" not in exc.body:
                raise
            show_mistakes(exc.body["problems"], "nothing has changed")
            raise typer.Exit(EXIT_CONFIG_INVALID) from exc
    if as_json:
        typer.echo(json.dumps(result, indent=2))
        return
    for line in reload_summary(result):
        typer.echo(line)


@app.command(
    epilog="Example: install the new version, then [bold]streamedge upgrade[/bold]. The edge"
    " first tries the new program: it imports it and lets it read the config file. Then it executes"
    " it in its place, as on SIGUSR2. New viewers come to the new workers; those from before serve"
    " the viewers that they have, up to edge.drain. Exit code 1 if the new program is refused or"
    " does not come up: then the old one serves on."
)
def upgrade(
    context: typer.Context,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the response to GET /upgrade as JSON.")
    ] = False,
) -> None:
    """Replace the program of the running edge without dropping a connection."""
    admin = admin_of(context, config)
    from streamedge.cli.upgrade import run_upgrade, upgrade_summary  # noqa: PLC0415

    with exit_on_admin_error():
        result = run_upgrade(admin)
    typer.echo(json.dumps(result, indent=2) if as_json else upgrade_summary(result))
    if result["state"] in {"refused", "failed"}:
        raise typer.Exit(EXIT_EDGE_REFUSED)


@app.command(
    epilog='Examples: [bold]streamedge invalidate EWEB "/news/*" /index.html[/bold]; all responses'
    ' with a tag: [bold]streamedge invalidate EWEB --tag news[/bold]. "*" matches anything,'
    ' anywhere in a path; "/*" is everything. /page is the URL without a query, /page?v=2 the one'
    " with it."
    " The invalidation holds from the next request on, in every worker, for HTTP and RTMP."
)
def invalidate(
    context: typer.Context,
    distribution: Annotated[str, typer.Argument(metavar="DIST", help="The distribution's id.")],
    paths: Annotated[
        list[str] | None, typer.Argument(metavar="PATH…", help="A path to invalidate, as in a URL.")
    ] = None,
    tags: Annotated[
        list[str] | None, typer.Option("--tag", metavar="T", help="A cache tag to invalidate.")
    ] = None,
    soft: Annotated[
        bool, typer.Option("--soft", help="Make it stale, as at the end of its TTL.")
    ] = False,
    revoke: Annotated[
        bool, typer.Option("--revoke", help="Also end running responses and plays.")
    ] = False,
    wait: Annotated[
        bool,
        typer.Option("--wait", help="Return once every worker of every edge has applied it."),
    ] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the response to POST /invalidations as JSON.")
    ] = False,
) -> None:
    """Invalidate cached objects."""
    from streamedge.cli import admin_client as client  # noqa: PLC0415

    if not paths and not tags:
        raise typer.BadParameter('give a path such as "/index.html" or "/news/*", or --tag')
    admin = admin_of(context, config)
    options = {"soft": soft, "revoke": revoke, "wait": wait}
    with exit_on_admin_error():
        result = client.invalidate(admin, distribution, paths or (), tags or (), **options)
    typer.echo(json.dumps(result, indent=2) if as_json else client.invalidation_summary(result))
    if result.get("applied") is False:
        raise typer.Exit(EXIT_EDGE_REFUSED)


@app.command(
    epilog="Example: [bold]streamedge sign mp4:dir/film.mp4 --key site.pem --key-id K2JCJMDEHXQW5F"
    " --expires 2h[/bold]. A time is seconds of the epoch, a date such as 2030-01-31T18:00:00Z, or"
    " a duration from now: 90m, 2h, 7d. Give a URL as players request it, with its query. For"
    ' many objects: [bold]streamedge sign "https://cdn.example.com/videos/*" … --cookies[/bold],'
    ' which curl takes as --cookie "$(streamedge sign …)". The edge need not run;'
    " [bold]streamedge keys[/bold] shows which keys it trusts."
)
def sign(
    name: Annotated[
        str,
        typer.Argument(metavar="URL|STREAM", help="The URL or stream name to sign."),
    ],
    key: Annotated[
        Path, typer.Option(metavar="PEM", help="The private key: RSA, or ECDSA on P-256.")
    ],
    key_id: Annotated[
        str, typer.Option(metavar="ID", help="The id of the public key at the edge.")
    ],
    policy: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Your own policy, as JSON.")
    ] = None,
    expires: Annotated[
        str,
        typer.Option(
            metavar="WHEN",
            help="When access ends: a date, seconds since 1970, or a duration such as 2h.",
        ),
    ] = "",
    begins: Annotated[
        str,
        typer.Option(
            "--from", metavar="WHEN", help="The time at which access begins; default: now."
        ),
    ] = "",
    ip: Annotated[
        list[str] | None,
        typer.Option(metavar="NET", help="An address or network that is allowed; may be repeated."),
    ] = None,
    hash_name: Annotated[
        Literal["sha1", "sha256"],
        typer.Option("--hash", help="The hash algorithm; default: sha1, as in CloudFront."),
    ] = "sha1",
    cookies: Annotated[
        bool, typer.Option("--cookies", help="Print a Cookie header value.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Sign a URL, a stream name or cookies, as for CloudFront."""
    from streamedge.cli import sign as signing  # noqa: PLC0415

    if bool(policy) == bool(expires) or (policy and (begins or ip)):
        raise typer.BadParameter(
            "give --expires, optionally with --from and --ip; or give --policy"
        )
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
        typer.echo(json.dumps(signing.signature_json(signer, signature, signed), indent=2))
    else:
        typer.echo(signed or signing.cookie_field(signature))


@app.command(
    epilog="Example: [bold]streamedge keys[/bold]. A signature is valid if its Key-Pair-Id names a"
    " key of a group in trusted_key_groups of the distribution, or of the behavior for the path."
    " To rotate keys, add the new key to the group, sign with it, then remove the old one; run"
    " [bold]streamedge reload[/bold] after each change. The edge need not run."
)
def keys(
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="Print a list of JSON objects.")] = False,
) -> None:
    """List the public keys that verify signatures, and the distributions that trust them."""
    loaded = load_or_exit(config)
    from streamedge.cli.listings import key_tables, list_keys  # noqa: PLC0415
    from streamedge.control.database import ControlError  # noqa: PLC0415

    with exit_on(ControlError):
        items = list_keys(loaded)
    none = "No public keys. Declare them in tables [public_keys.ID] of the config file."
    show(items, key_tables(items), as_json=as_json, ending="" if items else none)


@app.command(
    epilog="Example: [bold]streamedge password[/bold], then in the config file"
    ' [bold]users.anna = { password = "scrypt:…", role = "operator" }[/bold] under \\[admin], and'
    " [bold]streamedge reload[/bold]. Without a terminal the password is the first line of stdin."
)
def password(
    is_token: Annotated[
        bool, typer.Option("--token", help="Make a random token, and print it with its hash.")
    ] = False,
) -> None:
    """Hash a password for \\[admin.users] of the config file, or make a token."""
    from streamedge.cli.passwords import print_token, prompt_password  # noqa: PLC0415

    if is_token:
        print_token()
    else:
        prompt_password()


app.add_typer(writes_app, name="writes")
app.command(
    epilog="Example: [bold]streamedge status[/bold]; in a script [bold]streamedge status --check"
    " --json[/bold]. GET /status on the admin address has the same."
)(status)
app.command(
    epilog="Example: [bold]streamedge top --interval 5[/bold]. Ctrl-C ends it. Where the output is"
    " no terminal, the updates follow each other. NO_COLOR=1 in the environment turns colours off."
)(top)
app.add_typer(viewers_app, name="viewers")
app.command(
    epilog="Example: [bold]streamedge monitoring rules > streamedge.rules.yml[/bold]. The alerts"
    " are those of [bold]streamedge status[/bold]; the job of Prometheus has to have the name"
    " streamedge. [bold]streamedge monitoring dashboard[/bold] is for Grafana's import."
)(monitoring)
app.add_typer(fleet_app, name="fleet")
app.add_typer(config_app, name="config", help="Show a config, compare two, and explain keys.")
app.command(
    epilog="Examples: [bold]streamedge init --origin media[/bold];"
    " [bold]streamedge init --origin s3://films --region eu-central-1 --http :80 --rtmp :1935"
    " --output /etc/streamedge/config.toml[/bold]. The file has no mistakes: it is checked before"
    " it is written. Next: [bold]streamedge serve[/bold]."
)(init)
app.command(
    epilog="Examples: [bold]streamedge log --event response[/bold];"
    " [bold]streamedge log --match 192.0.2.7 --json | jq .path[/bold]. It reads edge.log, which"
    " must be a file."
)(log)
app.command("logs", hidden=True)(log)  # as other tools name it
app.add_typer(
    cache_app, name="cache", help="List, show, purge, pin, verify and export what is cached."
)
app.command(
    epilog="Examples: [bold]streamedge warm /trailers/a.mp4 /index.html[/bold];"
    " [bold]streamedge warm --sitemap https://www.example.com/sitemap.xml --host www.example.com"
    " --rate 50[/bold]. Exit code 3 if some failed; Ctrl-C cancels it."
)(warm)


@app.command(
    epilog="Examples: [bold]streamedge completion bash > /etc/bash_completion.d/streamedge[/bold];"
    ' [bold]streamedge completion zsh > "${fpath[1]}/_streamedge"[/bold];'
    " [bold]streamedge completion fish > ~/.config/fish/completions/streamedge.fish[/bold]."
)
def completion(
    context: typer.Context,
    shell: Annotated[
        Literal["bash", "zsh", "fish"], typer.Argument(metavar="bash|zsh|fish", help="The shell.")
    ],
) -> None:
    """Print the completion script of a shell."""
    from streamedge.cli.completion import script  # noqa: PLC0415

    typer.echo(script(shell, context.find_root().command), nl=False)


def main() -> None:
    """The entry point of the ``streamedge`` command."""
    app()
