"""What a config serves, in tables for the operator who checks it.

Owns their content; a password is in none of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from rich.table import Table

from streamedge.config.schema import (
    AnyDistributionConfig,
    AnyOriginConfig,
    Config,
    DirectoryOriginConfig,
    HttpOriginConfig,
    LimitsConfig,
    RtmpDistributionConfig,
)
from streamedge.config.units import format_address, format_size_bytes
from streamedge.config.wording import field_notation


def summary(config: Config) -> Iterator[Table]:
    """The tables, in the order of the config file."""
    listeners = _table("Listeners", "Serves", "Address")
    for address in config.listen.http:
        listeners.add_row("web distributions", f"http://{format_address(address)}")
    for address in config.listen.rtmp:
        listeners.add_row("rtmp distributions", f"rtmp://{format_address(address)}")
    listeners.add_row("admin", f"http://{format_address(config.listen.admin)}")
    yield listeners

    distributions = _table("Distributions", "Id", "Type", "Hosts", "Applications", "Origin")
    for distribution in config.distributions:
        distributions.add_row(*_distribution_row(distribution))
    yield distributions

    origins = _table("Origins", "Name", "Type", "Place", "Signed")
    for name, origin in config.origins.items():
        origins.add_row(name, origin.type, *_place(origin))
    yield origins

    edge = config.edge
    cache = _table("Cache", "Folder", "Size")
    cache.add_row(str(edge.cache), format_size_bytes(edge.cache_size))
    yield cache

    changed = _table("Limits that are not the default", "Key", "Value", "Default")
    for key, field in LimitsConfig.model_fields.items():
        value = getattr(config.limits, key)
        if value != field.default:
            show = field_notation(field).show
            changed.add_row(f"limits.{key}", show(value), show(field.default))
    if changed.row_count:
        yield changed


def _distribution_row(distribution: AnyDistributionConfig) -> tuple[str, ...]:
    applications = ""
    if isinstance(distribution, RtmpDistributionConfig):
        applications = ", ".join(distribution.application)
    hosts = ", ".join(distribution.aliases)
    return distribution.id, distribution.type, hosts, applications, distribution.origin


def _place(origin: AnyOriginConfig) -> tuple[str, str]:
    """Where objects lie and how requests are signed, without a password in either."""
    if isinstance(origin, DirectoryOriginConfig):
        return str(origin.path / origin.prefix), ""
    if isinstance(origin, HttpOriginConfig):
        parts = urlsplit(origin.url)
        host = parts.netloc.rpartition("@")[2]
        return f"{parts.scheme}://{host}{parts.path}/{origin.prefix}".rstrip("/"), ""
    server = origin.endpoint or f"AWS {origin.region}"
    signed = "no" if origin.anonymous else "AWS credential chain"
    if origin.access_key_id:
        signed = "key in the config"
    return f"{origin.bucket}/{origin.prefix} at {server}", signed


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
