"""The effective config of a process: the config file plus the resources of the API.

``EffectiveConfig`` notices changes of both and reads them. It does not apply them: in a worker
``process.apply_config`` does, in the control process ``process.control``. Reading the control
database blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from streamedge.config.schema.config import Config
from streamedge.control.database import ControlDatabase, ControlError
from streamedge.control.log import ControlLog, RowKind
from streamedge.control.resources import Resource, ResourceStore
from streamedge.coordination.config_versions import ConfigVersions
from streamedge.ops.log import Log

if TYPE_CHECKING:
    from streamedge.api.to_config.translation import Problem


class EffectiveConfig:
    """The config as of the last ``refresh``; before that, the config of the forked process."""

    def __init__(
        self, config_versions: ConfigVersions, database: ControlDatabase, log: Log
    ) -> None:
        self._config_versions = config_versions
        self._log = log
        self._control_log = ControlLog(database)
        self._resource_store = ResourceStore(database)
        self.resources: Sequence[Resource] = ()  # of the API
        self.generation = -1
        self.position = -1  # in the control log: of the newest change through the API
        self.fault: Exception | None = None  # why the last refresh was incomplete
        self.from_file = self.config = config_versions.config
        self.not_applied: Sequence[Problem] = ()  # resources that cannot be part of ``config``

    def is_current(self, configuration: int) -> bool:
        """Whether ``refresh`` has nothing to read. Does not block.

        ``configuration``: the position of the newest row of the control log that announced a new
        config, as it was read from the log.
        """
        return (
            self.fault is None
            and self.announced_generation == self.generation
            and configuration == self.position
        )

    @property
    def announced_generation(self) -> int:
        """The generation of the config file that ``refresh`` reads."""
        return self._config_versions.generation

    def refresh(self) -> bool:
        """Reads what has changed since the last refresh; returns whether anything has.

        A source that cannot be read keeps its last value, sets ``fault``, and leaves one log line
        when the fault begins; the caller refreshes again later. The file and the database do not
        wait for each other.
        """
        before = self.generation, self.position
        faults: list[Exception] = []
        try:
            if self._config_versions.generation != self.generation:
                self.generation, self.from_file = self._config_versions.read()
        except OSError as exc:
            faults.append(exc)
        try:
            position = self._control_log.position(RowKind.CONFIGURATION)
            if position != self.position:
                self.resources, self.position = self._resource_store.resources(), position
                for identifier in self._resource_store.unreadable():
                    self._log.event("resource_unreadable", id=identifier)
        except ControlError as exc:
            faults.append(exc)
        if faults and self.fault is None:
            self._log.event("config_not_read", error=str(faults[0]))
        self.fault = faults[0] if faults else None
        if (self.generation, self.position) == before:
            return False
        self.config, self.not_applied = combine_config(self.from_file, self.resources)
        return True


def combine_config(
    from_file: Config, resources: Sequence[Resource]
) -> tuple[Config, Sequence[Problem]]:
    """The config of both, and the resources that cannot be applied.

    Without resources the translation is not even imported.
    """
    if not resources:
        return from_file, ()
    from streamedge.api.to_config.translation import combine  # noqa: PLC0415  # most edges have no resources

    effective = combine(from_file, resources)
    return effective.config, effective.problems
