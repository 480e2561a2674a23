"""From a config to what serves RTMP.

Owns construction alone. Apart from ``composition``, because what the media need takes long to
import, and a worker serves HTTP meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator

from streamedge.cache.cache import Cache
from streamedge.cache.freshness import TtlRules
from streamedge.config.schema import Config, RtmpDistributionConfig
from streamedge.delivery.distributions import HostTable, OriginBinding
from streamedge.delivery.rtmp.catalogue import Catalogue, RtmpDistribution
from streamedge.delivery.rtmp.server import RtmpServer
from streamedge.delivery.rtmp.session import RtmpLimits
from streamedge.media.titles import Titles
from streamedge.ops.log import Log
from streamedge.ops.metrics import Counts


def rtmp_server(
    config: Config, bindings: dict[str, OriginBinding], cache: Cache, log: Log, counts: Counts
) -> RtmpServer:
    """What serves the config's rtmp distributions."""
    limits = config.limits
    titles = Titles(cache, memory_bytes=limits.titles, moov_bytes=limits.moov)
    catalogue = Catalogue(HostTable(_rtmp_distributions(config, bindings)), titles)
    client_limits = RtmpLimits(
        connections_max=limits.rtmp_connections,
        handshake_s=limits.rtmp_handshake,
        idle_s=limits.rtmp_idle,
        stall_s=limits.rtmp_stall,
        message_bytes=limits.rtmp_message,
        streams_max=limits.rtmp_streams,
        ahead_s=limits.rtmp_ahead,
        rate_bytes=limits.rtmp_rate,
    )
    return RtmpServer(catalogue, client_limits, log, counts)


def _rtmp_distributions(
    config: Config, bindings: dict[str, OriginBinding]
) -> Iterator[RtmpDistribution]:
    for declared in config.distributions:
        if isinstance(declared, RtmpDistributionConfig):
            yield RtmpDistribution(
                declared.id,
                declared.aliases,
                bindings[declared.origin],
                TtlRules(default_ttl_s=declared.default_ttl),
                declared.application,
                declared.enhanced == "strict",
            )
