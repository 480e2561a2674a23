"""The public keys of an edge for its operator: which they are, and who trusts them.

Owns their listing. It reads the file and the control database beside the cache and changes nothing,
so it says the same whether or not the edge runs. A key's fingerprint is what
``openssl pkey -pubin -outform DER | openssl dgst -sha256`` says of its file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

from streamedge.access.keys import KeyFileError
from streamedge.api.translation import combine
from streamedge.config.schema import AccessConfig, Config, WebDistributionConfig
from streamedge.control.registry import read_resources
from streamedge.edge.access_composition import public_key
from streamedge.edge.distributions_client import DECLARED, MADE


def list_keys(config: Config) -> list[dict[str, Any]]:
    """The keys that ``config`` declares and that were made through the API. Raises ControlError."""
    effective = combine(config, read_resources(config.edge.cache)).config
    made_in = dict.fromkeys(effective.public_keys, MADE) | dict.fromkeys(
        config.public_keys, DECLARED
    )
    return [{**row, "made_in": made_in[row["id"]]} for row in key_table(effective)]


def key_table(config: Config) -> Iterator[dict[str, Any]]:
    """Each key of ``config``, its groups, and the distributions and behaviors that trust it."""
    trust = list(_trust(config))
    for name, declared in config.public_keys.items():
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
            key = public_key(name, declared)
        except KeyFileError as exc:
            row["problem"] = str(exc)
        else:
            row.update(algorithm=key.algorithm, fingerprint=key.fingerprint)
        yield row


def tables(listed: Sequence[Mapping[str, Any]]) -> Iterator[Table]:
    """``list_keys`` for reading; none when there are none."""
    if not listed:
        return
    table = Table(title="Public keys", title_justify="left", title_style="bold")
    for column in ("Id", "Made in", "Kind", "Groups", "Trusted by", "SHA-256 fingerprint"):
        table.add_column(column, overflow="fold")
    for row in listed:
        table.add_row(
            row["id"],
            row["made_in"],
            row["algorithm"],
            ", ".join(row["groups"]) or "none",
            ", ".join(row["trusted_by"]) or "nobody",
            row["problem"] or row["fingerprint"],
        )
    yield table


def _trust(config: Config) -> Iterator[tuple[str, frozenset[str]]]:
    """Who asks for signatures, and the key groups that count: "ID", or "ID PATH" of a behavior."""
    for distribution in config.distributions:
        rules: list[tuple[str, AccessConfig]] = [(distribution.id, distribution)]
        if isinstance(distribution, WebDistributionConfig):
            rules += [
                (f"{distribution.id} {behavior.path}", distribution.rules_for(behavior))
                for behavior in distribution.behaviors
            ]
        for place, said in rules:
            yield place, frozenset(said.trusted_key_groups)
