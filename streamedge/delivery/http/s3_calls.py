"""Requests of S3 clients: which of them the edge serves, and calls on a bucket.

A listing shows the names of objects, so it is allowed only where every behavior that one of these
objects may have allows it.
"""

from __future__ import annotations

import time
from dataclasses import replace
from urllib.parse import quote

from streamedge.access.admission import Denied
from streamedge.delivery.http.policy.behaviors import ViewerProtocol
from streamedge.delivery.http.request.authorization import Authorizer
from streamedge.delivery.http.request.origin_request import forwarded_read_parameters
from streamedge.delivery.http.request.request import WebRequest
from streamedge.delivery.http.request.routing import Route, Rule, listing_rules
from streamedge.origin.s3.protocol import (
    BucketCall,
    hoisted_fields,
    read_bucket_call,
    read_call,
    read_parameters,
    require_known_fields,
    require_known_parameters,
    require_signed_fields,
)
from streamedge.origin.writing import WriteRefusedError, WriteResponse, refuse
from streamedge.write_back.queue import WriteQueue


def named_request(route: Route, request: WebRequest) -> WebRequest:
    """The request with the path of its object, for the access decision."""
    if not route.is_s3:
        return request
    return replace(request, path=b"/" + quote(route.name, safe="/~").encode("ascii"))


def require_known_call(route: Route, request: WebRequest, authorizer: Authorizer) -> None:
    """Raises WriteRefusedError for an S3 request that the edge does not implement exactly."""
    fields = (*request.fields, *hoisted_fields(request.query))
    require_signed_fields(request.headers, request.query)
    require_known_fields(request.method, fields)
    if route.is_bucket:
        call = read_bucket_call(request.method, route.query)
        if call.operation.is_listing:
            _require_listing(route, call, request, authorizer)
        return
    if read_call(request.method, route.name, route.query, fields, 0) is not None:
        return
    require_known_parameters(request.method, route.query)
    if request.method in ("GET", "HEAD"):
        dropped = read_parameters(route.query).keys() - forwarded_read_parameters(route).keys()
        if dropped:
            text = f"no cache policy or origin request policy here names {min(dropped)}"
            raise refuse(501, "NotImplemented", text)


async def call_bucket(
    route: Route, request: WebRequest, write_queue: WriteQueue | None
) -> WriteResponse:
    """Makes a call on a bucket. Raises OriginError, WriteQueueError."""
    binding = route.rule.binding
    try:
        call = read_bucket_call(request.method, route.query)
        if binding.relay is None:
            raise refuse(501, "NotImplemented", "the origin has no bucket")
        # A listing without the queued writes would make a client delete or resend its objects.
        if (
            call.operation.is_listing
            and write_queue is not None
            and await write_queue.is_waiting_below(binding.write_target.identity, call.prefix)
        ):
            raise refuse(503, "SlowDown", "writes of listed objects wait for the bucket")
        return await binding.relay.call_bucket(call)
    except WriteRefusedError as exc:
        return exc.response


def _require_listing(
    route: Route, call: BucketCall, request: WebRequest, authorizer: Authorizer
) -> None:
    for rule in listing_rules(route.distribution, call.prefix):
        if rule.binding.identity != route.rule.binding.identity:
            text = "another origin serves some of these objects"
        elif not _admits(rule, request, authorizer):
            text = "these objects are not listed: s3_listing is off, or access is restricted"
        else:
            continue
        raise refuse(403, "AccessDenied", text)


def _admits(rule: Rule, request: WebRequest, authorizer: Authorizer) -> bool:
    behavior = rule.behavior
    if not behavior.lists_objects or behavior.access.keys is not None:
        return False
    if not request.secure and behavior.viewer_protocol is not ViewerProtocol.ALLOW_ALL:
        return False
    return not isinstance(authorizer.admit(behavior.access, request, time.time()), Denied)
