"""The effective config: config.toml combined with the resources of the API.

The file wins: a distribution of the API with an id of the file is left out; an alias that the file
has too is removed from it. A distribution of the API that cannot be applied any more (for example
because config.toml no longer has its origin) is left out and reported; it is never served with
other rules. API calls that would cause this are refused. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from streamedge.access.keys import KeyFileError, load_public_key
from streamedge.api.documents.documents import Document, invalid, required, section
from streamedge.api.documents.inventory import API_PREFIX, Inventory, inventory_of
from streamedge.api.documents.trust import trusted_key_groups
from streamedge.api.errors import ApiError
from streamedge.api.to_config import policy_sections
from streamedge.api.to_config.log_sections import log_section
from streamedge.api.to_config.origin_sections import (
    bucket_section,
    names_identity,
    origin_of_bucket,
)
from streamedge.api.to_config.web_sections import WebSections, aliases, web_sections
from streamedge.config.checks.bucket_policies import not_for_buckets
from streamedge.config.managed import CACHE_POLICIES, ORIGIN_REQUEST_POLICIES
from streamedge.config.schema.config import (
    AnyDistributionConfig,
    CachePolicyConfig,
    Config,
    KeyGroupConfig,
    OriginRequestPolicyConfig,
    PublicKeyConfig,
    RtmpDistributionConfig,
    RtmpLogConfig,
    S3OriginConfig,
    Section,
)
from streamedge.config.schema.selection import Selection, SelectionMode
from streamedge.control.resources import Kind, Resource

RTMP_APPLICATION = "cfx/st"  # of every streaming distribution of CloudFront
_POLICIES: Mapping[Kind, tuple[str, Callable[[Document], Section]]] = {
    Kind.CACHE_POLICY: ("cache_policies", policy_sections.cache_policy),
    Kind.ORIGIN_REQUEST_POLICY: ("origin_request_policies", policy_sections.origin_request_policy),
    Kind.RESPONSE_HEADERS_POLICY: (
        "response_headers_policies",
        policy_sections.response_headers_policy,
    ),
}
# A resource comes before the resources that refer to it.
_ORDER = (
    Kind.PUBLIC_KEY,
    Kind.KEY_GROUP,
    Kind.CACHE_POLICY,
    Kind.ORIGIN_REQUEST_POLICY,
    Kind.RESPONSE_HEADERS_POLICY,
    Kind.DISTRIBUTION,
    Kind.STREAMING_DISTRIBUTION,
)


@dataclass(frozen=True, slots=True)
class Problem:
    """A resource of the API that is not applied, and the reason."""

    kind: Kind
    id: str
    error: ApiError


@dataclass(frozen=True, slots=True)
class CombinedConfig:
    """The effective config, and the resources of the API that are not part of it."""

    config: Config
    problems: tuple[Problem, ...]


def combine(from_file: Config, resources: Iterable[Resource]) -> CombinedConfig:
    """The effective config. Never raises: resources that cannot be applied are left out."""
    inventory = inventory_of(from_file, resources)
    builder = _ConfigBuilder(inventory)
    for kind in _ORDER:
        for resource in tuple(inventory.from_api[kind].values()):
            builder.add(resource)
    return CombinedConfig(builder.config(), tuple(builder.problems))


class _ConfigBuilder:
    """Collects the tables of the combined config."""

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory
        from_file = inventory.from_file
        self.problems: list[Problem] = []
        self._distributions: list[AnyDistributionConfig] = []
        self._used_ids = {distribution.id for distribution in from_file.distributions}
        self._used_hosts = {
            host
            for distribution in from_file.distributions
            for host in exclusive_hosts(distribution)
        }
        self._tables: dict[str, dict[str, Section]] = {
            name: dict(getattr(from_file, name))
            for name in (
                "origins",
                "origin_groups",
                "cache_policies",
                "origin_request_policies",
                "response_headers_policies",
                "public_keys",
                "key_groups",
            )
        }

    def add(self, resource: Resource) -> None:
        """Adds the sections of ``resource``, or a problem."""
        try:
            match resource.kind:
                case Kind.DISTRIBUTION:
                    self._add_web(resource)
                case Kind.STREAMING_DISTRIBUTION:
                    self._add_distribution(
                        streaming_section(self._inventory, resource, self._add_origin)
                    )
                case Kind.PUBLIC_KEY:
                    self._tables["public_keys"].setdefault(
                        resource.id, public_key_section(resource)
                    )
                case Kind.KEY_GROUP:
                    name = self._inventory.key_group_name(resource.id)
                    self._tables["key_groups"][name] = key_group_section(self._inventory, resource)
                case _:
                    table, translate = _POLICIES[resource.kind]
                    name = f"{API_PREFIX}{resource.id}"
                    self._tables[table][name] = translate(resource.document)
        except ApiError as exc:
            self.problems.append(Problem(resource.kind, resource.id, exc))
            del self._inventory.from_api[resource.kind][
                resource.id
            ]  # resources that refer to it fail too

    def config(self) -> Config:
        """The combined config."""
        from_file = self._inventory.from_file
        self._add_all_keys()
        return from_file.model_copy(
            update={
                **self._tables,
                "distributions": (*from_file.distributions, *self._distributions),
            }
        )

    def _add_web(self, resource: Resource) -> None:
        sections = web_sections(self._inventory, resource.id, resource.document)
        self._check_bucket_policies(sections)
        self._add_distribution(sections.distribution)
        self._tables["origins"].update(sections.origins)
        self._tables["origin_groups"].update(sections.groups)
        self._tables["cache_policies"].update(sections.cache_policies)
        self._tables["origin_request_policies"].update(sections.origin_request_policies)

    def _check_bucket_policies(self, sections: WebSections) -> None:
        """Raises ApiError if a policy names a parameter or header that is never sent to buckets."""
        origins = {**self._tables["origins"], **sections.origins}
        groups = {**self._tables["origin_groups"], **sections.groups}
        caches = {**CACHE_POLICIES, **self._tables["cache_policies"], **sections.cache_policies}
        requests = {
            **ORIGIN_REQUEST_POLICIES,
            **self._tables["origin_request_policies"],
            **sections.origin_request_policies,
        }
        for rules in (sections.distribution, *sections.distribution.behaviors):
            members = getattr(groups.get(rules.origin), "origins", (rules.origin,))
            if not any(isinstance(origins.get(one), S3OriginConfig) for one in members):
                continue
            queries: list[str] = []
            headers: list[str] = []
            for policy in (
                caches.get(rules.cache_policy),
                requests.get(rules.origin_request_policy),
            ):
                if isinstance(policy, CachePolicyConfig | OriginRequestPolicyConfig):
                    queries += _only(policy.query_strings)
                    headers += _only(policy.headers)
            refused = not_for_buckets(queries, headers)
            if refused:
                raise invalid(f"a policy names {refused}, which is never sent to a bucket")

    def _add_all_keys(self) -> None:
        """Adds the group of all keys if it is trusted; a group without keys allows no viewer."""
        name = self._inventory.all_keys_name
        rules = [
            one
            for distribution in self._distributions
            for one in (distribution, *getattr(distribution, "behaviors", ()))
        ]
        if any(name in one.trusted_key_groups for one in rules):
            keys = tuple(self._tables["public_keys"])
            self._tables["key_groups"][name] = KeyGroupConfig.model_construct(keys=keys)

    def _add_origin(self, name: str, origin: Section) -> None:
        self._tables["origins"][name] = origin

    def _add_distribution(self, distribution: AnyDistributionConfig) -> None:
        if distribution.id in self._used_ids:
            text = f"config.toml declares a distribution {distribution.id} too"
            raise ApiError("DistributionAlreadyExists", text)
        aliases = tuple(
            alias
            for alias in distribution.aliases
            if self._used_hosts.isdisjoint(exclusive_hosts(distribution, (alias,)))
        )
        self._used_ids.add(distribution.id)
        self._distributions.append(distribution.model_copy(update={"aliases": aliases}))


def _only(names: Selection | Iterable[str]) -> tuple[str, ...]:
    """The names of a list; of a Selection, its names if it selects only these."""
    if isinstance(names, Selection):
        return tuple(names.names) if names.mode is SelectionMode.ONLY else ()
    return tuple(names)


def exclusive_hosts(
    distribution: AnyDistributionConfig, hosts: Iterable[str] | None = None
) -> set[tuple[str, str, str]]:
    """The (type, host pattern, application) tuples that no other distribution may have."""
    applications: tuple[str, ...] = ("",)
    if isinstance(distribution, RtmpDistributionConfig):
        applications = distribution.application
    return {
        (distribution.type, host.lower(), application)
        for host in (distribution.aliases if hosts is None else hosts)
        for application in applications
    }


def streaming_section(
    inventory: Inventory, resource: Resource, add_origin: Callable[[str, Section], None]
) -> RtmpDistributionConfig:
    """The section of a StreamingDistributionConfig. Raises ApiError."""
    document = resource.document
    s3 = required(document, "S3Origin")
    domain = required(s3, "DomainName")
    where = "S3Origin"
    file_origins = inventory.from_file.origins.keys() | inventory.from_file.origin_groups.keys()
    name = domain if domain in file_origins else origin_of_bucket(inventory, domain)
    is_signed = names_identity(s3.get("OriginAccessIdentity"))
    if name is None:
        name = f"{API_PREFIX}{resource.id}"
        add_origin(name, bucket_section(domain, is_signed=is_signed, values={}, where=where))
    values: dict[str, Any] = {
        "id": resource.id,
        "type": "rtmp",
        "enabled": bool(document.get("Enabled")),
        "aliases": aliases(inventory, resource.id, document),
        "origin": name,
        "application": [RTMP_APPLICATION],
        "log": log_section(RtmpLogConfig, inventory, document),
        "trusted_key_groups": trusted_key_groups(
            inventory, document, "StreamingDistributionConfig"
        ),
    }
    return section(RtmpDistributionConfig, values, "StreamingDistributionConfig")


def public_key_section(resource: Resource) -> PublicKeyConfig:
    """The section of a PublicKeyConfig. Raises ApiError for a PEM without a supported key."""
    pem = required(resource.document, "EncodedKey")
    try:
        load_public_key(resource.id, pem.encode())
    except KeyFileError as exc:
        raise ApiError("InvalidArgument", f"EncodedKey: {exc}") from exc
    return section(PublicKeyConfig, {"pem": pem}, "PublicKeyConfig")


def key_group_section(inventory: Inventory, resource: Resource) -> KeyGroupConfig:
    """The section of a KeyGroupConfig. Raises ApiError for an unknown key."""
    keys = list(resource.document.get("Items") or ())
    for key in keys:
        if (
            key not in inventory.from_api[Kind.PUBLIC_KEY]
            and key not in inventory.from_file.public_keys
        ):
            raise ApiError("InvalidArgument", f"Items: there is no public key with the id {key}")
    return section(KeyGroupConfig, {"keys": keys}, "KeyGroupConfig")
