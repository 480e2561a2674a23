"""Operations on distributions, and what they share with streaming distributions.

Builds the output (ARN, host name, active trusted keys) and checks that aliases are not in use. A
distribution is Deployed when the call returns, because it is in force by then.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from streamedge.api.documents.completion import complete_distribution
from streamedge.api.documents.documents import Document, entries_of, listing, required
from streamedge.api.documents.inventory import Inventory, references
from streamedge.api.documents.tags import read_tags
from streamedge.api.documents.trust import SELF
from streamedge.api.errors import ApiError
from streamedge.api.operations import file_resources
from streamedge.api.operations.identities import check_identities
from streamedge.api.operations.resource_calls import (
    KindSpec,
    ResourceCalls,
    new_id,
    page,
    timestamp,
)
from streamedge.api.protocol.service import Call, Handler, Output
from streamedge.api.to_config.translation import exclusive_hosts
from streamedge.api.transactions import Resources
from streamedge.config.schema.config import RtmpDistributionConfig, WebDistributionConfig
from streamedge.control.resources import Kind, Resource

ACCOUNT = "000000000000"  # of ARNs; the edge has no accounts
DEPLOYED = "Deployed"
_SUMMARY = (
    *("Aliases", "Origins", "OriginGroups", "DefaultCacheBehavior", "CacheBehaviors"),
    *("CustomErrorResponses", "Comment", "PriceClass", "Enabled", "ViewerCertificate"),
    *("Restrictions", "WebACLId", "HttpVersion", "IsIPV6Enabled", "Staging"),
)


def distribution_handlers(holdings: Resources) -> dict[str, Handler]:
    """By the names of CloudFront's operations."""
    calls = ResourceCalls(DISTRIBUTIONS, holdings)

    def create_with_tags(call: Call) -> Output:
        said = required(call.input, "DistributionConfigWithTags")
        tags = read_tags(required(said, "Tags"))
        return calls.create(call, tags, required(said, "DistributionConfig"))

    def listed(call: Call) -> Output:
        inventory = holdings.inventory()
        chosen = page(call, DISTRIBUTIONS.all(inventory))
        return {
            "DistributionList": chosen.listing([summary(inventory, one) for one in chosen.entries])
        }

    return {
        **calls.handlers(),
        "CreateDistributionWithTags": create_with_tags,
        "ListDistributions": listed,
    }


def arn(resource: Resource) -> str:
    """The ARN of a distribution of either kind."""
    return f"arn:aws:cloudfront::{ACCOUNT}:{resource.kind.value}/{resource.id}"


def host_name(inventory: Inventory, resource: Resource) -> str:
    """The host name that a distribution is served by: of a declared one, its first plain alias."""
    if any(resource.id == distribution.id for distribution in inventory.from_file.distributions):
        for alias in entries_of(resource.document, "Aliases"):
            if "*" not in alias:
                return str(alias)
    return inventory.domain_name(resource.id)


def trusted_signers(inventory: Inventory, document: Document) -> dict[str, Any]:
    """ActiveTrustedSigners: self with all keys of the edge, where it is trusted."""
    is_trusted = SELF in references(document, "TrustedSigners")
    keys = (*inventory.from_file.public_keys, *inventory.from_api[Kind.PUBLIC_KEY])
    signer = {"AwsAccountNumber": SELF, "KeyPairIds": listing(keys)}
    return {"Enabled": is_trusted, **listing([signer] if is_trusted else [])}


def check_beside_others(inventory: Inventory, resource: Resource) -> None:
    """Raises ApiError where a distribution of either kind cannot be beside what else there is."""
    check_aliases(inventory, resource)
    check_identities(inventory, resource)


def check_aliases(inventory: Inventory, resource: Resource) -> None:
    """Raises ApiError CNAMEAlreadyExists where another distribution of the kind has an alias."""
    kind = _SECTIONS[resource.kind]
    taken = {
        host
        for distribution in inventory.from_file.distributions
        if isinstance(distribution, kind)
        for _type, host, _application in exclusive_hosts(distribution)
    }
    for other in inventory.from_api[resource.kind].values():
        if other.id != resource.id:
            taken.update(_lower(entries_of(other.document, "Aliases")))
            taken.add(inventory.domain_name(other.id))
    for alias in _lower(entries_of(resource.document, "Aliases")):
        if alias in taken:
            text = f"another distribution has the alias {alias} already"
            raise ApiError("CNAMEAlreadyExists", text)


def check_distribution_update(old: Document, new: Document) -> None:
    """Raises ApiError where a CallerReference would change."""
    if old["CallerReference"] != new["CallerReference"]:
        raise ApiError("IllegalUpdate", "CallerReference cannot change")


def _lower(names: Iterable[str]) -> list[str]:
    return [name.lower() for name in names]


def _shown(inventory: Inventory, resource: Resource) -> dict[str, Any]:
    return {
        **common_output(inventory, resource),
        "InProgressInvalidationBatches": 0,
        "ActiveTrustedSigners": trusted_signers(inventory, resource.document),
        "ActiveTrustedKeyGroups": _trusted_key_groups(inventory, resource.document),
        "DistributionConfig": dict(resource.document),
    }


def summary(inventory: Inventory, resource: Resource) -> dict[str, Any]:
    """A distribution as lists show it."""
    document = resource.document
    said = {member: document[member] for member in _SUMMARY}
    return {**common_output(inventory, resource), "ETag": resource.etag, **said}


def common_output(inventory: Inventory, resource: Resource) -> dict[str, Any]:
    """What every output has of a distribution of either kind."""
    return {
        "Id": resource.id,
        "ARN": arn(resource),
        "Status": DEPLOYED,
        "LastModifiedTime": timestamp(resource.modified_s),
        "DomainName": host_name(inventory, resource),
    }


def _trusted_key_groups(inventory: Inventory, document: Document) -> dict[str, Any]:
    groups = []
    for identifier in sorted(references(document, "TrustedKeyGroups")):
        made = inventory.from_api[Kind.KEY_GROUP].get(identifier)
        group = inventory.from_file.key_groups.get(identifier)
        keys = made.document["Items"] if made else group.keys if group else ()
        groups.append({"KeyGroupId": identifier, "KeyPairIds": listing(list(keys))})
    return {"Enabled": bool(groups), **listing(groups)}


def _check_delete(document: Document) -> None:
    if document["Enabled"]:
        raise ApiError("DistributionNotDisabled", "only a disabled distribution is deleted")


DISTRIBUTIONS = KindSpec(
    kind=Kind.DISTRIBUTION,
    member="Distribution",
    config_member="DistributionConfig",
    path="distribution",
    missing="NoSuchDistribution",
    exists="DistributionAlreadyExists",
    in_use="ResourceInUse",
    too_many="TooManyDistributions",
    make_id=partial(new_id, "E"),
    name_of=lambda document: str(required(document, "CallerReference")),
    complete=complete_distribution,
    shown=_shown,
    declared=file_resources.distributions,
    check=check_beside_others,
    check_update=check_distribution_update,
    check_delete=_check_delete,
)
_SECTIONS = {
    Kind.DISTRIBUTION: WebDistributionConfig,
    Kind.STREAMING_DISTRIBUTION: RtmpDistributionConfig,
}
