"""What the edge serves, and from where, on the admin address.

GET /distributions   all distributions: of the config file, and those that the API has made
GET /origins         all origins, and which distributions use them; no secret is shown
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from streamedge.config.describe import origin_place
from streamedge.config.schema.config import (
    AnyDistributionConfig,
    Config,
    RtmpDistributionConfig,
    WebDistributionConfig,
)
from streamedge.config.schema.countries import format_country_list

FILE, API = "file", "api"


def inventory_routes(
    effective: Callable[[], Config], from_file: Callable[[], Config]
) -> list[Route]:
    """The routes. ``effective``: the config in use; ``from_file``: without what the API made."""

    async def distributions(_request: Request) -> Response:
        config, declared = effective(), {one.id for one in from_file().distributions}
        return JSONResponse(
            {
                "distributions": [
                    distribution_item(one, FILE if one.id in declared else API)
                    for one in config.distributions
                ]
            }
        )

    async def origins(_request: Request) -> Response:
        return JSONResponse({"origins": list(origin_items(effective()))})

    return [Route("/distributions", distributions), Route("/origins", origins)]


def distribution_item(distribution: AnyDistributionConfig, source: str) -> dict[str, Any]:
    """A distribution as a JSON object. ``source``: FILE or API."""
    applications: Sequence[str] = ()
    behaviors = 0
    if isinstance(distribution, RtmpDistributionConfig):
        applications = distribution.application
    else:
        behaviors = len(distribution.behaviors)
    return {
        "id": distribution.id,
        "type": distribution.type,
        "source": source,
        "enabled": distribution.enabled,
        "aliases": list(distribution.aliases),
        "applications": list(applications),
        "origin": distribution.origin,
        "origins": origins_of(distribution),
        "behaviors": behaviors,
        "signed": bool(distribution.trusted_key_groups),
        "countries": None
        if distribution.countries.is_open
        else format_country_list(distribution.countries),
    }


def origins_of(distribution: AnyDistributionConfig) -> list[str]:
    """The names of origins and groups that a distribution uses, each once."""
    names = [distribution.origin]
    if isinstance(distribution, WebDistributionConfig):
        names += [distribution.rules_for(one).origin for one in distribution.behaviors]
    return list(dict.fromkeys(names))


def origin_items(config: Config) -> Iterator[dict[str, Any]]:
    """The origins as JSON objects; those of a group also count as used by its distributions."""
    users: dict[str, list[str]] = {}
    for distribution in config.distributions:
        for name in origins_of(distribution):
            group = config.origin_groups.get(name)
            for member in (name,) if group is None else group.origins:
                users.setdefault(member, []).append(distribution.id)
    for name, origin in config.origins.items():
        yield {
            "name": name,
            "type": origin.type,
            "place": origin_place(origin),
            "distributions": list(dict.fromkeys(users.get(name, ()))),
            "groups": [group for group, one in config.origin_groups.items() if name in one.origins],
        }
