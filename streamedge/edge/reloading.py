"""SIGHUP: the config file is read anew, and becomes the next generation, or changes nothing.

Owns that decision and the lines it leaves. It runs in the supervisor, which has no event loop:
nothing here waits for anybody.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from streamedge.access.countries import Countries
from streamedge.config.load import load
from streamedge.edge.bells import Bells
from streamedge.edge.generations import Generations, Outcome
from streamedge.edge.takeover import Takeover, take_over
from streamedge.errors import ConfigError, StreamEdgeError
from streamedge.ops.log import Log

if TYPE_CHECKING:
    from streamedge.edge.certificates import Certificates, LoadedPair


class Reloading:
    """``file`` is what the edge was started with; ``certificates`` and ``countries`` are what
    workers get that are forked later.
    """

    def __init__(
        self,
        file: Path,
        generations: Generations,
        certificates: Certificates | None,
        countries: Countries,
        bells: Bells,
        log: Log,
    ) -> None:
        self._file = file.absolute()
        self._started = generations.config
        self._generations = generations
        self._certificates = certificates
        self._countries = countries
        self._bells = bells
        self._log = log

    def reload(self) -> None:
        """Reads the file, puts it in force if it will do, and tells everybody."""
        asked = self._generations.asked
        outcome = self._outcome()
        if outcome.problems:
            self._log.event("config_refused", file=str(self._file), mistakes=list(outcome.problems))
        else:
            self._log.event(
                "config_loaded", generation=outcome.generation, changed=list(outcome.changed)
            )
            if outcome.needs_restart:
                self._log.event("config_needs_restart", keys=list(outcome.needs_restart))
        try:
            self._generations.answer(asked, outcome)
        except OSError as exc:
            self._log.event("config_outcome_lost", error=str(exc))
        self._bells.ring()
        self._log.flush()

    def _outcome(self) -> Outcome:
        generations = self._generations
        try:
            taken = take_over(self._started, generations.config, load(self._file))
            number = self._accept(taken)
        except ConfigError as exc:
            return Outcome(generations.number, problems=exc.problems)
        except (StreamEdgeError, OSError) as exc:
            return Outcome(generations.number, problems=(str(exc),))
        return Outcome(number, (), taken.changed, taken.needs_restart)

    def _accept(self, taken: Takeover) -> int:
        """Raises CertificateError, CountriesError, OSError; then nothing has changed."""
        pairs: Sequence[LoadedPair] = ()
        if self._certificates is not None:
            from streamedge.edge.certificates import (  # noqa: PLC0415  # loaded where there are some
                declared_files,
                load_pairs,
            )

            pairs = load_pairs(declared_files(taken.config))
        countries = Countries(taken.config.countries.database)
        number = self._generations.accept(taken.config)
        self._countries.use(countries)
        if self._certificates is not None:
            self._certificates.use(pairs)
        return number
