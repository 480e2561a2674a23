"""ListDistributionsBy…: the distributions that use a resource.

Nothing uses features that this edge does not have (web ACLs, VPC origins, real-time logs).
"""

from __future__ import annotations

from collections.abc import Callable

from streamedge.api.documents.documents import Document, invalid, required
from streamedge.api.documents.inventory import Inventory, references
from streamedge.api.operations.distributions import DISTRIBUTIONS, summary
from streamedge.api.operations.keys import KEY_GROUPS
from streamedge.api.operations.policies import POLICY_SPECS
from streamedge.api.operations.resource_calls import KindSpec, page_of
from streamedge.api.protocol.service import Call, Handler, Output
from streamedge.api.transactions import Resources
from streamedge.control.resources import Resource

_NO_WEB_ACL = "null"  # selects the distributions without a web ACL
_CONNECTION_MODE = "direct"  # the mode of every distribution here: there are no tenants

Uses = Callable[[Document], bool]


def distribution_search_handlers(resources: Resources) -> dict[str, Handler]:
    """The handlers by the names of CloudFront's operations."""
    handlers = {
        f"ListDistributionsBy{spec.member}Id": _by_resource(
            resources, spec, f"{spec.member}Id", f"{spec.member}Id"
        )
        for spec, _plural in POLICY_SPECS
    }

    def summaries(uses: Callable[[Call], Uses]) -> Handler:
        def list_users(call: Call) -> Output:
            inventory = resources.inventory()
            page = page_of(call, _users(inventory, uses(call)))
            entries = [summary(inventory, one) for one in page.entries]
            return {"DistributionList": page.listing(entries)}

        return list_users

    def list_by_vpc_origin(call: Call) -> Output:
        required(call.input, "VpcOriginId")
        return {"DistributionIdList": page_of(call, {}).listing([])}

    return {
        **handlers,
        "ListDistributionsByKeyGroup": _by_resource(
            resources, KEY_GROUPS, "KeyGroupId", "TrustedKeyGroups"
        ),
        "ListDistributionsByVpcOriginId": list_by_vpc_origin,
        "ListDistributionsByWebACLId": summaries(_uses_web_acl),
        "ListDistributionsByRealtimeLogConfig": summaries(_uses_realtime_log),
        "ListDistributionsByConnectionMode": summaries(_has_connection_mode),
        "ListDistributionsByAnycastIpListId": summaries(_uses_nothing),
    }


def _by_resource(resources: Resources, spec: KindSpec, member: str, reference: str) -> Handler:
    """The ids of the distributions whose documents name a resource at ``reference``."""

    def list_ids(call: Call) -> Output:
        inventory = resources.inventory()
        resource = spec.find(inventory, required(call.input, member))

        def uses(document: Document) -> bool:
            return resource.id in references(document, reference)

        page = page_of(call, _users(inventory, uses))
        return {"DistributionIdList": page.listing([one.id for one in page.entries])}

    return list_ids


def _users(inventory: Inventory, uses: Uses) -> dict[str, Resource]:
    return {
        identifier: resource
        for identifier, resource in DISTRIBUTIONS.all(inventory).items()
        if uses(resource.document)
    }


def _uses_web_acl(call: Call) -> Uses:
    web_acl = required(call.input, "WebACLId")
    return lambda _document: web_acl == _NO_WEB_ACL


def _uses_realtime_log(call: Call) -> Uses:
    identifiers = [call.input.get(f"RealtimeLogConfig{form}") for form in ("Name", "Arn")]
    if not any(identifiers):
        raise invalid("RealtimeLogConfigName or RealtimeLogConfigArn is missing")
    return lambda _document: False


def _has_connection_mode(call: Call) -> Uses:
    mode = required(call.input, "ConnectionMode")
    return lambda _document: mode == _CONNECTION_MODE


def _uses_nothing(_call: Call) -> Uses:
    return lambda _document: False
