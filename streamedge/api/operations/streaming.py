"""Operations on streaming distributions: media over RTMP from a bucket.

CloudFront ended them in 2020, but its clients still have them. The application is always cfx/st.
The origin is a bucket by its DomainName at AWS, or an origin in config.toml by its name. Trusted
signers are accounts, not key groups: "self" means all keys of this edge.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from streamedge.api.documents.completion import complete_streaming_distribution
from streamedge.api.documents.documents import Document, required
from streamedge.api.documents.inventory import Inventory
from streamedge.api.documents.tags import read_tags
from streamedge.api.errors import ApiError
from streamedge.api.operations import file_resources
from streamedge.api.operations.distributions import (
    check_beside_others,
    check_distribution_update,
    common_output,
    trusted_signers,
)
from streamedge.api.operations.resource_calls import KindSpec, ResourceCalls, new_id, page
from streamedge.api.protocol.service import Call, Handler, Output
from streamedge.api.transactions import Resources
from streamedge.control.resources import Kind, Resource

_SUMMARY = ("S3Origin", "Aliases", "TrustedSigners", "Comment", "PriceClass", "Enabled")


def streaming_handlers(holdings: Resources) -> dict[str, Handler]:
    """By the names of CloudFront's operations."""
    calls = ResourceCalls(STREAMING_DISTRIBUTIONS, holdings)

    def create_with_tags(call: Call) -> Output:
        said = required(call.input, "StreamingDistributionConfigWithTags")
        tags = read_tags(required(said, "Tags"))
        return calls.create(call, tags, required(said, "StreamingDistributionConfig"))

    def listed(call: Call) -> Output:
        inventory = holdings.inventory()
        chosen = page(call, STREAMING_DISTRIBUTIONS.all(inventory))
        entries = [
            {
                **common_output(inventory, resource),
                **{member: resource.document[member] for member in _SUMMARY},
            }
            for resource in chosen.entries
        ]
        return {"StreamingDistributionList": chosen.listing(entries)}

    return {
        **calls.handlers(),
        "CreateStreamingDistributionWithTags": create_with_tags,
        "ListStreamingDistributions": listed,
    }


def _shown(inventory: Inventory, resource: Resource) -> dict[str, Any]:
    return {
        **common_output(inventory, resource),
        "ActiveTrustedSigners": trusted_signers(inventory, resource.document),
        "StreamingDistributionConfig": dict(resource.document),
    }


def _check_delete(document: Document) -> None:
    if document["Enabled"]:
        text = "only a disabled streaming distribution is deleted"
        raise ApiError("StreamingDistributionNotDisabled", text)


STREAMING_DISTRIBUTIONS = KindSpec(
    kind=Kind.STREAMING_DISTRIBUTION,
    member="StreamingDistribution",
    config_member="StreamingDistributionConfig",
    path="streaming-distribution",
    missing="NoSuchStreamingDistribution",
    exists="StreamingDistributionAlreadyExists",
    in_use="ResourceInUse",
    too_many="TooManyStreamingDistributions",
    make_id=partial(new_id, "E"),
    name_of=lambda document: str(required(document, "CallerReference")),
    complete=complete_streaming_distribution,
    shown=_shown,
    declared=file_resources.streaming_distributions,
    check=check_beside_others,
    check_update=check_distribution_update,
    check_delete=_check_delete,
)
