"""Operations on streaming distributions: media over RTMP from a bucket.

CloudFront ended them in 2020, but its clients still have them. The application is always cfx/st.
The origin is a bucket by its DomainName at AWS, or an origin in config.toml by its name. Trusted
signers are accounts, not key groups: "self" means all keys of this edge.
"""

from __future__ import annotations

from typing import Any

from streamedge.api.documents.completion import complete_streaming_distribution
from streamedge.api.documents.inventory import Inventory
from streamedge.api.operations import file_resources
from streamedge.api.operations.distributions import (
    common_output,
    create_to_delete_handlers,
    distribution_spec,
    trusted_signers,
)
from streamedge.api.operations.resource_calls import page_of
from streamedge.api.protocol.service import Call, Handler, Output
from streamedge.api.transactions import Resources
from streamedge.control.resources import Kind, Resource

_SUMMARY = ("S3Origin", "Aliases", "TrustedSigners", "Comment", "PriceClass", "Enabled")


def streaming_handlers(resources: Resources) -> dict[str, Handler]:
    """The handlers by the names of CloudFront's operations."""

    def list_distributions(call: Call) -> Output:
        inventory = resources.inventory()
        page = page_of(call, STREAMING_DISTRIBUTIONS.all(inventory))
        entries = [
            {
                **common_output(inventory, resource),
                **{member: resource.document[member] for member in _SUMMARY},
            }
            for resource in page.entries
        ]
        return {"StreamingDistributionList": page.listing(entries)}

    return {
        **create_to_delete_handlers(STREAMING_DISTRIBUTIONS, resources),
        "ListStreamingDistributions": list_distributions,
    }


def _to_output(inventory: Inventory, resource: Resource) -> dict[str, Any]:
    return {
        **common_output(inventory, resource),
        "ActiveTrustedSigners": trusted_signers(inventory, resource.document),
        "StreamingDistributionConfig": dict(resource.document),
    }


STREAMING_DISTRIBUTIONS = distribution_spec(
    Kind.STREAMING_DISTRIBUTION,
    "StreamingDistribution",
    complete=complete_streaming_distribution,
    to_output=_to_output,
    from_file=file_resources.streaming_distributions,
)
