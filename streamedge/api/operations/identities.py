"""Operations on origin access identities: names that a bucket policy may trust at AWS.

They have no effect here: requests to a bucket are signed with the AWS credential chain or the keys
of an origin in config.toml, whichever identity is named. Clients older than origin access controls
(Ansible's modules, older Terraform) create one before each distribution with a bucket.
"""

from __future__ import annotations

import hashlib
from functools import partial
from typing import Any

from streamedge.api.documents.documents import Document, entries_of, required, with_defaults
from streamedge.api.documents.inventory import Inventory
from streamedge.api.errors import ApiError
from streamedge.api.operations.resource_calls import (
    KindSpec,
    ResourceCalls,
    check_same_caller_reference,
    new_id,
    page_of,
)
from streamedge.api.protocol.service import Call, Handler, Output
from streamedge.api.transactions import Resources
from streamedge.control.resources import Kind, Resource

REFERENCE = "origin-access-identity/cloudfront/"
"""The prefix of the id where an origin refers to an identity."""


def identity_handlers(resources: Resources) -> dict[str, Handler]:
    """The handlers by the names of CloudFront's operations."""

    def list_identities(call: Call) -> Output:
        page = page_of(call, ORIGIN_ACCESS_IDENTITIES.all(resources.inventory()))
        entries = [
            {**_id_members(resource), "Comment": resource.document["Comment"]}
            for resource in page.entries
        ]
        return {"CloudFrontOriginAccessIdentityList": page.listing(entries)}

    handlers = ResourceCalls(ORIGIN_ACCESS_IDENTITIES, resources).handlers()
    return {**handlers, "ListCloudFrontOriginAccessIdentities": list_identities}


def check_identities(inventory: Inventory, resource: Resource) -> None:
    """Raises ApiError InvalidOriginAccessIdentity if a distribution names an unknown identity.

    Identities that its document named before the change are not checked again.
    """
    before = inventory.from_api[resource.kind].get(resource.id)
    earlier = set() if before is None else _identities(before.document)
    for reference in _identities(resource.document) - earlier:
        identifier = reference.removeprefix(REFERENCE)
        if (
            identifier == reference
            or identifier not in inventory.from_api[ORIGIN_ACCESS_IDENTITIES.kind]
        ):
            text = f"OriginAccessIdentity: there is no {reference!a}"
            raise ApiError("InvalidOriginAccessIdentity", text)


def _identities(document: Document) -> set[str]:
    """The identities that a distribution of either kind names."""
    configs = [
        *(origin.get("S3OriginConfig") or {} for origin in entries_of(document, "Origins")),
        document.get("S3Origin") or {},
    ]
    return {name for config in configs if (name := config.get("OriginAccessIdentity"))}


def _id_members(resource: Resource) -> dict[str, Any]:
    # In CloudFront each identity has an S3 user; here the id is a digest without an effect.
    user = hashlib.sha384(resource.id.encode()).hexdigest()
    return {"Id": resource.id, "S3CanonicalUserId": user}


def _complete(document: Document) -> dict[str, Any]:
    required(document, "CallerReference")
    return with_defaults(document, {"Comment": ""})


def _to_output(_inventory: Inventory, resource: Resource) -> dict[str, Any]:
    return {
        **_id_members(resource),
        "CloudFrontOriginAccessIdentityConfig": dict(resource.document),
    }


ORIGIN_ACCESS_IDENTITIES = KindSpec(
    kind=Kind.ORIGIN_ACCESS_IDENTITY,
    member="CloudFrontOriginAccessIdentity",
    config_member="CloudFrontOriginAccessIdentityConfig",
    path="origin-access-identity/cloudfront",
    missing="NoSuchCloudFrontOriginAccessIdentity",
    exists="CloudFrontOriginAccessIdentityAlreadyExists",
    in_use="CloudFrontOriginAccessIdentityInUse",
    too_many="TooManyCloudFrontOriginAccessIdentities",
    make_id=partial(new_id, "E"),
    name_of=lambda document: str(document["CallerReference"]),
    complete=_complete,
    to_output=_to_output,
    is_repeatable=True,
    check_update=check_same_caller_reference,
    used_by=(Kind.DISTRIBUTION, Kind.STREAMING_DISTRIBUTION),
    reference="OriginAccessIdentity",
    reference_of=lambda identifier: f"{REFERENCE}{identifier}",
)
