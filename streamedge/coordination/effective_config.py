"""What a process serves by: the declared config in force, with what was made through the API.

It notices that either has changed, and reads both. Applying it is ``live``'s business in a worker
and ``control``'s in the control process. It blocks on the control database.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from streamedge.config.schema.config import Config
from streamedge.control.database import ControlDatabase, ControlError
from streamedge.control.log import ControlLog, RowKind
from streamedge.control.resources import Registry, Resource
from streamedge.coordination.config_versions import Generations
from streamedge.ops.log import Log

if TYPE_CHECKING:
    from streamedge.api.to_config.translation import Problem


class EffectiveConfig:
    """As it was at the last look; at first, as it was declared when the process was forked."""

    def __init__(self, generations: Generations, database: ControlDatabase, log: Log) -> None:
        self._generations = generations
        self._log = log
        self._control_log = ControlLog(database)
        self._registry = Registry(database)
        self.resources: Sequence[Resource] = ()  # what was made through the API
        self.generation = -1
        self.position = -1  # in the control log, of the newest change made through the API
        self.fault: Exception | None = None  # why the last look could not read all
        self.declared = self.config = generations.config
        self.left_out: Sequence[Problem] = ()  # made through the API, but not in force

    def look(self) -> bool:
        """Reads what has changed since the last look; False when nothing has.

        What cannot be read stays as it was and is the ``fault``, with a line in the log when it
        begins: look again after a while. What was made does not wait for the file, nor the file
        for it.
        """
        before = self.generation, self.position
        faults: list[Exception] = []
        try:
            if self._generations.number != self.generation:
                self.generation, self.declared = self._generations.read()
        except OSError as exc:
            faults.append(exc)
        try:
            position = self._control_log.position(RowKind.CONFIGURATION)
            if position != self.position:
                self.resources, self.position = self._registry.resources(), position
                for identifier in self._registry.unreadable():
                    self._log.event("resource_unreadable", id=identifier)
        except ControlError as exc:
            faults.append(exc)
        if faults and self.fault is None:
            self._log.event("config_not_read", error=str(faults[0]))
        self.fault = faults[0] if faults else None
        if (self.generation, self.position) == before:
            return False
        self.config, self.left_out = combined(self.declared, self.resources)
        return True


def combined(declared: Config, resources: Sequence[Resource]) -> tuple[Config, Sequence[Problem]]:
    """The config of both, and what is left out; nothing is loaded where nothing was made."""
    if not resources:
        return declared, ()
    from streamedge.api.to_config.translation import combine  # noqa: PLC0415  # most edges go without

    effective = combine(declared, resources)
    return effective.config, effective.problems
