"""Operations on tags of distributions of both kinds, by ARN.

Distributions from config.toml have no tags and accept none.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from streamedge.api.documents.documents import invalid, required
from streamedge.api.documents.inventory import Inventory
from streamedge.api.documents.tags import check_tag_count, read_tags, tags_document, without
from streamedge.api.errors import ApiError
from streamedge.api.operations.distributions import DISTRIBUTIONS
from streamedge.api.operations.resource_calls import read_only_error
from streamedge.api.operations.streaming import STREAMING_DISTRIBUTIONS
from streamedge.api.protocol.service import Call, Handler, Output
from streamedge.api.transactions import Resources
from streamedge.control.resources import Resource

_ARN = re.compile(r"arn:aws(?:-cn)?:cloudfront::[0-9]+:([a-z-]+)/([A-Za-z0-9_-]+)")
_SPECS_BY_PATH = {spec.path: spec for spec in (DISTRIBUTIONS, STREAMING_DISTRIBUTIONS)}


def tagging_handlers(resources: Resources) -> dict[str, Handler]:
    """The handlers by the names of CloudFront's operations."""

    def tag(call: Call) -> Output:
        added = read_tags(required(call.input, "Tags"))
        return change(call, lambda tags: check_tag_count({**tags, **added}))

    def untag(call: Call) -> Output:
        keys = required(call.input, "TagKeys").get("Items") or ()
        return change(call, lambda tags: without(tags, keys))

    def list_tags(call: Call) -> Output:
        return {"Tags": tags_document(_tagged(resources.inventory(), call).tags)}

    def change(call: Call, new_tags: Callable[[dict[str, str]], dict[str, str]]) -> Output:
        with resources.change() as transaction:
            resource = _tagged(transaction.before, call)
            if transaction.before.from_api[resource.kind].get(resource.id) is not resource:
                raise read_only_error(resource)
            transaction.put(replace(resource, tags=new_tags(dict(resource.tags))))
        return {}

    return {"TagResource": tag, "UntagResource": untag, "ListTagsForResource": list_tags}


def _tagged(inventory: Inventory, call: Call) -> Resource:
    """The resource of a call's ARN. Raises ApiError."""
    arn = required(call.input, "Resource")
    match = _ARN.fullmatch(arn)
    if match is None:
        raise invalid("Resource is not an ARN of CloudFront")
    spec = _SPECS_BY_PATH.get(match[1])
    resource = spec.all(inventory).get(match[2]) if spec else None
    if resource is None:
        raise ApiError("NoSuchResource", f"there is no {arn}")
    return resource
