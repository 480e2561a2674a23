"""Builds origins and origin groups from a config, and their identities in cache keys."""

from __future__ import annotations

import hashlib
import ssl
import time
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from pydantic import SecretStr

from streamedge.config.schema.config import (
    AnyOriginConfig,
    Config,
    DirectoryOriginConfig,
    HttpOriginConfig,
    OriginGroupConfig,
    S3OriginConfig,
)
from streamedge.delivery.hosts import OriginBinding
from streamedge.files import FileStamp, file_stamp
from streamedge.keys import join_key, key_bytes
from streamedge.ops.log import Log
from streamedge.ops.metrics import Counts
from streamedge.origin import Origin
from streamedge.origin.directory.origin import DirectoryOrigin
from streamedge.origin.directory.writing import DirectoryWriter
from streamedge.origin.group.origin import Member, OriginGroup
from streamedge.origin.health import OriginHealth, RequestObserver
from streamedge.origin.http.origin import HttpOrigin
from streamedge.origin.http.writing import SiteWriter
from streamedge.origin.http_client.tls import TlsRules, system_tls
from streamedge.origin.objects import ObjectUpstream
from streamedge.origin.peer.tier import Fleet, Tier, never_pending
from streamedge.origin.s3.origin import S3Origin
from streamedge.origin.s3.protocol import overridden_fields
from streamedge.origin.upload_records import UploadRecords
from streamedge.origin.writing import HeaderFields
from streamedge.write_back.fleet_writes import FleetWrites
from streamedge.write_back.overlay import NO_OVERRIDES, PendingWritesOrigin, PendingWritesUpstream
from streamedge.write_back.queue import WriteQueue

NO_BINDINGS: Mapping[str, OriginBinding] = MappingProxyType({})


def bind_origins(
    config: Config,
    log: Log,
    counts: Counts,
    write_queue: WriteQueue | None = None,
    reusable: Mapping[str, OriginBinding] = NO_BINDINGS,
    fleet: Fleet | None = None,
    fleet_writes: FleetWrites | None = None,
) -> dict[str, OriginBinding]:
    """All origins and origin groups of the config, by name.

    A write that waits in ``write_queue`` is read in place of the object at its origin. Origins in
    ``reusable`` are reused, with their connections and breakers. ``fleet`` and ``fleet_writes``
    (writes that wait on other edges) are None in a fleet of one.
    """
    pending = PendingWrites(write_queue, fleet_writes)
    bindings = {}
    for name, origin in config.origins.items():
        groups = _group_identities(config, name)
        own = reusable.get(name) or _bind(
            name, origin, config.edge.cache, pending, OriginHealth(name, counts, time.monotonic)
        )
        bindings[name] = replace(own, groups=groups, tier=_tier(origin, fleet))
    for name, group in config.origin_groups.items():
        whole = reusable.get(name) or _bind_group(name, group, bindings, log, counts, pending)
        first = bindings[group.origins[0]]
        bindings[name] = replace(whole, first=first, tier=_tier(group, fleet))
    return bindings


class PendingWrites(NamedTuple):
    """Where writes wait: on this edge, and on others; None where none can."""

    queue: WriteQueue | None
    fleet: FleetWrites | None

    def over(
        self,
        origin: Origin,
        identity: str,
        *,
        is_site: bool,
        overrides: Mapping[str, str] = NO_OVERRIDES,
    ) -> Origin:
        """The origin behind the writes that wait for it; unchanged where none can."""
        if self.queue is None and self.fleet is None:
            return origin
        return PendingWritesOrigin(
            origin,
            identity,
            self.queue,
            None if self.queue is None else DirectoryOrigin(self.queue.bodies),
            is_site=is_site,
            overrides=overrides,
            fleet_writes=self.fleet,
        )


def _tier(section: AnyOriginConfig | OriginGroupConfig, fleet: Fleet | None) -> Tier | None:
    """The tier of an origin; a folder of this machine has none."""
    name = "" if isinstance(section, DirectoryOriginConfig) else section.tier
    return Tier(fleet, name) if fleet is not None and name else None


TlsStamps = Mapping[str, tuple[FileStamp | None, ...]]
"""The states of the PEM files that an origin names, by its name."""


def tls_stamps(config: Config) -> TlsStamps:
    """The present states of the origins' PEM files; of the origins that have some. Blocks."""
    return {
        name: tuple(
            file_stamp(file)
            for file in (section.ca, section.client_certificate, section.client_key)
            if file is not None
        )
        for name, section in config.origins.items()
        if isinstance(section, HttpOriginConfig) and (section.ca or section.client_certificate)
    }


