"""SIGHUP: the config file is read anew, and becomes the next generation, or changes nothing.

Owns that decision and the lines it leaves. It runs in the supervisor, which has no event loop:
nothing here waits for anybody.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from streamedge.access.geo import CountryDatabase
from streamedge.build.origins_and_web import writes_back
from streamedge.config.describe import restart_keys
from streamedge.config.load import load
from streamedge.config.schema.config import Config, Section
from streamedge.coordination.config_versions import ConfigVersions, ReloadResult
from streamedge.coordination.wakeups import Wakeups
from streamedge.errors import ConfigError, StreamEdgeError
from streamedge.ops.log import Log

if TYPE_CHECKING:
    from streamedge.process.certificates import Certificates, LoadedPair


class ConfigReloader:
    """``file`` is what the edge was started with; ``certificates`` and ``countries`` are what
    workers get that are forked later.
    """

    def __init__(
        self,
        file: Path,
        config_versions: ConfigVersions,
        certificates: Certificates | None,
        countries: CountryDatabase,
        wakeups: Wakeups,
        log: Log,
    ) -> None:
        self._file = file.absolute()
        self._started = config_versions.config
        self._config_versions = config_versions
        self._certificates = certificates
        self._countries = countries
        self._wakeups = wakeups
        self._log = log

    def reload(self) -> None:
        """Reads the file, puts it in force if it will do, and tells everybody."""
        asked = self._config_versions.reload_requests
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
            self._config_versions.publish_result(asked, outcome)
        except OSError as exc:
            self._log.event("config_outcome_lost", error=str(exc))
        self._wakeups.notify()
        self._log.flush()

    def _outcome(self) -> ReloadResult:
        config_versions = self._config_versions
        try:
            taken = plan_reload(self._started, config_versions.config, load(self._file))
            number = self._accept(taken)
        except ConfigError as exc:
            return ReloadResult(config_versions.generation, problems=exc.problems)
        except (StreamEdgeError, OSError) as exc:
            return ReloadResult(config_versions.generation, problems=(str(exc),))
        return ReloadResult(number, (), taken.changed, taken.needs_restart)

    def _accept(self, taken: ReloadPlan) -> int:
        """Raises CertificateError, CountriesError, OSError; then nothing has changed."""
        pairs: Sequence[LoadedPair] = ()
        if self._certificates is not None:
            from streamedge.process.certificates import declared_files, load_pairs  # noqa: PLC0415  # loaded where there are some

            pairs = load_pairs(declared_files(taken.config))
        countries = CountryDatabase(taken.config.countries.database)
        number = self._config_versions.publish(taken.config)
        self._countries.use(countries)
        if self._certificates is not None:
            self._certificates.use(pairs)
        return number


_TABLES = ("edge", "listen", "limits", "countries", "api")


@dataclass(frozen=True, slots=True)
class ReloadPlan:
    """``config`` is what is in force from now on: the one wanted, but for ``needs_restart``.

    ``changed`` and ``needs_restart`` name keys, such as "limits.url", "origins.main" or
    "distributions.EWEB".
    """

    config: Config
    changed: tuple[str, ...]
    needs_restart: tuple[str, ...]


def plan_reload(started: Config, running: Config, wanted: Config) -> ReloadPlan:
    """What becomes of ``wanted``, in an edge that ``started`` with one config and has another."""
    needs_restart: list[str] = []
    tables: dict[str, Section] = {}
    for name in _TABLES:
        wanted_table, started_table = getattr(wanted, name), getattr(started, name)
        unchanged = {key: getattr(started_table, key) for key in restart_keys(type(wanted_table))}
        needs_restart += [
            f"{name}.{key}"
            for key, value in unchanged.items()
            if getattr(wanted_table, key) != value
        ]
        tables[name] = wanted_table.model_copy(update=unchanged)
    if writes_back(wanted) and not writes_back(started):
        # The write queue is opened at the start; until a restart such writes go through.
        needs_restart += [
            f"distributions.{declared.id}.write"
            for declared in wanted.distributions
            if writes_back(wanted.model_copy(update={"distributions": (declared,)}))
        ]
    config = wanted.model_copy(update=tables)
    return ReloadPlan(config, tuple(changes(running, config)), tuple(needs_restart))


def changes(before: Config, after: Config) -> Iterator[str]:
    """The keys that two configs differ in, in the order of the file's tables."""
    for name in Config.model_fields:
        one, other = getattr(before, name), getattr(after, name)
        if one == other:
            continue
        if name in _TABLES:
            yield from _keys_changed(name, one, other)
        elif name == "certificates":
            yield name
        else:
            if name == "distributions":
                one, other = ({each.id: each for each in all_} for all_ in (one, other))
            named = dict.fromkeys((*one, *other))
            found = [f"{name}.{key}" for key in named if one.get(key) != other.get(key)]
            yield from found or [name]  # the order alone counts too


def _keys_changed(name: str, before: Section, after: Section) -> Iterator[str]:
    for key in type(before).model_fields:
        if getattr(before, key) != getattr(after, key):
            yield f"{name}.{key}"
