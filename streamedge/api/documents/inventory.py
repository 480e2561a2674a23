"""All resources at one moment: those in config.toml and those made through the API.

Finds resources by CloudFront's ids, and gives API resources names in the effective config that no
name in the file can equal. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from streamedge.api.documents.documents import Document, not_offered
from streamedge.api.errors import ApiError
from streamedge.config.managed import IDS, MANAGED, NOT_OFFERED
from streamedge.config.schema.config import Config
from streamedge.control.resources import Kind, Resource

POLICY_KINDS: Mapping[Kind, tuple[str, str]] = {
    Kind.CACHE_POLICY: ("cache_policies", "NoSuchCachePolicy"),
    Kind.ORIGIN_REQUEST_POLICY: ("origin_request_policies", "NoSuchOriginRequestPolicy"),
    Kind.RESPONSE_HEADERS_POLICY: ("response_headers_policies", "NoSuchResponseHeadersPolicy"),
}
"""The table of the config that holds a kind of policy, and the code where there is none."""

# A colon is in no name that a config file may declare.
API_PREFIX = "made:"
# Names of key groups are checked as the file's are, which have no colon.
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
        """The name in the config of the policy with this id: from the API, the file or CloudFront.

        Raises ApiError where there is none."""
        table, code = POLICY_KINDS[kind]
        if identifier in self.from_api[kind]:
            return f"{API_PREFIX}{identifier}"
        name = IDS.get(identifier, identifier)
        if name in getattr(self.from_file, table) or name in MANAGED[table]:
            return name
        if identifier in NOT_OFFERED:
            why = "the edge does not compute CloudFront-* headers; make a policy without them"
            raise not_offered(f"the managed policy {NOT_OFFERED[identifier]}", why)
        raise ApiError(code, f"there is no policy with the id {identifier}")

    def policy_document(self, kind: Kind, identifier: str) -> Document | None:
        """The document of a policy of the API; None for one of the file or a managed one."""
        resource = self.from_api[kind].get(identifier)
        return None if resource is None else resource.document

    def key_group_name(self, identifier: str) -> str:
        """The name in the config of this key group. Raises ApiError where there is none."""
        if identifier in self.from_api[Kind.KEY_GROUP]:
            return self._free(f"{_API_KEY_GROUP_PREFIX}{identifier}")
        if identifier in self.from_file.key_groups:
            return identifier
        text = f"there is no key group with the id {identifier}"
        raise ApiError("TrustedKeyGroupDoesNotExist", text)

    @property
    def all_keys_name(self) -> str:
        """The name in the config of the group of all keys of this edge, trusted signer "self"."""
        return self._free(_ALL_KEYS)

    def domain_name(self, identifier: str) -> str:
        """The host name that every distribution of the API has: ``ID.EDGE.streamedge``."""
        return f"{identifier}.{self.edge_name}.streamedge".lower()

    def _free(self, name: str) -> str:
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
    """All texts that stand at ``member``, however deep in ``document``; of a list its entries."""
    found: set[str] = set()
    pending = [document]
    while pending:
        value = pending.pop()
        if isinstance(value, Mapping):
            entry_value = value.get(member)
            if isinstance(entry_value, str):
                found.add(entry_value)
            elif isinstance(entry_value, list):
                found.update(entry for entry in entry_value if isinstance(entry, str))
            elif isinstance(entry_value, Mapping):
                found.update(entry_value.get("Items") or ())
            pending += value.values()
        elif isinstance(value, list | tuple):
            pending += value
    return found