def unchanged_origins(
    before: Config,
    after: Config,
    bindings: Mapping[str, OriginBinding],
    renewed: Container[str],
) -> dict[str, OriginBinding]:
    """The bindings of ``before`` whose origins are unchanged in ``after``.

    ``renewed``: origins whose PEM files have changed.
    """
    names = {
        name
        for name, section in after.origins.items()
        if before.origins.get(name) == section and name not in renewed
    }
    names |= {
        name
        for name, group in after.origin_groups.items()
        if before.origin_groups.get(name) == group and names.issuperset(group.origins)
    }
    return {name: bindings[name] for name in names}


def _bind(
    name: str,
    section: AnyOriginConfig,
    cache_root: Path,
    pending: PendingWrites,
    observer: RequestObserver,
) -> OriginBinding:
    if isinstance(section, HttpOriginConfig):
        return _bind_site(name, section, pending, observer)
    if isinstance(section, S3OriginConfig):
        return _bind_bucket(name, section, cache_root, pending, observer)
    identity = origin_identity(section)
    origin = DirectoryOrigin(section.path, section.prefix)
    origin.observer = observer
    overlay = pending.over(origin, identity, is_site=False)
    writer = DirectoryWriter(section.path, section.prefix)
    return OriginBinding(
        name,
        identity,
        overlay,
        ObjectUpstream(overlay),
        writer=writer,
        is_pending=_is_pending(overlay),
    )


def _bind_site(
    name: str,
    section: HttpOriginConfig,
    pending: PendingWrites,
    observer: RequestObserver,
) -> OriginBinding:
    identity = origin_identity(section)
    origin = _http_origin(section)
    origin.client.observer = observer
    overlay = pending.over(origin, identity, is_site=True)
    return OriginBinding(
        name,
        identity,
        overlay,
        PendingWritesUpstream(origin, overlay)
        if isinstance(overlay, PendingWritesOrigin)
        else origin,
        is_site=True,
        sends_viewer_host=section.host == "viewer",
        writer=SiteWriter(origin, section.read_timeout),
        is_pending=_is_pending(overlay),
    )


def _bind_bucket(
    name: str,
    section: S3OriginConfig,
    cache_root: Path,
    pending: PendingWrites,
    observer: RequestObserver,
) -> OriginBinding:
    identity = origin_identity(section)
    origin = s3_origin(section, cache_root)
    origin.client.observer = observer
    overlay = pending.over(origin, identity, is_site=False)
    return OriginBinding(
        name,
        identity,
        overlay,
        ObjectUpstream(overlay, partial(_bucket_request, origin, identity, pending)),
        writer=origin.writer,
        relay=origin.writer,
        bucket=origin.bucket,
        is_pending=_is_pending(overlay),
    )


def _bind_group(
    name: str,
    section: OriginGroupConfig,
    bindings: dict[str, OriginBinding],
    log: Log,
    counts: Counts,
    pending: PendingWrites,
) -> OriginBinding:
    members = [bindings[member] for member in section.origins]
    group = OriginGroup(
        name,
        [Member(member.name, member.origin, member.upstream) for member in members],
        frozenset(section.failover),
        log,
        counts,
    )
    first = members[0]
    # Also around the group: while its first origin is down, the others get the requests.
    overlay = pending.over(group, first.identity, is_site=first.is_site)
    return OriginBinding(
        name,
        _group_identity(member.identity for member in members),
        overlay,
        PendingWritesUpstream(group, overlay)
        if isinstance(overlay, PendingWritesOrigin)
        else group,
        is_site=all(member.is_site for member in members),
        sends_viewer_host=any(member.sends_viewer_host for member in members),
        writer=first.writer,
        relay=first.relay,
        bucket=first.bucket,
        first=first,
        is_pending=_is_pending(overlay),
    )


def _group_identities(config: Config, name: str) -> tuple[str, ...]:
    """The groups that an origin is in, by their identities."""
    return tuple(
        _group_identity(origin_identity(config.origins[member]) for member in group.origins)
        for group in config.origin_groups.values()
        if name in group.origins
    )


def origin_identities(config: Config) -> dict[str, str]:
    """The identities of all origins and groups, by name."""
    identities = {name: origin_identity(section) for name, section in config.origins.items()}
    for name, group in config.origin_groups.items():
        identities[name] = _group_identity(identities[member] for member in group.origins)
    return identities


