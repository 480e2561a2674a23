"""Operations on cache, origin request and response headers policies, including managed ones.

Defines the names of the three kinds and their lists; ``policy_sections`` interprets documents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from streamedge.api.documents.documents import Document, invalid, required, with_defaults
from streamedge.api.documents.inventory import Inventory
from streamedge.api.operations import file_resources
from streamedge.api.operations.policy_documents import (
    cache_policy_document,
    origin_request_policy_document,
    response_headers_policy_document,
)
from streamedge.api.operations.resource_calls import (
    KindSpec,
    ResourceCalls,
    fixed_resource,
    new_uuid,
    page,
    timestamp,
)
from streamedge.api.protocol.service import Call, Handler, Output
from streamedge.api.transactions import Resources
from streamedge.config.managed import (
    CACHE_POLICIES,
    EDGE_HEADERS,
    IDS,
    ORIGIN_REQUEST_POLICIES,
    RESPONSE_HEADERS_POLICIES,
)
from streamedge.config.schema.config import Config
from streamedge.control.resources import Kind, Resource

_MANAGED_IDS = {name: identifier for identifier, name in IDS.items()}
_NOT_COMPRESSED = frozenset({"CachingDisabled", "CachingOptimizedForUncompressedObjects"})
_GZIP_ALONE = frozenset({"Elemental-MediaPackage"})


def policy_handlers(holdings: Resources) -> dict[str, Handler]:
    """All calls on policies, by the names of CloudFront's operations."""
    handlers: dict[str, Handler] = {}
    for family, plural in FAMILIES:
        handlers |= ResourceCalls(family, holdings).handlers()
        handlers[f"List{plural}"] = _lister(family, holdings)
    return handlers


def _lister(family: KindSpec, holdings: Resources) -> Handler:
    def listed(call: Call) -> Output:
        wanted = call.input.get("Type") or ""
        if wanted not in {"", "managed", "custom"}:
            raise invalid("Type is managed or custom")
        inventory = holdings.inventory()
        found = {
            identifier: resource
            for identifier, resource in family.all(inventory).items()
            if wanted in {"", _type(family, resource)}
        }
        chosen = page(call, found)
        entries = [
            {"Type": _type(family, resource), family.member: family.shown(inventory, resource)}
            for resource in chosen.entries
        ]
        return {f"{family.member}List": chosen.listing(entries, has_marker=False)}

    return listed


def _type(family: KindSpec, resource: Resource) -> str:
    return "managed" if family.is_managed(resource) else "custom"


def _shown(member: str) -> Callable[[Inventory, Resource], dict[str, Any]]:
    def shown(_inventory: Inventory, resource: Resource) -> dict[str, Any]:
        return {
            "Id": resource.id,
            "LastModifiedTime": timestamp(resource.modified_s),
            member: dict(resource.document),
        }

    return shown


def _name(document: Document) -> str:
    return str(required(document, "Name"))


def _complete(document: Document) -> dict[str, Any]:
    return with_defaults(document, {"Comment": ""})


def _managed(kind: Kind, documents: Mapping[str, Document]) -> tuple[Resource, ...]:
    """The managed policies of a kind, from their documents by name."""
    return tuple(
        fixed_resource(kind, _MANAGED_IDS[name], {**document, "Name": f"Managed-{name}"})
        for name, document in documents.items()
    )


def _family(
    kind: Kind,
    member: str,
    managed: Mapping[str, Document],
    declared_in: Callable[[Config], Iterable[Resource]],
) -> KindSpec:
    return KindSpec(
        kind=kind,
        member=member,
        config_member=f"{member}Config",
        path=kind.value,
        missing=f"NoSuch{member}",
        exists=f"{member}AlreadyExists",
        in_use=f"{member}InUse",
        too_many="TooMany" + member.removesuffix("y") + "ies",
        make_id=new_uuid,
        name_of=_name,
        complete=_complete,
        shown=_shown(f"{member}Config"),
        declared=declared_in,
        managed=_managed(kind, managed),
        used_by=(Kind.DISTRIBUTION,),
        reference=f"{member}Id",
    )


FAMILIES: tuple[tuple[KindSpec, str], ...] = (
    (
        _family(
            Kind.CACHE_POLICY,
            "CachePolicy",
            {
                name: cache_policy_document(
                    name,
                    policy,
                    gzip=name not in _NOT_COMPRESSED,
                    brotli=name not in _NOT_COMPRESSED | _GZIP_ALONE,
                )
                for name, policy in CACHE_POLICIES.items()
            },
            file_resources.cache_policies,
        ),
        "CachePolicies",
    ),
    (
        _family(
            Kind.ORIGIN_REQUEST_POLICY,
            "OriginRequestPolicy",
            {
                name: origin_request_policy_document(
                    name, policy, edge_headers=EDGE_HEADERS.get(name, ())
                )
                for name, policy in ORIGIN_REQUEST_POLICIES.items()
            },
            file_resources.origin_request_policies,
        ),
        "OriginRequestPolicies",
    ),
    (
        _family(
            Kind.RESPONSE_HEADERS_POLICY,
            "ResponseHeadersPolicy",
            {
                name: response_headers_policy_document(name, policy)
                for name, policy in RESPONSE_HEADERS_POLICIES.items()
            },
            file_resources.response_headers_policies,
        ),
        "ResponseHeadersPolicies",
    ),
)
"""Each kind, and what CloudFront calls many of it."""
