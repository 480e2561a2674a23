"""Access logs from the config: what workers log, and where the control process delivers it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from streamedge.build.origins import s3_origin
from streamedge.config.schema.config import (
    AnyOriginConfig,
    Config,
    DirectoryOriginConfig,
    S3OriginConfig,
)
from streamedge.logs.delivery import Destination
from streamedge.origin.directory.writing import DirectoryWriter
from streamedge.origin.s3.origin import S3Origin
from streamedge.origin.writing import WritableOrigin


class LogDestinations:
    """Where the logs of a config go. Origins whose section is unchanged stay the same objects."""

    def __init__(self, cache_root: Path) -> None:
        self._cache_root = cache_root
        self._config: Config | None = None
        self._buckets: dict[str, tuple[AnyOriginConfig, S3Origin]] = {}
        self._destinations: dict[str, Destination] = {}

    def of(self, config: Config) -> Mapping[str, Destination]:
        """The destinations by distribution, of those that have a log."""
        if config is not self._config:
            self._destinations = {
                section.id: Destination(
                    section.log.origin,
                    self._writer(section.log.origin, config.origins[section.log.origin]),
                    section.log.file_prefix,
                    section.log.interval,
                )
                for section in config.distributions
                if section.log.origin
            }
            self._config = config
        return self._destinations

    async def close(self) -> None:
        """Closes the connections to buckets."""
        for _section, origin in self._buckets.values():
            await origin.close()

    def _writer(self, name: str, section: AnyOriginConfig) -> WritableOrigin:
        if isinstance(section, DirectoryOriginConfig):
            return DirectoryWriter(section.path, section.prefix)
        if not isinstance(section, S3OriginConfig):
            raise TypeError(f"{name} is no folder and no bucket")  # the config is checked for it
        before = self._buckets.get(name)
        if before is not None and before[0] == section:
            return before[1].writer
        if before is not None:
            before[1].retire()
        origin = s3_origin(section, self._cache_root)
        self._buckets[name] = section, origin
        return origin.writer
