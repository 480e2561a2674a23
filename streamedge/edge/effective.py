"""What a process serves by: the declared config in force, with what was made through the API.

Owns noticing that either has changed, and reading both. Applying it is ``live``'s business in a
worker and ``control``'s in the control process. It blocks: on the control database, for
milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from streamedge.config.schema import Config
from streamedge.control.database import ControlDatabase, ControlError
from streamedge.control.log import ControlLog, RowKind
from streamedge.control.registry import Registry, Resource
from streamedge.edge.generations import Generations
from streamedge.ops.log import Log

if TYPE_CHECKING:
    from streamedge.api.translation import Problem


class EffectiveConfig:
    """As it was at the last look; at first, as it was declared when the process was forked.

    ``database`` is None where it could not be opened.
    """

    def __init__(
        self, generations: Generations, database: ControlDatabase | None, log: Log
    ) -> None:
        self._generations = generations
        self._log = log
        self._control_log = None if database is None else ControlLog(database)
        self._registry = None if database is None else Registry(database)
        self._resources: Sequence[Resource] = ()
        self.generation = -1
        self.epoch = -1  # of the newest change made through the API
        self.declared = self.config = generations.config
        self.left_out: Sequence[Problem] = ()  # made through the API, but not in force

    def look(self) -> bool:
        """Reads what has changed since the last look; False when nothing has.

        What cannot be read stays as it was, and leaves a line: neither waits for the other.
        """
        before = self.generation, self.epoch
        try:
            if self._generations.number != self.generation:
                self.generation, self.declared = self._generations.read()
            self._look_at_what_was_made()
        except (ControlError, OSError) as exc:
            self._log.event("config_not_read", error=str(exc))
        if (self.generation, self.epoch) == before:
            return False
        self.config, self.left_out = combined(self.declared, self._resources)
        return True

    def _look_at_what_was_made(self) -> None:
        if self._control_log is None or self._registry is None:
            return
        epoch = self._control_log.last_epoch(RowKind.CONFIGURATION)
        if epoch != self.epoch:
            self._resources, self.epoch = self._registry.resources(), epoch


def open_control_database(folder: Path, log: Log) -> ControlDatabase | None:
    """The control database in the cache folder; a line and None where it cannot be had."""
    try:
        return ControlDatabase(folder)
    except ControlError as exc:
        log.event("control_database_refused", error=str(exc))
        return None


def combined(declared: Config, resources: Sequence[Resource]) -> tuple[Config, Sequence[Problem]]:
    """The config of both, and what is left out; nothing is loaded where nothing was made."""
    if not resources:
        return declared, ()
    from streamedge.api.translation import combine  # noqa: PLC0415  # most edges go without

    effective = combine(declared, resources)
    return effective.config, effective.problems
