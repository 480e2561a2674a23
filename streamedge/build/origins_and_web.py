"""Builds origins, origin groups and the HTTP server from a config; ``build.rtmp`` builds RTMP."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

from pydantic import SecretStr

from streamedge.access.geo import CountryDatabase
from streamedge.build.web_rules import error_pages, web_behaviors
from streamedge.cache.objects import Cache
from streamedge.cache.rfc9111.freshness import TtlRules
from streamedge.config.schema.config import (
    AnyOriginConfig,
    Config,
    DirectoryOriginConfig,
    HttpOriginConfig,
    OriginGroupConfig,
    S3OriginConfig,
    WebDistributionConfig,
)
from streamedge.delivery.hosts import HostTable, OriginBinding
from streamedge.delivery.http.handler import HttpHandler
from streamedge.delivery.http.policy.behaviors import CachePolicy, ErrorPage
from streamedge.delivery.http.request.routing import Rule, WebDistribution
from streamedge.delivery.http.server import WebServer
from streamedge.keys import join_key, key_bytes
from streamedge.ops.log import Log
from streamedge.ops.metrics import Counts
from streamedge.origin import Origin
from streamedge.origin.directory.origin import DirectoryOrigin
from streamedge.origin.directory.writing import DirectoryWriter
from streamedge.origin.group.origin import Member, OriginGroup
from streamedge.origin.http.origin import HttpOrigin
from streamedge.origin.http.writing import SiteWriter
from streamedge.origin.http_client.tls import TlsRules, system_tls
from streamedge.origin.objects import ObjectUpstream
from streamedge.origin.s3.origin import S3Origin
from streamedge.origin.s3.protocol import overridden_fields
from streamedge.origin.upload_records import UploadRecords
from streamedge.origin.writing import HeaderFields
from streamedge.write_back.overlay import NO_OVERRIDES, PendingWritesOrigin, PendingWritesUpstream
from streamedge.write_back.queue import WriteQueue

NO_BINDINGS: Mapping[str, OriginBinding] = MappingProxyType({})


def writes_back(config: Config) -> bool:
    """Whether any behavior answers writes before their origin has them."""
    return any(
        rules.write == "back"
        for declared in config.distributions
        if isinstance(declared, WebDistributionConfig)
        for rules in (declared, *map(declared.rules_for, declared.behaviors))
    )


def bind_origins(
    config: Config,
    log: Log,
    counts: Counts,
    write_queue: WriteQueue | None = None,
    kept: Mapping[str, OriginBinding] = NO_BINDINGS,
) -> dict[str, OriginBinding]:
    """All origins and origin groups of the config, by name.

    A write that waits in ``write_queue`` is read in place of the object at its origin. Origins in
    ``kept`` are reused, with their connections and breakers.
    """
    bindings = {}
    for name, origin in config.origins.items():
        groups = _group_identities(config, name)
        own = kept.get(name) or _bind(name, origin, config.edge.cache, write_queue, groups)
        bindings[name] = replace(own, groups=groups)
    for name, group in config.origin_groups.items():
        whole = kept.get(name) or _bind_group(name, group, bindings, log, counts, write_queue)
        bindings[name] = replace(whole, first=bindings[group.origins[0]])
    return bindings


def unchanged_origins(
    before: Config, after: Config, bindings: Mapping[str, OriginBinding]
) -> dict[str, OriginBinding]:
    """The bindings of ``before`` whose origins are unchanged in ``after``."""
    names = {
        name for name, declared in after.origins.items() if before.origins.get(name) == declared
    }
    names |= {
        name
        for name, group in after.origin_groups.items()
        if before.origin_groups.get(name) == group and names.issuperset(group.origins)
    }
    return {name: bindings[name] for name in names}


def web_server(
    config: Config,
    bindings: dict[str, OriginBinding],
    cache: Cache,
    log: Log,
    counts: Counts,
    write_queue: WriteQueue | None = None,
    countries: CountryDatabase | None = None,
    descriptors_end: int = 0,
) -> WebServer:
    """The HTTP server for the config's web distributions."""
    limits = config.limits
    site = HttpHandler(
        config.edge.name,
        web_distributions(config, bindings),
        cache,
        log,
        counts,
        write_queue=write_queue,
        request_body_bytes=limits.request_body,
        url_bytes=limits.url,
        ranges_max=limits.ranges,
        proxies=config.listen.proxies,
        countries=countries,
        signature_bytes=limits.signature,
        memory_bytes=limits.request_memory,
    )
    return WebServer(
        site,
        log,
        counts,
        connections_max=limits.http_connections,
        handshake_s=limits.tls_handshake,
        idle_s=limits.http_idle,
        stall_s=limits.http_stall,
        body_rate=limits.http_body_rate,
        per_address_max=limits.http_connections_per_address,
        descriptors_end=descriptors_end,
    )


