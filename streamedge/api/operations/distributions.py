"""Operations on distributions, and the parts that streaming distributions share.

The shared parts build the output (ARN, host name, active trusted keys) and check that aliases are
not in use. A distribution is Deployed when the call returns, because it has taken effect by then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
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
    check_same_caller_reference,
    new_id,
    page_of,
    timestamp,
)
from streamedge.api.protocol.service import Call, Handler, Output
from streamedge.api.to_config.translation import exclusive_hosts
from streamedge.api.transactions import Resources
from streamedge.config.schema.config import Config, RtmpDistributionConfig, WebDistributionConfig
from streamedge.control.resources import Kind, Resource

ACCOUNT = "000000000000"  # of ARNs; the edge has no accounts
DEPLOYED = "Deployed"
_SUMMARY = (
    *("Aliases", "Origins", "OriginGroups", "DefaultCacheBehavior", "CacheBehaviors"),
    *("CustomErrorResponses", "Comment", "PriceClass", "Enabled", "ViewerCertificate"),
    *("Restrictions", "WebACLId", "HttpVersion", "IsIPV6Enabled", "Staging"),
)


def distribution_handlers(resources: Resources) -> dict[str, Handler]:
    """The handlers by the names of CloudFront's operations."""

    def list_distributions(call: Call) -> Output:
        inventory = resources.inventory()
        page = page_of(call, DISTRIBUTIONS.all(inventory))
        entries = [summary(inventory, resource) for resource in page.entries]
        return {"DistributionList": page.listing(entries)}

    return {
        **create_to_delete_handlers(DISTRIBUTIONS, resources),
        "ListDistributions": list_distributions,
    }


def create_to_delete_handlers(spec: KindSpec, resources: Resources) -> dict[str, Handler]:
    """The handlers for distributions of one kind, all but List."""
    calls = ResourceCalls(spec, resources)

    def create_with_tags(call: Call) -> Output:
        document = required(call.input, f"{spec.config_member}WithTags")
        tags = read_tags(required(document, "Tags"))
        return calls.create(call, tags, required(document, spec.config_member))

    return {**calls.handlers(), f"Create{spec.member}WithTags": create_with_tags}


def distribution_spec(
    kind: Kind,
    member: str,
    *,
    complete: Callable[[Document], dict[str, Any]],
    to_output: Callable[[Inventory, Resource], dict[str, Any]],
    from_file: Callable[[Config], Iterable[Resource]],
) -> KindSpec:
    """The specification of web or streaming distributions: what both kinds share, and the rest.

    ``member`` is CloudFront's name of the kind, which is part of its members and codes.
    """

    def check_delete(document: Document) -> None:
        if document["Enabled"]:
            name = kind.value.replace("-", " ")
            raise ApiError(f"{member}NotDisabled", f"disable the {name} before you delete it")

    return KindSpec(
        kind=kind,
        member=member,
        config_member=f"{member}Config",
        path=kind.value,
        missing=f"NoSuch{member}",
        exists=f"{member}AlreadyExists",
        in_use="ResourceInUse",
        too_many=f"TooMany{member}s",
        make_id=partial(new_id, "E"),
        name_of=lambda document: str(required(document, "CallerReference")),
        complete=complete,
        to_output=to_output,
        from_file=from_file,
        check=_check_conflicts,
        check_update=check_same_caller_reference,
        check_delete=check_delete,
    )


def arn(resource: Resource) -> str:
    """The ARN of a distribution of either kind."""
    return f"arn:aws:cloudfront::{ACCOUNT}:{resource.kind.value}/{resource.id}"


def host_name(inventory: Inventory, resource: Resource) -> str:
    """The host name of a distribution: in the file, its first alias without a wildcard."""
    if any(resource.id == distribution.id for distribution in inventory.from_file.distributions):
        for alias in entries_of(resource.document, "Aliases"):
            if "*" not in alias:
                return str(alias)
    return inventory.domain_name(resource.id)


def trusted_signers(inventory: Inventory, document: Document) -> dict[str, Any]:
    """ActiveTrustedSigners: "self" with all keys of the edge, if the document trusts it."""
    is_trusted = SELF in references(document, "TrustedSigners")
    keys = (*inventory.from_file.public_keys, *inventory.from_api[Kind.PUBLIC_KEY])
    signer = {"AwsAccountNumber": SELF, "KeyPairIds": listing(keys)}
    return {"Enabled": is_trusted, **listing([signer] if is_trusted else [])}


def _check_conflicts(inventory: Inventory, resource: Resource) -> None:
    """Raises ApiError if a distribution of either kind conflicts with other resources."""
    _check_aliases(inventory, resource)
    check_identities(inventory, resource)


def _check_aliases(inventory: Inventory, resource: Resource) -> None:
    """Raises ApiError CNAMEAlreadyExists if another distribution of the kind has an alias of it."""
    kind = _SECTIONS[resource.kind]
    used = {
        host
        for distribution in inventory.from_file.distributions
        if isinstance(distribution, kind)
        for _type, host, _application in exclusive_hosts(distribution)
    }
    for other in inventory.from_api[resource.kind].values():
        if other.id != resource.id:
            used.update(_lower(entries_of(other.document, "Aliases")))
            used.add(inventory.domain_name(other.id))
    for alias in _lower(entries_of(resource.document, "Aliases")):
        if alias in used:
            text = f"another distribution has the alias {alias} already"
            raise ApiError("CNAMEAlreadyExists", text)


def _lower(names: Iterable[str]) -> list[str]:
    return [name.lower() for name in names]


def _to_output(inventory: Inventory, resource: Resource) -> dict[str, Any]:
    return {
        **common_output(inventory, resource),
        "InProgressInvalidationBatches": 0,
        "ActiveTrustedSigners": trusted_signers(inventory, resource.document),
        "ActiveTrustedKeyGroups": _trusted_key_groups(inventory, resource.document),
        "DistributionConfig": dict(resource.document),
    }


def summary(inventory: Inventory, resource: Resource) -> dict[str, Any]:
    """A distribution in the form of lists."""
    document = resource.document
    members = {member: document[member] for member in _SUMMARY}
    return {**common_output(inventory, resource), "ETag": resource.etag, **members}


def common_output(inventory: Inventory, resource: Resource) -> dict[str, Any]:
    """The members that every output of a distribution of either kind has."""
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
        resource = inventory.from_api[Kind.KEY_GROUP].get(identifier)
        section = inventory.from_file.key_groups.get(identifier)
        keys = resource.document["Items"] if resource else section.keys if section else ()
        groups.append({"KeyGroupId": identifier, "KeyPairIds": listing(list(keys))})
    return {"Enabled": bool(groups), **listing(groups)}


DISTRIBUTIONS = distribution_spec(
    Kind.DISTRIBUTION,
    "Distribution",
    complete=complete_distribution,
    to_output=_to_output,
    from_file=file_resources.distributions,
)
_SECTIONS = {
    Kind.DISTRIBUTION: WebDistributionConfig,
    Kind.STREAMING_DISTRIBUTION: RtmpDistributionConfig,
}
