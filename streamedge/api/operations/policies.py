"""Operations on cache, origin request and response headers policies, including managed ones.

``policy_sections`` interprets their documents.
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
    new_uuid,
    page_of,
    read_only_resource,
    timestamp,
)
from streamedge.api.protocol.service import Call, Handler, Output
from streamedge.api.transactions import Resources
from streamedge.config.managed import (
    CACHE_POLICIES,
    EDGE_HEADERS,
    MANAGED_IDS,
    ORIGIN_REQUEST_POLICIES,
    RESPONSE_HEADERS_POLICIES,
)
from streamedge.config.schema.config import Config
from streamedge.control.resources import Kind, Resource

_MANAGED_IDS = {name: identifier for identifier, name in MANAGED_IDS.items()}
_NOT_COMPRESSED = frozenset({"CachingDisabled", "CachingOptimizedForUncompressedObjects"})
_GZIP_ONLY = frozenset({"Elemental-MediaPackage"})


def policy_handlers(resources: Resources) -> dict[str, Handler]:
    """All calls on policies, by the names of CloudFront's operations."""
    handlers: dict[str, Handler] = {}
    for spec, plural in POLICY_SPECS:
        handlers |= ResourceCalls(spec, resources).handlers()
        handlers[f"List{plural}"] = _list_handler(spec, resources)
    return handlers


def _list_handler(spec: KindSpec, resources: Resources) -> Handler:
    def list_policies(call: Call) -> Output:
        policy_type = call.input.get("Type") or ""
        if policy_type not in {"", "managed", "custom"}:
            raise invalid("Type must be managed or custom")
        inventory = resources.inventory()
        policies = {
            identifier: resource
            for identifier, resource in spec.all(inventory).items()
            if policy_type in {"", _type(spec, resource)}
        }
        page = page_of(call, policies)
        entries = [
            {"Type": _type(spec, resource), spec.member: spec.to_output(inventory, resource)}
            for resource in page.entries
        ]
        return {f"{spec.member}List": page.listing(entries, has_marker=False)}

    return list_policies


def _type(spec: KindSpec, resource: Resource) -> str:
    return "managed" if spec.is_managed(resource) else "custom"


def _output_function(member: str) -> Callable[[Inventory, Resource], dict[str, Any]]:
    def to_output(_inventory: Inventory, resource: Resource) -> dict[str, Any]:
        return {
            "Id": resource.id,
            "LastModifiedTime": timestamp(resource.modified_s),
            member: dict(resource.document),
        }

    return to_output


def _name(document: Document) -> str:
    return str(required(document, "Name"))


def _complete(document: Document) -> dict[str, Any]:
    return with_defaults(document, {"Comment": ""})


def _managed(kind: Kind, documents: Mapping[str, Document]) -> tuple[Resource, ...]:
    """The managed policies of a kind, from their documents by name."""
    return tuple(
        read_only_resource(kind, _MANAGED_IDS[name], {**document, "Name": f"Managed-{name}"})
        for name, document in documents.items()
    )


def _spec(
    kind: Kind,
    member: str,
    managed: Mapping[str, Document],
    from_file: Callable[[Config], Iterable[Resource]],
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
        to_output=_output_function(f"{member}Config"),
        from_file=from_file,
        managed=_managed(kind, managed),
        used_by=(Kind.DISTRIBUTION,),
        reference=f"{member}Id",
    )


POLICY_SPECS: tuple[tuple[KindSpec, str], ...] = (
    (
        _spec(
            Kind.CACHE_POLICY,
            "CachePolicy",
            {
                name: cache_policy_document(
                    name,
                    policy,
                    gzip=name not in _NOT_COMPRESSED,
                    brotli=name not in _NOT_COMPRESSED | _GZIP_ONLY,
                )
                for name, policy in CACHE_POLICIES.items()
            },
            file_resources.cache_policies,
        ),
        "CachePolicies",
    ),
    (
        _spec(
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
        _spec(
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
"""Each kind with the plural of its name in CloudFront."""