def replace_web(
    server: WebServer, config: Config, distributions: HostTable[WebDistribution]
) -> None:
    """Replaces the config and the distributions of a running server."""
    limits = config.limits
    server.site.replace(
        distributions,
        request_body_bytes=limits.request_body,
        url_bytes=limits.url,
        ranges_max=limits.ranges,
        memory_bytes=limits.request_memory,
    )
    server.limit(
        limits.tls_handshake,
        limits.http_idle,
        limits.http_stall,
        limits.http_body_rate,
        limits.http_connections_per_address,
    )


def web_distributions(
    config: Config, bindings: Mapping[str, OriginBinding]
) -> HostTable[WebDistribution]:
    """The web distributions that are enabled, by host name. Raises KeyFileError."""
    return HostTable(_distributions(config, bindings))


def _distributions(
    config: Config, bindings: Mapping[str, OriginBinding]
) -> Iterator[WebDistribution]:
    for declared in config.distributions:
        if isinstance(declared, WebDistributionConfig) and declared.enabled:
            yield WebDistribution(
                declared.id,
                declared.aliases,
                tuple(
                    Rule(
                        behavior,
                        bindings[behavior.origin],
                        ttl_rules(behavior.cache, error_pages(declared)),
                    )
                    for behavior in web_behaviors(config, declared)
                ),
                declared.default_root_object,
                error_pages(declared),
                declared.cache_tag_header.lower(),
            )


def ttl_rules(policy: CachePolicy, pages: Mapping[int, ErrorPage]) -> TtlRules:
    """A cache policy's times, with those of a distribution's error pages."""
    return TtlRules(
        policy.min_ttl_s,
        policy.default_ttl_s,
        policy.max_ttl_s,
        policy.error_ttl_s,
        policy.strict,
        tuple((status, page.ttl_s) for status, page in pages.items()),
    )


def _bind(
    name: str,
    declared: AnyOriginConfig,
    cache_root: Path,
    write_queue: WriteQueue | None,
    groups: tuple[str, ...],
) -> OriginBinding:
    origin = _origin(declared, cache_root)
    identity = origin_identity(declared)
    is_site = isinstance(origin, HttpOrigin)
    overlay = (
        origin
        if write_queue is None
        else _written_ahead(origin, identity, write_queue, is_site=is_site)
    )
    if isinstance(origin, HttpOrigin):
        assert isinstance(declared, HttpOriginConfig)
        return OriginBinding(
            name,
            identity,
            overlay,
            PendingWritesUpstream(origin, overlay)
            if isinstance(overlay, PendingWritesOrigin)
            else origin,
            is_site=True,
            sends_viewer_host=declared.host == "viewer",
            writer=SiteWriter(origin, declared.read_timeout),
            groups=groups,
        )
    if isinstance(origin, S3Origin):
        return OriginBinding(
            name,
            identity,
            overlay,
            ObjectUpstream(overlay, partial(_requesting, origin, identity, write_queue)),
            writer=origin.writer,
            relay=origin.writer,
            bucket=origin.bucket,
            groups=groups,
        )
    assert isinstance(declared, DirectoryOriginConfig)
    writer = DirectoryWriter(declared.path, declared.prefix)
    return OriginBinding(
        name, identity, overlay, ObjectUpstream(overlay), writer=writer, groups=groups
    )


def _bind_group(
    name: str,
    declared: OriginGroupConfig,
    bindings: dict[str, OriginBinding],
    log: Log,
    counts: Counts,
    write_queue: WriteQueue | None,
) -> OriginBinding:
    members = [bindings[member] for member in declared.origins]
    group = OriginGroup(
        name,
        [Member(member.name, member.origin, member.upstream) for member in members],
        frozenset(declared.failover),
        log,
        counts,
    )
    first = members[0]
    # Around the group too: while its first origin is out of order, the others are asked.
    overlay = (
        None
        if write_queue is None
        else _written_ahead(group, first.identity, write_queue, is_site=first.is_site)
    )
    return OriginBinding(
        name,
        _group_identity(member.identity for member in members),
        overlay or group,
        PendingWritesUpstream(group, overlay) if overlay else group,
        is_site=all(member.is_site for member in members),
        sends_viewer_host=any(member.sends_viewer_host for member in members),
        writer=first.writer,
        relay=first.relay,
        bucket=first.bucket,
        first=first,
    )


