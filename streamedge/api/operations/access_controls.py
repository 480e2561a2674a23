"""Operations on origin access controls: whether requests to a bucket are signed.

The edge signs with SigV4, with the AWS credential chain or with the keys of an origin in
config.toml. "always" and "no-override" mean the same here, because a viewer's Authorization is
never forwarded to a bucket.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from streamedge.api.documents.documents import Document, not_offered, required, with_defaults
from streamedge.api.documents.inventory import Inventory
from streamedge.api.operations.resource_calls import KindSpec, ResourceCalls, new_id, page_of
from streamedge.api.protocol.service import Call, Handler, Output
from streamedge.api.transactions import Resources
from streamedge.control.resources import Kind, Resource

_SUPPORTED = {
    "SigningProtocol": {"sigv4"},
    "SigningBehavior": {"always", "no-override", "never"},
    "OriginAccessControlOriginType": {"s3"},
}


def access_control_handlers(resources: Resources) -> dict[str, Handler]:
    """The handlers by the names of CloudFront's operations."""

    def list_access_controls(call: Call) -> Output:
        page = page_of(call, ORIGIN_ACCESS_CONTROLS.all(resources.inventory()))
        entries = [{"Id": resource.id, **resource.document} for resource in page.entries]
        return {"OriginAccessControlList": page.listing(entries)}

    handlers = ResourceCalls(ORIGIN_ACCESS_CONTROLS, resources).handlers()
    return {**handlers, "ListOriginAccessControls": list_access_controls}


def _complete(document: Document) -> dict[str, Any]:
    for member, supported in _SUPPORTED.items():
        if required(document, member) not in supported:
            raise not_offered(f"{member} {document[member]}")
    return with_defaults(document, {"Description": ""})


def _to_output(_inventory: Inventory, resource: Resource) -> dict[str, Any]:
    return {"Id": resource.id, "OriginAccessControlConfig": dict(resource.document)}


ORIGIN_ACCESS_CONTROLS = KindSpec(
    kind=Kind.ORIGIN_ACCESS_CONTROL,
    member="OriginAccessControl",
    config_member="OriginAccessControlConfig",
    path="origin-access-control",
    missing="NoSuchOriginAccessControl",
    exists="OriginAccessControlAlreadyExists",
    in_use="OriginAccessControlInUse",
    too_many="TooManyOriginAccessControls",
    make_id=partial(new_id, "E"),
    name_of=lambda document: str(required(document, "Name")),
    complete=_complete,
    to_output=_to_output,
    used_by=(Kind.DISTRIBUTION,),
    reference="OriginAccessControlId",
)
