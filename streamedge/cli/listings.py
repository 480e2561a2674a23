"""Lists of an edge's distributions and public keys, from the config file and from the API.

They come from the file and the control database beside the cache, which are only read; so the edge
need not run. A running edge serves a change of the file after ``streamedge reload``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.table import Table

from streamedge.access.keys import KeyFileError
from streamedge.api.documents.inventory import Inventory, inventory_of
from streamedge.api.operations.distributions import host_name
from streamedge.api.to_config.translation import combine
from streamedge.build.access_rules import public_key
from streamedge.config.managed import display_name
from streamedge.config.schema.config import (
    AccessConfig,
    AnyDistributionConfig,
    BehaviorRules,
    Config,
    RtmpDistributionConfig,
    WebDistributionConfig,
)
from streamedge.control.resources import Kind, Resource, read_resources
from streamedge.errors import StreamEdgeError

FROM_FILE = "config.toml"
FROM_API = "API"
_KINDS = {"web": Kind.DISTRIBUTION, "rtmp": Kind.STREAMING_DISTRIBUTION}


class NoDistributionError(StreamEdgeError):
    """No distribution has the given id."""


def list_distributions(config: Config, identifier: str = "") -> list[dict[str, Any]]:
    """All distributions as JSON objects: those of the file first, in its order.

    ``identifier`` selects one. Raises NoDistributionError, ControlError.
    """
    items = list(_distributions(config, read_resources(config.edge.cache)))
    if not identifier:
        return items
    matches = [item for item in items if item["id"] == identifier]
    if not matches:
        ids = ", ".join(item["id"] for item in items) or "none"
        raise NoDistributionError(f"no distribution has the id {identifier}; known: {ids}")
    return matches


def distribution_tables(items: Sequence[Mapping[str, Any]]) -> Iterator[Table]:
    """``list_distributions`` as tables; a single distribution with its behaviors."""
    table = Table(title="Distributions", title_justify="left", title_style="bold")
    for column in ("Id", "Type", "Source", "State", "Hosts", "Origins", "Comment"):
        table.add_column(column, overflow="fold")
    for item in items:
        table.add_row(
            item["id"],
            item["type"],
            item["made_in"],
            _state(item),
            ", ".join(item["hosts"]),
            ", ".join(item["origins"]),
            item["comment"],
        )
    yield table
    if len(items) == 1 and items[0]["behaviors"]:
        behaviors = Table(title="Behaviors", title_justify="left", title_style="bold")
        for column in ("Path", "Origin", "Methods", "Viewers", "Signed by", "Policies"):
            behaviors.add_column(column, overflow="fold")
        for rules in items[0]["behaviors"]:
            behaviors.add_row(
                rules["path"],
                rules["origin"],
                " ".join(rules["methods"]),
                rules["viewer_protocol"],
                ", ".join(rules["trusted_key_groups"]),
                ", ".join(rules["policies"]),
            )
        yield behaviors


def _distributions(config: Config, resources: Iterable[Resource]) -> Iterator[dict[str, Any]]:
    resources = tuple(resources)
    inventory, effective = inventory_of(config, resources), combine(config, resources)
    problems = {problem.id: str(problem.error) for problem in effective.problems}
    for distribution in effective.config.distributions:
        resource = inventory.from_api[_KINDS[distribution.type]].get(distribution.id)
        yield _distribution_item(
            inventory, distribution, None if distribution in config.distributions else resource
        )
    for kind in _KINDS.values():
        for resource in inventory.from_api[kind].values():
            if resource.id in problems:
                yield {**_failed_item(inventory, resource), "problem": problems[resource.id]}


def _distribution_item(
    inventory: Inventory, distribution: AnyDistributionConfig, resource: Resource | None
) -> dict[str, Any]:
    hosts = list(distribution.aliases)
    rules: list[tuple[str, BehaviorRules]] = []
    origins = [distribution.origin]
    if isinstance(distribution, WebDistributionConfig):
        rules = [
            *(
                (behavior.path, distribution.rules_for(behavior))
                for behavior in distribution.behaviors
            ),
            ("*", distribution.rules_for()),
        ]
        origins = [one.origin for _path, one in rules]
    return {
        "id": distribution.id,
        "type": distribution.type,
        "made_in": FROM_FILE if resource is None else FROM_API,
        "enabled": distribution.enabled,
        "problem": None,
        "hosts": hosts,
        "applications": list(distribution.application)
        if isinstance(distribution, RtmpDistributionConfig)
        else [],
        "origins": list(dict.fromkeys(origins)),
        "trusted_key_groups": list(distribution.trusted_key_groups),
        "comment": "" if resource is None else resource.document.get("Comment", ""),
        "modified": None if resource is None else _time(resource),
        "behaviors": [_rules(path, one) for path, one in rules],
    }


def _failed_item(inventory: Inventory, resource: Resource) -> dict[str, Any]:
    """A distribution of the API that cannot be served."""
    return {
        "id": resource.id,
        "type": "web" if resource.kind is Kind.DISTRIBUTION else "rtmp",
        "made_in": FROM_API,
        "enabled": bool(resource.document.get("Enabled")),
        "hosts": [host_name(inventory, resource)],
        "applications": [],
        "origins": [],
        "trusted_key_groups": [],
        "comment": resource.document.get("Comment", ""),
        "modified": _time(resource),
        "behaviors": [],
    }


def _rules(path: str, rules: BehaviorRules) -> dict[str, Any]:
    policies = (rules.cache_policy, rules.origin_request_policy, rules.response_headers_policy)
    return {
        "path": path,
        "origin": rules.origin,
        "methods": list(rules.methods),
        "viewer_protocol": rules.viewer_protocol,
        "trusted_key_groups": list(rules.trusted_key_groups),
        "policies": [display_name(policy) for policy in policies if policy],
    }


def _state(item: Mapping[str, Any]) -> str:
    if item["problem"]:
        return f"not applied: {item['problem']}"
    return "served" if item["enabled"] else "disabled"


def _time(resource: Resource) -> str:
    return datetime.fromtimestamp(resource.modified_s, UTC).isoformat(timespec="seconds")


def list_keys(config: Config) -> list[dict[str, Any]]:
    """The public keys of ``config`` and of the API, as JSON objects. Raises ControlError."""
    effective = combine(config, read_resources(config.edge.cache)).config
    made_in = dict.fromkeys(effective.public_keys, FROM_API) | dict.fromkeys(
        config.public_keys, FROM_FILE
    )
    return [{**row, "made_in": made_in[row["id"]]} for row in key_table(effective)]


def key_table(config: Config) -> Iterator[dict[str, Any]]:
    """Each key of ``config``, its groups, and the distributions and behaviors that trust it."""
    trust = list(_trust(config))
    for name, section in config.public_keys.items():
        groups = [group for group, members in config.key_groups.items() if name in members.keys]
        row: dict[str, Any] = {
            "id": name,
            "algorithm": "",
            "fingerprint": "",
            "groups": groups,
            "trusted_by": [place for place, trusted in trust if not trusted.isdisjoint(groups)],
            "problem": None,
        }
        try:
            key = public_key(name, section)
        except KeyFileError as exc:
            row["problem"] = str(exc)
        else:
            row.update(algorithm=key.algorithm, fingerprint=key.fingerprint)
        yield row


def key_tables(items: Sequence[Mapping[str, Any]]) -> Iterator[Table]:
    """``list_keys`` as a table; no table if there are no keys."""
    if not items:
        return
    table = Table(title="Public keys", title_justify="left", title_style="bold")
    for column in ("Id", "Source", "Kind", "Groups", "Trusted by", "SHA-256 fingerprint"):
        table.add_column(column, overflow="fold")
    for row in items:
        table.add_row(
            row["id"],
            row["made_in"],
            row["algorithm"],
            ", ".join(row["groups"]) or "none",
            ", ".join(row["trusted_by"]) or "no distribution",
            row["problem"] or row["fingerprint"],
        )
    yield table


def _trust(config: Config) -> Iterator[tuple[str, frozenset[str]]]:
    """Distributions ("ID") and behaviors ("ID PATH") with their trusted key groups."""
    for distribution in config.distributions:
        rules: list[tuple[str, AccessConfig]] = [(distribution.id, distribution)]
        if isinstance(distribution, WebDistributionConfig):
            rules += [
                (f"{distribution.id} {behavior.path}", distribution.rules_for(behavior))
                for behavior in distribution.behaviors
            ]
        for place, access in rules:
            yield place, frozenset(access.trusted_key_groups)