def _group_identity(members: Iterable[str]) -> str:
    return join_key("group", *members)


def _bucket_request(
    origin: S3Origin,
    identity: str,
    pending: PendingWrites,
    query: str,
    fields: HeaderFields,
) -> Origin:
    """A bucket whose requests have a query and fields, behind the writes that wait for it."""
    bucket = origin.requesting(query, fields)
    if "versionId=" in query:
        return bucket
    overrides = overridden_fields(query)
    return pending.over(bucket, identity, is_site=False, overrides=overrides)


def _is_pending(origin: Origin) -> Callable[[str], bool]:
    return origin.is_pending if isinstance(origin, PendingWritesOrigin) else never_pending


def _http_origin(section: HttpOriginConfig) -> HttpOrigin:
    return HttpOrigin(
        section.url,
        section.prefix,
        connect_timeout_s=section.connect_timeout,
        read_timeout_s=section.read_timeout,
        connections_max=section.connections,
        total_timeout_s=section.total_timeout,
        tls=_tls(section),
        host=section.host,
        headers=_plain(section.headers),
        redirects_max=section.follow_redirects,
    )


def s3_origin(section: S3OriginConfig, cache_root: Path) -> S3Origin:
    """A bucket; the records of its unfinished uploads are below ``cache_root``."""
    return S3Origin(
        section.bucket,
        section.prefix,
        region=section.region,
        endpoint=section.endpoint,
        path_style=section.path_style,
        access_key_id=section.access_key_id,
        secret_access_key=section.secret_access_key.get_secret_value(),
        anonymous=section.anonymous,
        connect_timeout_s=section.connect_timeout,
        read_timeout_s=section.read_timeout,
        connections_max=section.connections,
        headers=_plain(section.headers),
        uploads=UploadRecords(cache_root / "writes" / "uploads", origin_identity(section)),
    )


def _tls(section: HttpOriginConfig) -> Callable[[], ssl.SSLContext]:
    """Creates the origin's TLS context; origins without TLS settings share one."""
    rules = TlsRules(section.verify, section.ca, section.client_certificate, section.client_key)
    return system_tls if rules == TlsRules() else rules.context


def _plain(headers: Mapping[str, SecretStr]) -> list[tuple[str, str]]:
    return [(name, value.get_secret_value()) for name, value in headers.items()]


def origin_identity(section: AnyOriginConfig) -> str:
    """The identity of an origin in cache keys, independent of its name; without secrets.

    Settings that affect its responses are part of it: with a secret header, an origin may send
    content that must not be shared with others. The keys of a bucket are not part of it: they are
    rotated, and the cached objects would be lost. The identities on all edges of a tier are equal,
    so no path of this machine is part of them.
    """
    if isinstance(section, DirectoryOriginConfig):
        return join_key("directory", str(section.path), section.prefix)
    if isinstance(section, HttpOriginConfig):
        host = "" if section.host == "origin" else section.host
        return join_key("http", section.url, section.prefix, host, _credentials_digest(section))
    style = "in the host" if section.endpoint and section.path_style is False else ""
    return join_key(
        "s3",
        section.endpoint or section.region,
        section.bucket,
        section.prefix,
        style,
        "by anybody" if section.anonymous else "",
        _credentials_digest(section),
    )


def _certificate_subject(file: Path) -> str:
    """The subject of a client certificate, in place of its path, which other edges of a tier need
    not share. A renewed certificate has the same subject. Without one its bytes count.
    """
    from cryptography import x509  # noqa: PLC0415 - few edges need it

    try:
        content = file.read_bytes()
    except OSError:
        return str(file)  # the first connection reports it
    try:
        subject = x509.load_pem_x509_certificate(content).subject.rfc4514_string()
    except ValueError:
        subject = ""
    return subject or hashlib.sha256(content).hexdigest()


def _credentials_digest(section: HttpOriginConfig | S3OriginConfig) -> str:
    """A digest of the secret headers and client certificate that the edge sends; "" without any."""
    headers = sorted((name.lower(), value) for name, value in _plain(section.headers))
    certificate = ""
    if isinstance(section, HttpOriginConfig) and section.client_certificate is not None:
        certificate = str(section.client_certificate)
        if section.tier:
            certificate = _certificate_subject(section.client_certificate)
    if not headers and not certificate:
        return ""
    parts = (part for field in headers for part in field)
    return hashlib.sha256(key_bytes(join_key(certificate, *parts))).hexdigest()[:32]
