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
from streamedge.api.operations.resource_calls import KindSpec, ResourceCalls, new_id, page
from streamedge.api.protocol.service import Call, Handler, Output
from streamedge.api.transactions import Resources
from streamedge.control.resources import Kind, Resource

REFERENCE = "origin-access-identity/cloudfront/"
"""What stands before the id where an origin names an identity."""


def identity_handlers(holdings: Resources) -> dict[str, Handler]:
    """By the names of CloudFront's operations."""

    def listed(call: Call) -> Output:
        chosen = page(call, FAMILY.all(holdings.inventory()))
        entries = [
            {**_place(resource), "Comment": resource.document["Comment"]}
            for resource in chosen.entries
        ]
        return {"CloudFrontOriginAccessIdentityList": chosen.listing(entries)}

    handlers = ResourceCalls(FAMILY, holdings).handlers()
    return {**handlers, "ListCloudFrontOriginAccessIdentities": listed}


def check_identities(inventory: Inventory, resource: Resource) -> None:
    """Raises ApiError InvalidOriginAccessIdentity where a distribution names one that there is not.

    What its document has named before is left alone.
    """
    before = inventory.from_api[resource.kind].get(resource.id)
    known = set() if before is None else _named(before.document)
    for reference in _named(resource.document) - known:
        identifier = reference.removeprefix(REFERENCE)
        if identifier == reference or identifier not in inventory.from_api[FAMILY.kind]:
            text = f"OriginAccessIdentity: there is no {reference!a}"
            raise ApiError("InvalidOriginAccessIdentity", text)


def _named(document: Document) -> set[str]:
    """The identities that a distribution of either kind names."""
    configs = [
        *(origin.get("S3OriginConfig") or {} for origin in entries_of(document, "Origins")),
        document.get("S3Origin") or {},
    ]
    return {name for config in configs if (name := config.get("OriginAccessIdentity"))}


def _place(resource: Resource) -> dict[str, Any]:
    # An S3 user of its own in CloudFront; bucket policies here name nobody by it.
    user = hashlib.sha384(resource.id.encode()).hexdigest()
    return {"Id": resource.id, "S3CanonicalUserId": user}


def _complete(document: Document) -> dict[str, Any]:
    required(document, "CallerReference")
    return with_defaults(document, {"Comment": ""})


def _shown(_inventory: Inventory, resource: Resource) -> dict[str, Any]:
    return {
        **_place(resource),
        "CloudFrontOriginAccessIdentityConfig": dict(resource.document),
    }


def _check_update(old: Document, new: Document) -> None:
    if old["CallerReference"] != new["CallerReference"]:
        raise ApiError("IllegalUpdate", "CallerReference cannot change")


FAMILY = KindSpec(
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
    shown=_shown,
    is_repeatable=True,
    check_update=_check_update,
    used_by=(Kind.DISTRIBUTION, Kind.STREAMING_DISTRIBUTION),
    reference="OriginAccessIdentity",
    reference_of=lambda identifier: f"{REFERENCE}{identifier}",
)
