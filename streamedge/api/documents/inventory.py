"""All resources at one moment: those of config.toml and those of the API.

The inventory finds resources by CloudFront's ids. It gives the resources of the API names in the
effective config that no name in the file can equal. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from streamedge.api.documents.documents import Document, not_offered
from streamedge.api.errors import ApiError
from streamedge.config.managed import MANAGED_IDS, MANAGED_POLICIES, NOT_OFFERED
from streamedge.config.schema.config import Config
from streamedge.control.resources import Kind, Resource

POLICY_KINDS: Mapping[Kind, tuple[str, str]] = {
    Kind.CACHE_POLICY: ("cache_policies", "NoSuchCachePolicy"),
    Kind.ORIGIN_REQUEST_POLICY: ("origin_request_policies", "NoSuchOriginRequestPolicy"),
    Kind.RESPONSE_HEADERS_POLICY: ("response_headers_policies", "NoSuchResponseHeadersPolicy"),
}
"""The table of the config for a kind of policy, and the error code of an unknown id."""

# Names in a config file have no colon.
API_PREFIX = "made:"
# The config's check of key group names applies here too, so there is no colon.
_API_KEY_GROUP_PREFIX = "made-"
_ALL_KEYS = "made-self"


@dataclass(frozen=True, slots=True)
class Inventory:
    """``from_api`` has the API's resources by kind and id, the oldest first."""

    from_file: Config
    from_api: Mapping[Kind, dict[str, Resource]]

    @property
    def edge_name(self) -> str:
        return self.from_file.edge.name

    def policy_name(self, kind: Kind, identifier: str) -> str:
        """The config name of the policy with this id: from the API, the file or CloudFront.

        Raises ApiError for an unknown id.
        """
        table, code = POLICY_KINDS[kind]
        if identifier in self.from_api[kind]:
            return f"{API_PREFIX}{identifier}"
        name = MANAGED_IDS.get(identifier, identifier)
        if name in getattr(self.from_file, table) or name in MANAGED_POLICIES[table]:
            return name
        if identifier in NOT_OFFERED:
            reason = "the edge does not compute CloudFront-* headers; use a policy without them"
            raise not_offered(f"the managed policy {NOT_OFFERED[identifier]}", reason)
        raise ApiError(code, f"there is no policy with the id {identifier}")

    def policy_document(self, kind: Kind, identifier: str) -> Document | None:
        """The document of a policy of the API; None for a policy of the file and a managed one."""
        resource = self.from_api[kind].get(identifier)
        return None if resource is None else resource.document

    def key_group_name(self, identifier: str) -> str:
        """The config name of this key group. Raises ApiError for an unknown id."""
        if identifier in self.from_api[Kind.KEY_GROUP]:
            return self._unused(f"{_API_KEY_GROUP_PREFIX}{identifier}")
        if identifier in self.from_file.key_groups:
            return identifier
        text = f"there is no key group with the id {identifier}"
        raise ApiError("TrustedKeyGroupDoesNotExist", text)

    @property
    def all_keys_name(self) -> str:
        """The config name of the group of all keys of this edge: the trusted signer "self"."""
        return self._unused(_ALL_KEYS)

    def domain_name(self, identifier: str) -> str:
        """The host name of a distribution of the API: ``ID.EDGE.streamedge``."""
        return f"{identifier}.{self.edge_name}.streamedge".lower()

    def _unused(self, name: str) -> str:
        while name in self.from_file.key_groups:
            name += "-"
        return name


def inventory_of(from_file: Config, resources: Iterable[Resource]) -> Inventory:
    """The inventory of a config and the resources of the API."""
    from_api: dict[Kind, dict[str, Resource]] = {kind: {} for kind in Kind}
    for resource in resources:
        from_api[resource.kind][resource.id] = resource
    return Inventory(from_file, from_api)


def references(document: object, member: str) -> set[str]:
    """All texts at ``member``, at any depth of ``document``; for a list, its entries."""
    texts: set[str] = set()
    pending = [document]
    while pending:
        value = pending.pop()
        if isinstance(value, Mapping):
            entry_value = value.get(member)
            if isinstance(entry_value, str):
                texts.add(entry_value)
            elif isinstance(entry_value, list):
                texts.update(entry for entry in entry_value if isinstance(entry, str))
            elif isinstance(entry_value, Mapping):
                texts.update(entry_value.get("Items") or ())
            pending += value.values()
        elif isinstance(value, list | tuple):
            pending += value
    return texts
