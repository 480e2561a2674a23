"""What ``streamedge check`` warns of where distributions redirect viewers to the nearest edge."""

from __future__ import annotations

from collections.abc import Iterator

from streamedge.access.geo import CountryDatabase, CountryDatabaseError
from streamedge.config.checks.files import certificate_names
from streamedge.config.schema.config import Config, WebDistributionConfig


def nearest_warnings(config: Config) -> Iterator[str]:
    """Why viewers would not be redirected, or could not follow, as sentences."""
    sections = [one for one in config.distributions if one.nearest and one.enabled]
    if not sections:
        return
    names = ", ".join(section.id for section in sections)
    if not config.fleet.engine:
        yield f"nearest of {names} has no effect: fleet.engine is not set"
        return
    if config.countries.database is None:
        yield f"nearest of {names} has no effect: set countries.database to a database of cities"
    else:
        try:
            if not CountryDatabase(config.countries.database).has_locations:
                yield (
                    f"nearest of {names} has no effect: {config.countries.database} has countries"
                    " only; use a database of cities"
                )
        except CountryDatabaseError as exc:
            yield str(exc)
    if config.edge.location is None or not config.edge.addresses:
        yield "no viewer is redirected to this edge: set edge.location and edge.addresses"
    for section in sections:
        if isinstance(section, WebDistributionConfig) and config.serves_https:
            yield from _certificate_warnings(config, section)


def _certificate_warnings(config: Config, section: WebDistributionConfig) -> Iterator[str]:
    covered = {
        name.lower() for pair in config.certificates for name in certificate_names(pair.certificate)
    }
    for alias in section.aliases:
        if alias.startswith("*"):
            yield (
                f"{section.id} redirects below the pattern {alias}: certificates must be valid for"
                f" {config.edge.name}.HOST of each host"
            )
        elif not {f"{config.edge.name}.{alias}".lower(), f"*.{alias}".lower()} & covered:
            yield (
                f"no certificate is valid for {config.edge.name}.{alias}, to which {section.id}"
                f" redirects viewers: add one for *.{alias}"
            )
