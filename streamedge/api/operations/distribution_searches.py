"""ListDistributionsBy…: the distributions that use a resource.

Nothing uses features that this edge does not have (web ACLs, VPC origins, real-time logs).
"""

from __future__ import annotations

from collections.abc import Callable

from streamedge.api.documents.documents import Document, invalid, required
from streamedge.api.documents.inventory import Inventory, references
from streamedge.api.operations.distributions import DISTRIBUTIONS, summary
from streamedge.api.operations.keys import KEY_GROUPS
from streamedge.api.operations.policies import FAMILIES
from streamedge.api.operations.resource_calls import KindSpec, page
from streamedge.api.protocol.service import Call, Handler, Output
from streamedge.api.transactions import Resources
from streamedge.control.resources import Resource

_NO_FIREWALL = "null"  # asks for the distributions that have none
_CONNECTION_MODE = "direct"  # of every distribution: there are no tenants

Uses = Callable[[Document], bool]


def distribution_search_handlers(holdings: Resources) -> dict[str, Handler]:
    """By the names of CloudFront's operations."""
    handlers = {
        f"ListDistributionsBy{family.member}Id": _by_resource(
            holdings, family, f"{family.member}Id", f"{family.member}Id"
        )
        for family, _plural in FAMILIES
    }

    def whole(uses: Callable[[Call], Uses]) -> Handler:
        def listed(call: Call) -> Output:
            inventory = holdings.inventory()
            chosen = page(call, _users(inventory, uses(call)))
            entries = [summary(inventory, one) for one in chosen.entries]
            return {"DistributionList": chosen.listing(entries)}

        return listed

    def of_vpc_origin(call: Call) -> Output:
        required(call.input, "VpcOriginId")
        return {"DistributionIdList": page(call, {}).listing([])}

    return {
        **handlers,
        "ListDistributionsByKeyGroup": _by_resource(
            holdings, KEY_GROUPS, "KeyGroupId", "TrustedKeyGroups"
        ),
        "ListDistributionsByVpcOriginId": of_vpc_origin,
        "ListDistributionsByWebACLId": whole(_uses_firewall),
        "ListDistributionsByRealtimeLogConfig": whole(_uses_realtime_log),
        "ListDistributionsByConnectionMode": whole(_has_connection_mode),
        "ListDistributionsByAnycastIpListId": whole(_uses_nothing),
    }


def _by_resource(holdings: Resources, family: KindSpec, member: str, reference: str) -> Handler:
    """The ids of the distributions whose documents name a resource at ``reference``."""

    def listed(call: Call) -> Output:
        inventory = holdings.inventory()
        found = family.find(inventory, required(call.input, member))

        def uses(document: Document) -> bool:
            return found.id in references(document, reference)

        chosen = page(call, _users(inventory, uses))
        return {"DistributionIdList": chosen.listing([one.id for one in chosen.entries])}

    return listed


def _users(inventory: Inventory, uses: Uses) -> dict[str, Resource]:
    return {
        identifier: resource
        for identifier, resource in DISTRIBUTIONS.all(inventory).items()
        if uses(resource.document)
    }


def _uses_firewall(call: Call) -> Uses:
    wanted = required(call.input, "WebACLId")
    return lambda _document: wanted == _NO_FIREWALL


def _uses_realtime_log(call: Call) -> Uses:
    named = [call.input.get(f"RealtimeLogConfig{form}") for form in ("Name", "Arn")]
    if not any(named):
        raise invalid("RealtimeLogConfigName or RealtimeLogConfigArn is missing")
    return lambda _document: False


def _has_connection_mode(call: Call) -> Uses:
    wanted = required(call.input, "ConnectionMode")
    return lambda _document: wanted == _CONNECTION_MODE


def _uses_nothing(_call: Call) -> Uses:
    return lambda _document: False
