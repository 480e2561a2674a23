"""The options of the whole command that say which edge is called, and who calls it."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import typer

from streamedge.cli.output import EXIT_CONFIG_INVALID, load_or_exit
from streamedge.config.schema.units import UNIX_PREFIX, parse_admin_address

if TYPE_CHECKING:
    from streamedge.cli.admin_client import Admin
    from streamedge.config.schema.config import Config

PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class AdminOptions:
    """The values of --admin, --user, --token and --ca."""

    url: str = ""
    user: str = ""
    token: str = field(default="", repr=False)
    ca: Path | None = None


def runs_subcommand(context: typer.Context, config: Path) -> bool:
    """Whether a subcommand was given, which then has ``config`` as its default."""
    context.obj = config
    return context.invoked_subcommand is not None


def admin_of(
    context: typer.Context, config: Path | None, outcome: str = "nothing has changed"
) -> Admin:
    """The admin address to call: of ``--admin``, or of the edge that ``config`` describes.

    ``config`` is None in a subcommand without a ``--config`` of its own. Exits with code 2 if the
    config or an option is invalid.
    """
    from streamedge.cli.admin_client import Admin  # noqa: PLC0415

    options = context.find_root().obj
    if not isinstance(options, AdminOptions):
        options = AdminOptions()
    if options.url:
        address, tls = _of_url(options)
    else:
        loaded = load_or_exit(config or context.obj, outcome)
        address, tls = loaded.listen.admin, pinned_certificate(loaded)
    password = ""
    if options.user:
        password = typer.prompt(f"Password of {options.user}", hide_input=True, err=True)
    return Admin(address, tls, options.token, options.user, password)


def _of_url(options: AdminOptions) -> tuple[tuple[str, int] | Path, ssl.SSLContext | None]:
    """Where ``--admin`` leads."""
    try:
        if options.url.startswith(UNIX_PREFIX):
            return parse_admin_address(options.url), None
        parts = urlsplit(options.url)
        if parts.scheme not in PORTS or not parts.hostname or parts.path not in {"", "/"}:
            raise ValueError("expected https://HOST:PORT, http://HOST:PORT or unix:PATH")
        address = parts.hostname, parts.port or PORTS[parts.scheme]
        if parts.scheme == "http":
            return address, None
        return address, ssl.create_default_context(cafile=options.ca)
    except (ValueError, OSError) as exc:
        typer.echo(f"streamedge: --admin {options.url[:100]}: {exc}", err=True)
        raise typer.Exit(EXIT_CONFIG_INVALID) from exc


def pinned_certificate(config: Config) -> ssl.SSLContext | None:
    """Trusts the certificate that the config names, also if it is for another host name."""
    if config.admin.certificate is None:
        return None
    context = ssl.create_default_context(cafile=config.admin.certificate)
    context.check_hostname = False
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    return context
