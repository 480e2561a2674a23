"""SIGHUP: reads the config file again and publishes it as the next config version.

This runs in the supervisor, which has no event loop, so nothing here waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from streamedge.access.geo import CountryDatabase
from streamedge.build.web_rules import writes_back
from streamedge.config.describe import restart_keys
from streamedge.config.errors.schema_location import is_section
from streamedge.config.load import load
from streamedge.config.schema.config import Config, Section
from streamedge.coordination.config_versions import ConfigVersions, ReloadResult
from streamedge.coordination.wakeups import Wakeups
from streamedge.errors import ConfigError, StreamEdgeError
from streamedge.ops.log import Log

if TYPE_CHECKING:
    from streamedge.process.certificates import Certificates


class ConfigReloader:
    """Reloads ``file``, the config file that the edge was started with.

    ``certificates`` and ``countries`` are for workers that are forked later.
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
        """Reads the file, publishes it if it is valid, and wakes all processes."""
        requests = self._config_versions.reload_requests
        result = self._reload()
        if result.problems:
            self._log.event("config_refused", file=str(self._file), mistakes=list(result.problems))
        else:
            self._log.event(
                "config_loaded", generation=result.generation, changed=list(result.changed)
            )
            if result.needs_restart:
                self._log.event("config_needs_restart", keys=list(result.needs_restart))
        try:
            self._config_versions.publish_result(requests, result)
        except OSError as exc:
            self._log.event("config_result_not_published", error=str(exc))
        self._wakeups.notify()
        self._log.flush()

    def _reload(self) -> ReloadResult:
        config_versions = self._config_versions
        try:
            plan = plan_reload(self._started, config_versions.config, load(self._file))
            number = self._publish(plan)
        except ConfigError as exc:
            return ReloadResult(config_versions.generation, problems=exc.problems)
        except (StreamEdgeError, OSError) as exc:
            return ReloadResult(config_versions.generation, problems=(str(exc),))
        return ReloadResult(number, (), plan.changed, plan.needs_restart)

    def _publish(self, plan: ReloadPlan) -> int:
        """Publishes the config. On CertificateError, CountriesError, OSError nothing changes."""
        use_certificates: Callable[[], None] | None = None
        if self._certificates is not None:
            from streamedge.process.certificates import configured_files, http2_hosts, load_pairs  # noqa: PLC0415  # only with HTTPS listeners

            pairs = load_pairs(configured_files(plan.config))
            use_certificates = partial(self._certificates.use, pairs, http2_hosts(plan.config))
        countries = CountryDatabase(plan.config.countries.database)
        number = self._config_versions.publish(plan.config)
        self._countries.use(countries)
        if use_certificates is not None:
            use_certificates()
        return number


_TABLES = tuple(name for name, field in Config.model_fields.items() if is_section(field.annotation))
"""The tables whose keys are named one by one; the others hold tables or lists of the user's."""


@dataclass(frozen=True, slots=True)
class ReloadPlan:
    """``config`` is the new config with the old values of the keys in ``needs_restart``.

    ``changed`` and ``needs_restart`` name keys, such as "limits.url", "origins.main" or
    "distributions.EWEB".
    """

    config: Config
    changed: tuple[str, ...]
    needs_restart: tuple[str, ...]


def plan_reload(started: Config, running: Config, new: Config) -> ReloadPlan:
    """Which parts of ``new`` can be applied live, given ``started`` and ``running``."""
    needs_restart: list[str] = []
    tables: dict[str, Section] = {}
    for name in _TABLES:
        new_table, started_table = getattr(new, name), getattr(started, name)
        unchanged = {key: getattr(started_table, key) for key in restart_keys(type(new_table))}
        needs_restart += [
            f"{name}.{key}" for key, value in unchanged.items() if getattr(new_table, key) != value
        ]
        tables[name] = new_table.model_copy(update=unchanged)
    if writes_back(new) and not writes_back(started):
        # The write queue is opened at the start; until a restart such writes go through.
        needs_restart += [
            f"distributions.{section.id}.write"
            for section in new.distributions
            if writes_back(new.model_copy(update={"distributions": (section,)}))
        ]
    if new.certificates and new.listen.mixed and not started.certificates:
        needs_restart.append("certificates")  # until then mixed addresses are without TLS
    config = new.model_copy(update=tables)
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
            changed = [f"{name}.{key}" for key in named if one.get(key) != other.get(key)]
            yield from changed or [name]  # a new order is a change too


def _keys_changed(name: str, before: Section, after: Section) -> Iterator[str]:
    for key in type(before).model_fields:
        if getattr(before, key) != getattr(after, key):
            yield f"{name}.{key}"
