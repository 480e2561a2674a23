"""A worker applies a new config while it serves, without dropping a connection.

Everything that may fail or wait is prepared first; then all parts are replaced at once, between two
requests, so a request sees either the old config or the new one. Running responses and plays finish
with the old one. An origin whose section and PEM files are unchanged keeps its connections; a
changed or removed origin keeps none between requests and is dropped after its last reader.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from streamedge.access.geo import CountryDatabase
from streamedge.build.mixed import limit_mixed
from streamedge.build.origins import bind_origins, tls_stamps, unchanged_origins
from streamedge.build.rtmp import replace_rtmp, rtmp_distributions
from streamedge.build.web import replace_web, web_distributions
from streamedge.cache.invalidated import AppliedInvalidations
from streamedge.cache.objects import Cache
from streamedge.config.schema.config import Config
from streamedge.coordination.effective_config import EffectiveConfig
from streamedge.coordination.shared_state import SharedState
from streamedge.delivery.hosts import HostTable, OriginBinding
from streamedge.delivery.http.request.routing import WebDistribution
from streamedge.delivery.http.server import WebServer
from streamedge.delivery.mixed_server import MixedServer
from streamedge.delivery.rtmp.server import RtmpServer
from streamedge.delivery.rtmp.streams import RtmpDistribution
from streamedge.keys import split_key
from streamedge.ops.log import Log
from streamedge.ops.metrics import Counts, State, pair
from streamedge.origin import Origin
from streamedge.origin.http.origin import HttpOrigin
from streamedge.origin.s3.origin import S3Origin
from streamedge.origin.writing import WritableOrigin
from streamedge.process.worker_peers import WorkerPeers
from streamedge.write_back.overlay import PendingWritesOrigin
from streamedge.write_back.queue import WriteQueue
from streamedge.write_back.replicator import Replicator

if TYPE_CHECKING:
    from streamedge.process.certificates import Certificates
    from streamedge.process.worker_writes import WorkerWrites


RETRY_S = 1.0  # after a failed read
APPLY_RETRY_S = 10.0  # after a config that could not be applied
ABANDONED_WRITES_INTERVAL_S = 60.0


@dataclass(frozen=True, slots=True)
class WorkerComponents:
    """The long-lived parts of a worker; a new config replaces their content."""

    web: WebServer
    rtmp: RtmpServer
    cache: Cache
    write_queue: WriteQueue | None
    certificates: Certificates | None
    countries: CountryDatabase
    log: Log
    counts: Counts
    peers: WorkerPeers = field(default_factory=WorkerPeers)
    writes: WorkerWrites | None = None
    mixed: MixedServer | None = None


_Prepared = tuple[dict[str, OriginBinding], HostTable[WebDistribution], HostTable[RtmpDistribution]]
"""Origin bindings and the two distribution tables of a config."""


class ConfigApplier:
    """The config that a worker uses, and the bindings of its origins."""

    def __init__(
        self, config: Config, bindings: Mapping[str, OriginBinding], components: WorkerComponents
    ) -> None:
        self.config = config
        self.bindings = bindings
        self.components = components
        self._tls_stamps = tls_stamps(config)
        self.failure = ""  # why the newest config could not be applied
        self._replicator: Replicator | None = None
        if components.write_queue is not None:
            where = _writers_and_readers(bindings)
            self._replicator = Replicator(
                components.write_queue,
                *where,
                self._replicated,
                components.log,
                components.counts,
                fleet=None if components.writes is None else components.writes.turns,
            )

    async def apply(self, config: Config) -> None:
        """Applies ``config``. If this raises, nothing has changed. One call at a time."""
        components, before = self.components, self.bindings
        countries, certificates = components.countries, components.certificates
        database = config.countries.database
        new_countries = countries
        use_certificates: Callable[[], None] | None = None
        if database != countries.database:
            new_countries = await asyncio.to_thread(CountryDatabase, database)
        if certificates is not None:
            from streamedge.process.certificates import configured_files, http2_hosts, load_pairs  # noqa: PLC0415  # only with HTTPS

            pairs = await asyncio.to_thread(load_pairs, configured_files(config))
            use_certificates = partial(certificates.use, pairs, http2_hosts(config))
        stamps, stamps_before = await asyncio.to_thread(tls_stamps, config), self._tls_stamps
        renewed = [name for name, one in stamps.items() if stamps_before.get(name, one) != one]
        unchanged = unchanged_origins(self.config, config, before, renewed)
        # In a thread: thousands of behaviors take a while, and must not delay viewers.
        bindings, web, rtmp = await asyncio.to_thread(self._build, config, unchanged)

        # Nothing below fails or waits.
        self.config, self.bindings, self._tls_stamps = config, bindings, stamps
        countries.use(new_countries)
        if use_certificates is not None:
            use_certificates()
        replace_web(components.web, config, web)
        replace_rtmp(components.rtmp, config, rtmp)
        if components.mixed is not None:
            limit_mixed(components.mixed, config)
        components.peers.replace(config, bindings)
        removed = [one for name, one in before.items() if name not in unchanged]
        for binding in removed:
            _retire(binding)
        for name in renewed:
            components.log.event("origin_certificates_loaded", origin=name)
        if {one.identity for one in removed} & {one.identity for one in bindings.values()}:
            # The same origin with new settings; open objects would use the old ones.
            components.cache.drop_all()
            components.rtmp.streams.forget_media()
        components.counts.retain_states(State.ORIGIN, bindings.__contains__)
        components.counts.retain_states(State.BREAKER, _is_member(config))
        if self._replicator is not None:
            self._replicator.replace(*_writers_and_readers(bindings))

    def _build(self, config: Config, unchanged: Mapping[str, OriginBinding]) -> _Prepared:
        components = self.components
        bindings = bind_origins(
            config,
            components.log,
            components.counts,
            components.write_queue,
            unchanged,
            components.peers.fleet,
            None if components.writes is None else components.writes.fleet_writes,
        )
        return bindings, web_distributions(config, bindings), rtmp_distributions(config, bindings)

    async def replicate(self) -> None:
        """Sends queued writes while this worker has the leader lock; until cancelled."""
        if self._replicator is not None:
            await self._replicator.run()

    async def end_abandoned_writes(self) -> None:
        """Ends abandoned uploads of dead processes once a minute, until cancelled."""
        while True:
            for writer in {id(one.writer): one.writer for one in self.bindings.values()}.values():
                if writer is None:
                    continue
                try:
                    ended = await writer.end_abandoned()
                except Exception as exc:  # noqa: BLE001 - an origin that fails must not stop others
                    self.components.log.event("abandoned_writes_not_ended", error=repr(exc))
                else:
                    if ended:
                        self.components.log.event("abandoned_writes_ended", uploads=ended)
            await asyncio.sleep(ABANDONED_WRITES_INTERVAL_S)

    async def _replicated(self, key: str) -> None:
        try:
            identity, *parts = split_key(key)
        except ValueError:
            return  # queued by an earlier version, whose keys name no cached object
        matches = (one for one in self.bindings.values() if one.identity == identity)
        binding = next(matches, None)
        changed = (key,) if binding is None else binding.write_keys(*parts)
        self.components.cache.refuse_written(*changed)

    def log_failure(self, exc: Exception) -> None:
        """Logs each new failure; the old config stays in use."""
        if repr(exc) != self.failure:
            self.failure = repr(exc)
            self.components.log.event("config_not_applied", error=self.failure)


async def watch_config(
    applier: ConfigApplier,
    effective: EffectiveConfig,
    shared: SharedState,
    number: int,
    apply_new: Callable[[], AppliedInvalidations],
) -> None:
    """Applies new configs and invalidations, as worker ``number``, until cancelled.

    ``apply_new`` reads the control log, at once when the worker is woken, so an invalidation does
    not wait for a config. Its position is noted in the worker status after the config is applied. A
    failure ends nothing: the read or the config is retried until it succeeds.
    """
    woken = asyncio.Event()
    woken.set()  # there may have been changes while the process started
    newest: AppliedInvalidations | None = None  # since the last round

    def wake() -> None:
        nonlocal newest
        newest = None
        woken.set()
        newest = apply_new()

    shared.wakeups.subscribe(number, wake)
    try:
        while True:
            woken.clear()
            retry_s: float | None = RETRY_S
            position = None
            try:
                applied, newest = newest or apply_new(), None
                if not effective.is_current(applied.configuration):
                    await asyncio.to_thread(effective.refresh)
                if applied.is_current and effective.fault is None:
                    retry_s, position = None, applied.position
                if effective.config is not applier.config:
                    await applier.apply(effective.config)
                applier.failure = ""
            except Exception as exc:  # noqa: BLE001 - the worker must go on serving
                applier.log_failure(exc)
                retry_s = retry_s or APPLY_RETRY_S
            if position is not None:
                shared.worker_status.note_position(number, position)
            shared.config_versions.note_applied(number, effective.generation)
            shared.wakeups.notify_at(shared.wakeups.control)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(retry_s):
                    await woken.wait()
    finally:
        shared.wakeups.unsubscribe(number)


def _writers_and_readers(
    bindings: Mapping[str, OriginBinding],
) -> tuple[dict[str, WritableOrigin], dict[str, Origin]]:
    """Origins that queued writes go to, and origins to check their outcome with; by name."""
    writers = {name: one.writer for name, one in bindings.items() if one.writer is not None}
    return writers, {name: _without_overlay(one.origin) for name, one in bindings.items()}


def _is_member(config: Config) -> Callable[[str], bool]:
    """Whether a pair of a group and an origin is in a config."""
    pairs = {
        pair(name, member)
        for name, group in config.origin_groups.items()
        for member in group.origins
    }
    return pairs.__contains__


def _retire(binding: OriginBinding) -> None:
    origin = _without_overlay(binding.origin)
    if isinstance(origin, HttpOrigin | S3Origin):
        origin.retire()


def _without_overlay(origin: Origin) -> Origin:
    """The origin without the overlay of its pending writes."""
    return origin.origin if isinstance(origin, PendingWritesOrigin) else origin