def _group_identities(config: Config, name: str) -> tuple[str, ...]:
    """The groups that an origin is in, by their identities."""
    return tuple(
        _group_identity(origin_identity(config.origins[member]) for member in group.origins)
        for group in config.origin_groups.values()
        if name in group.origins
    )


def _group_identity(members: Iterable[str]) -> str:
    return join_key("group", *members)


def _requesting(
    origin: S3Origin,
    identity: str,
    write_queue: WriteQueue | None,
    query: str,
    fields: HeaderFields,
) -> Origin:
    """A bucket that is asked with a query and fields, behind the writes that wait for it."""
    asked = origin.requesting(query, fields)
    if write_queue is None or "versionId=" in query:
        return asked
    overrides = overridden_fields(query)
    return _written_ahead(asked, identity, write_queue, is_site=False, overrides=overrides)


def _written_ahead(
    origin: Origin,
    identity: str,
    write_queue: WriteQueue,
    *,
    is_site: bool,
    overrides: Mapping[str, str] = NO_OVERRIDES,
) -> PendingWritesOrigin:
    bodies = DirectoryOrigin(write_queue.bodies)
    return PendingWritesOrigin(
        origin, identity, write_queue, bodies, is_site=is_site, overrides=overrides
    )


def _origin(declared: AnyOriginConfig, cache_root: Path) -> Origin:
    if isinstance(declared, DirectoryOriginConfig):
        return DirectoryOrigin(declared.path, declared.prefix)
    if isinstance(declared, HttpOriginConfig):
        return HttpOrigin(
            declared.url,
            declared.prefix,
            connect_timeout_s=declared.connect_timeout,
            read_timeout_s=declared.read_timeout,
            connections_max=declared.connections,
            total_timeout_s=declared.total_timeout,
            tls=_tls(declared),
            host=declared.host,
            headers=_plain(declared.headers),
            redirects_max=declared.follow_redirects,
        )
    return S3Origin(
        declared.bucket,
        declared.prefix,
        region=declared.region,
        endpoint=declared.endpoint,
        path_style=declared.path_style,
        access_key_id=declared.access_key_id,
        secret_access_key=declared.secret_access_key.get_secret_value(),
        anonymous=declared.anonymous,
        connect_timeout_s=declared.connect_timeout,
        read_timeout_s=declared.read_timeout,
        connections_max=declared.connections,
        headers=_plain(declared.headers),
        uploads=UploadRecords(cache_root / "writes" / "uploads", origin_identity(declared)),
    )


def _tls(declared: HttpOriginConfig) -> Callable[[], ssl.SSLContext]:
    """What makes the origin's context; origins that say nothing of TLS share one."""
    rules = TlsRules(declared.verify, declared.ca, declared.client_certificate, declared.client_key)
    return system_tls if rules == TlsRules() else rules.context


def _plain(headers: Mapping[str, SecretStr]) -> list[tuple[str, str]]:
    return [(name, value.get_secret_value()) for name, value in headers.items()]


def origin_identity(declared: AnyOriginConfig) -> str:
    """What an origin is, whatever the config calls it; no secrets.

    What decides on its answers is part of it: who shows a secret header gets what others do not,
    and must not share it with them. The keys of a bucket are not: they are changed now and then,
    and what is cached would be lost with them.
    """
    if isinstance(declared, DirectoryOriginConfig):
        return join_key("directory", str(declared.path), declared.prefix)
    if isinstance(declared, HttpOriginConfig):
        host = "" if declared.host == "origin" else declared.host
        return join_key("http", declared.url, declared.prefix, host, _shown_to(declared))
    style = "in the host" if declared.endpoint and declared.path_style is False else ""
    return join_key(
        "s3",
        declared.endpoint or declared.region,
        declared.bucket,
        declared.prefix,
        style,
        "by anybody" if declared.anonymous else "",
        _shown_to(declared),
    )


def _shown_to(declared: HttpOriginConfig | S3OriginConfig) -> str:
    """What tells origins apart that differ in what the edge shows them; "" where it is nothing."""
    shown = sorted((name.lower(), value) for name, value in _plain(declared.headers))
    certificate = ""
    if isinstance(declared, HttpOriginConfig) and declared.client_certificate is not None:
        certificate = str(declared.client_certificate)
    if not shown and not certificate:
        return ""
    parts = (part for field in shown for part in field)
    return hashlib.sha256(key_bytes(join_key(certificate, *parts))).hexdigest()[:32]
