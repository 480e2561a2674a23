"""Tables of the content of a config, for ``streamedge check``, without passwords."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.table import Table

from streamedge.config.describe import field_notation, origin_place
from streamedge.config.managed import MANAGED_POLICIES, POLICY_TABLES, display_name, find
from streamedge.config.schema.config import (
    AccessConfig,
    AnyDistributionConfig,
    AnyOriginConfig,
    BehaviorRules,
    Config,
    DirectoryOriginConfig,
    HttpOriginConfig,
    LimitsConfig,
    RtmpDistributionConfig,
    Section,
    WebDistributionConfig,
)
from streamedge.config.schema.countries import format_country_list
from streamedge.config.schema.units import (
    format_address,
    format_admin_address,
    format_duration_s,
    format_size_bytes,
    without_password,
)


def summary(config: Config) -> Iterator[Table]:
    """The tables, in the order of the config file; empty ones are omitted."""
    yield _listeners(config)

    distributions = _table(
        "Distributions", "Id", "Type", "Hosts", "Applications", "Origin", "Viewers"
    )
    for distribution in config.distributions:
        distributions.add_row(*_distribution_row(distribution))
    yield distributions
    yield from (table for table in _web(config) if table.row_count)

    origins = _table("Origins", "Name", "Type", "Location", "Signed")
    for name, origin in config.origins.items():
        origins.add_row(name, origin.type, origin_place(origin), _signed(origin))
    yield origins

    if config.fleet.engine or config.fleet.tiers:
        yield _fleet(config)

    edge = config.edge
    cache = _table("Cache", "Folder", "Size")
    cache.add_row(str(edge.cache), format_size_bytes(edge.cache_size))
    yield cache

    custom_limits = _table("Limits that are not the default", "Key", "Value", "Default")
    for key, field in LimitsConfig.model_fields.items():
        value = getattr(config.limits, key)
        if value != field.default:
            show = field_notation(field).format
            custom_limits.add_row(f"limits.{key}", show(value), show(field.default))
    if custom_limits.row_count:
        yield custom_limits


def _listeners(config: Config) -> Table:
    listeners = _table("Listeners", "Serves", "Address")
    for scheme, kind in (("http", "web"), ("https", "web"), ("rtmp", "rtmp"), ("rtmps", "rtmp")):
        for address in getattr(config.listen, scheme):
            place = f"{scheme}://{format_address(address)}"
            listeners.add_row(f"{kind} distributions", place)
    for address in config.listen.mixed:
        place = format_address(address)
        schemes = ["rtmp", "http", *(["rtmps", "https"] if config.certificates else [])]
        listeners.add_row("all distributions", ", ".join(f"{name}://{place}" for name in schemes))
    if config.listen.fleet is not None:
        listeners.add_row("edges of the fleet", f"https://{format_address(config.listen.fleet)}")
    listeners.add_row("admin", _admin_place(config))
    return listeners


def _admin_place(config: Config) -> str:
    address = config.listen.admin
    if isinstance(address, Path):
        return format_admin_address(address)
    scheme = "http" if config.admin.certificate is None else "https"
    return f"{scheme}://{format_address(address)}"


def _fleet(config: Config) -> Table:
    fleet = _table("Fleet", "Edge", "Engine", "Lease", "When lost", "Tiers")
    tiers = "; ".join(f"{name}: {', '.join(names)}" for name, names in config.fleet.tiers.items())
    engine = without_password(config.fleet.engine)
    lease = format_duration_s(config.fleet.lease)
    fleet.add_row(config.edge.name, engine, lease, config.fleet.when_lost, tiers)
    return fleet


def _web(config: Config) -> Iterator[Table]:
    """Behaviors, policies and origin groups of web distributions; a table may be empty."""
    behaviors = _table(
        "Behaviors", "Distribution", "Path", "Origin", "Serves", "Policies", "Viewers"
    )
    for distribution in config.distributions:
        if isinstance(distribution, WebDistributionConfig):
            for behavior in (*distribution.behaviors, None):
                path = behavior.path if behavior else "*"
                cells = _rules_cells(distribution.rules_for(behavior))
                behaviors.add_row(distribution.id, path, *cells)
    yield behaviors

    policies = _table("Policies in use", "Kind", "Name", "Settings")
    for kind, name, policy in _policies_in_use(config):
        policies.add_row(kind, name, _settings(policy))
    yield policies

    groups = _table("Origin groups", "Name", "Origins", "Failover on")
    for name, group in config.origin_groups.items():
        groups.add_row(name, ", ".join(group.origins), ", ".join(map(str, group.failover)))
    yield groups


def _distribution_row(distribution: AnyDistributionConfig) -> tuple[str, ...]:
    applications = ""
    if isinstance(distribution, RtmpDistributionConfig):
        applications = ", ".join(distribution.application)
    hosts = ", ".join(distribution.aliases)
    viewers = _viewers(distribution) if distribution.enabled else "none: not enabled"
    return distribution.id, distribution.type, hosts, applications, distribution.origin, viewers


def _viewers(access: AccessConfig) -> str:
    """The viewers that have access: signatures and countries, or "all"."""
    rules = []
    if access.trusted_key_groups:
        rules.append(f"signed by {', '.join(access.trusted_key_groups)}")
    if not access.countries.is_open:
        rules.append(f"countries {format_country_list(access.countries)}")
    return ", ".join(rules) or "all"


def _rules_cells(rules: BehaviorRules) -> tuple[str, str, str, str]:
    """Origin, methods and options, names of policies, and viewers with access."""
    served = [" ".join(rules.methods)]
    if rules.viewer_protocol != "allow-all":
        served.append(rules.viewer_protocol)
    if rules.compress:
        served.append("compressed")
    if rules.write != "through":
        served.append(f"write {rules.write}")
    if rules.s3_listing is not None:
        served.append("S3 listings" if rules.s3_listing else "no S3 listings")
    names = [display_name(name) for key in POLICY_TABLES if (name := getattr(rules, key))]
    return rules.origin, ", ".join(served), ", ".join(names), _viewers(rules)


def _policies_in_use(config: Config) -> Iterator[tuple[str, str, Section]]:
    """Kind, name and contents of each policy that a behavior names, once."""
    seen: set[tuple[str, str]] = set()
    for distribution in config.distributions:
        if not isinstance(distribution, WebDistributionConfig):
            continue
        for behavior in (*distribution.behaviors, None):
            rules = distribution.rules_for(behavior)
            for key, policies in POLICY_TABLES.items():
                name = display_name(getattr(rules, key))
                if name and (key, name) not in seen:
                    seen.add((key, name))
                    own: dict[str, Section] = getattr(config, policies)
                    yield key.replace("_", " "), name, find(name, own, MANAGED_POLICIES[policies])


def _settings(policy: Section) -> str:
    """The keys of ``policy`` that differ from the default, in the file's notation."""
    settings = []
    for key, field in type(policy).model_fields.items():
        value = getattr(policy, key)
        if value != field.default:
            if isinstance(value, Section):
                settings.append(f"{key} ({_settings(value)})")
            else:
                settings.append(f"{key} = {field_notation(field).toml(value)}")
    return ", ".join(settings)


def _signed(origin: AnyOriginConfig) -> str:
    """How the origin's requests are signed."""
    if isinstance(origin, DirectoryOriginConfig | HttpOriginConfig):
        return ""
    if origin.access_key_id:
        return "key in the config"
    return "no" if origin.anonymous else "AWS credential chain"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
