"""The banner when the edge is up: its addresses, and example commands for viewers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from rich.console import Console

from streamedge.config.schema.config import (
    AnyDistributionConfig,
    Config,
    DirectoryOriginConfig,
    RtmpDistributionConfig,
)
from streamedge.config.schema.units import format_address

EXAMPLES_MAX = 8
_STREAM_PREFIXES = {".mp4": "mp4:", ".m4a": "mp4:", ".mov": "mp4:", ".mp3": "mp3:", ".flv": ""}


def print_banner(config: Config) -> None:
    """Prints the banner to stderr; it is not part of the log."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    for line in _lines(config):
        console.print(line)


def _lines(config: Config) -> Iterator[str]:
    yield f"[bold green]StreamEdge[/] {config.edge.name} is up"
    client, admin = _admin_client(config)
    if client == "curl":
        yield f"  page     {admin}/"
    yield f"  health   {client} {admin}/healthz"
    yield f"  metrics  {client} {admin}/metrics"
    for distribution in config.distributions:
        if not distribution.enabled:
            continue
        scheme, listeners = _scheme_and_listeners(config, distribution)
        if not listeners:
            continue
        host = _host(distribution, listeners[0])
        yield f"[bold]{distribution.id}[/] ({distribution.type}, origin {distribution.origin})"
        for name in _examples(config, distribution):
            if isinstance(distribution, RtmpDistributionConfig):
                application = distribution.application[0]
                stream = quote(stream_name(name), safe="/:")
                yield f'  ffplay "{scheme}://{host}/{application}/{stream}"'
            else:
                yield f"  curl -O {scheme}://{host}/{quote(name)}"


def _admin_client(config: Config) -> tuple[str, str]:
    """The program that calls the admin address, and the URL to call."""
    address = config.listen.admin
    if isinstance(address, Path):
        return f"curl --unix-socket {address}", "http://localhost"
    scheme = "http" if config.admin.certificate is None else "https"
    return "curl", f"{scheme}://{format_address(address)}"


def _scheme_and_listeners(
    config: Config, distribution: AnyDistributionConfig
) -> tuple[str, tuple[tuple[str, int], ...]]:
    """Where a distribution is served: by addresses of its own, or by mixed ones."""
    listen = config.listen
    if isinstance(distribution, RtmpDistributionConfig):
        if listen.rtmps and not listen.rtmp and not listen.mixed:
            return "rtmps", listen.rtmps
        return "rtmp", listen.rtmp or listen.mixed
    if config.serves_https:
        return "https", listen.https or listen.mixed
    return "http", listen.http or listen.mixed


def stream_name(name: str) -> str:
    """The RTMP stream name of an object."""
    for extension, prefix in _STREAM_PREFIXES.items():
        if name.endswith(extension):
            return prefix + (name.removesuffix(extension) if extension == ".flv" else name)
    return name


def _examples(config: Config, distribution: AnyDistributionConfig) -> Iterator[str]:
    """Object names for examples: files of a folder, or a placeholder."""
    origin = config.origins.get(distribution.origin)  # None: a group's name
    count = 0
    if isinstance(origin, DirectoryOriginConfig):
        folder = origin.path / origin.prefix
        for file in sorted(folder.glob("*")):
            if file.suffix in _STREAM_PREFIXES and file.is_file() and count < EXAMPLES_MAX:
                count += 1
                yield file.name
    if not count:
        yield "dir/film.mp4"


def _host(distribution: AnyDistributionConfig, address: tuple[str, int]) -> str:
    named = [alias for alias in distribution.aliases if "*" not in alias]
    host, port = address
    if named:
        return f"{named[0]}:{port}"
    return format_address(("127.0.0.1" if host in {"0.0.0.0", "::", ""} else host, port))  # noqa: S104
