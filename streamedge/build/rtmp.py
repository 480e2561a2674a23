"""Builds the RTMP server from a config.

This is a module of its own because the media modules take long to import; a worker already serves
HTTP meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from streamedge.access.wildcards import compile_pattern
from streamedge.build.access_rules import access_rules
from streamedge.build.parts import ServerParts
from streamedge.cache.rfc9111.freshness import TtlRules
from streamedge.config.schema.config import Config, RtmpDistributionConfig
from streamedge.delivery.hosts import HostTable, OriginBinding
from streamedge.delivery.rtmp.aggregates import Aggregation
from streamedge.delivery.rtmp.context import RtmpLimits
from streamedge.delivery.rtmp.server import RtmpServer
from streamedge.delivery.rtmp.streams import RtmpDistribution, StreamResolver, Tracks
from streamedge.delivery.rtmp.tunnel.peers import TunnelPeers
from streamedge.logs.spool_names import LogFormat, SpoolTarget
from streamedge.logs.stream_log import StreamLog
from streamedge.media.containers.process import HelperLimits, HelperPool
from streamedge.media.library import MediaLibrary


def rtmp_server(
    config: Config, parts: ServerParts, tunnel_peers: TunnelPeers | None = None
) -> RtmpServer:
    """The RTMP server for the config's rtmp distributions. Raises KeyFileError.

    ``tunnel_peers``: None without a mixed address.
    """
    log = parts.log
    limits = config.limits

    def report(name: str, faults: tuple[str, ...]) -> None:
        log.event("media_damaged", name=name, faults=list(faults))

    def report_helper(name: str, reason: str, detail: str) -> None:
        log.event("media_helper_failed", name=name, reason=reason, detail=detail)

    helpers = HelperPool(
        HelperLimits(limits.media_helpers, limits.media_helper_memory, limits.media_helper_time),
        report_helper,
    )
    library = MediaLibrary(
        parts.cache,
        memory_bytes=limits.titles,
        index_bytes=min(limits.titles, limits.media_index),
        moov_bytes=limits.moov,
        report=report,
        helpers=helpers,
    )
    streams = StreamResolver(
        rtmp_distributions(config, parts.bindings),
        library,
        parts.countries,
        signature_bytes=limits.signature,
        nearest=parts.nearest,
    )
    return RtmpServer(
        streams,
        _client_limits(config),
        log,
        parts.counts,
        proxies=config.listen.proxies,
        per_address_max=limits.rtmp_connections_per_address,
        descriptors_end=parts.descriptors_end,
        tunnel_peers=tunnel_peers,
        offers_rtmpe=config.listen.rtmpe,
        stream_log=StreamLog(config.edge.name, parts.spool, log_targets(config)),
    )


def replace_rtmp(
    server: RtmpServer, config: Config, distributions: HostTable[RtmpDistribution]
) -> None:
    """Replaces the config and the distributions of a running server."""
    server.streams.replace(distributions)
    server.stream_log.targets = log_targets(config)
    server.limit(_client_limits(config), config.limits.rtmp_connections_per_address)


def _client_limits(config: Config) -> RtmpLimits:
    limits = config.limits
    return RtmpLimits(
        connections_max=limits.rtmp_connections,
        handshake_s=limits.rtmp_handshake,
        idle_s=limits.rtmp_idle,
        stall_s=limits.rtmp_stall,
        message_bytes=limits.rtmp_message,
        streams_max=limits.rtmp_streams,
        ahead_s=limits.rtmp_ahead,
        rate_bytes=limits.rtmp_rate,
    )


def log_targets(config: Config) -> Mapping[str, SpoolTarget]:
    """The access logs of the config's rtmp distributions, by id."""
    return {
        section.id: SpoolTarget(section.id, LogFormat.RTMP, section.log.interval)
        for section in config.distributions
        if isinstance(section, RtmpDistributionConfig) and section.log.origin
    }


def rtmp_distributions(
    config: Config, bindings: Mapping[str, OriginBinding]
) -> HostTable[RtmpDistribution]:
    """The rtmp distributions that are enabled, by host name. Raises KeyFileError."""
    return HostTable(_distributions(config, bindings))


def _distributions(
    config: Config, bindings: Mapping[str, OriginBinding]
) -> Iterator[RtmpDistribution]:
    for section in config.distributions:
        if isinstance(section, RtmpDistributionConfig) and section.enabled:
            yield RtmpDistribution(
                section.id,
                section.aliases,
                bindings[section.origin],
                TtlRules(default_ttl_s=section.default_ttl),
                section.application,
                section.enhanced == "strict",
                access_rules(config, section.trusted_key_groups, section.countries),
                tuple(compile_pattern(page) for page in section.pages),
                section.nearest and bool(config.fleet.engine),
                Aggregation(section.aggregate),
                Tracks(section.tracks),
            )
