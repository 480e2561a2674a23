"""What a worker's servers of viewers are built with, beside the config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from streamedge.access.geo import CountryDatabase
from streamedge.cache.objects import Cache
from streamedge.delivery.hosts import OriginBinding
from streamedge.delivery.nearest import NearestEdges
from streamedge.logs.spool import SpoolWriter
from streamedge.ops.log import Log
from streamedge.ops.metrics import Counts
from streamedge.write_back.queue import WriteQueue


@dataclass(frozen=True, slots=True)
class ServerParts:
    """What the servers of HTTP and RTMP share.

    ``write_queue``: None where no behavior writes back. ``nearest``: None in a fleet of one.
    ``spool`` takes the lines of access logs; None: there are none. ``descriptors_end``: connections
    with a descriptor from this number on are refused; 0: none is.
    """

    bindings: Mapping[str, OriginBinding]
    cache: Cache
    log: Log
    counts: Counts
    countries: CountryDatabase
    write_queue: WriteQueue | None = None
    nearest: NearestEdges | None = None
    spool: SpoolWriter | None = None
    descriptors_end: int = 0
