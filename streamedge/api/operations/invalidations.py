"""Operations on invalidations; they have taken effect here when the call returns.

In a fleet they are InProgress until every edge has applied them.

A batch is checked as in CloudFront; ``control.invalidations`` parses the items. Unlike CloudFront,
streaming distributions have invalidations too, and a star may be anywhere in a path.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from streamedge.api.documents.documents import entries_of, invalid, listing, normalize, required
from streamedge.api.errors import ApiError
from streamedge.api.operations.resource_calls import VERSION_PATH, Page, max_items, timestamp
from streamedge.api.protocol.service import Call, Handler, Output
from streamedge.api.transactions import Resources
from streamedge.control.invalidations import ItemError, with_root_object
from streamedge.control.log import (
    ITEMS_MAX,
    REFERENCE_CHARACTERS_MAX,
    CallerReferenceError,
    ControlLog,
    Row,
)

COMPLETED, IN_PROGRESS = "Completed", "InProgress"
CREATION_WAIT_S = 1.0  # for the other edges, before the call is answered with InProgress

IsCompleted = Callable[[int, float], bool]
"""Whether every edge has applied the row with this epoch; waits up to so many seconds."""


def invalidation_handlers(
    resources: Resources,
    log: ControlLog,
    announce: Callable[[], None],
    is_completed: IsCompleted | None = None,
) -> dict[str, Handler]:
    """The handlers by the names of CloudFront's operations.

    ``announce`` is called after each new row, in the caller's thread; it returns when the row has
    taken effect. ``is_completed``: in a fleet; None in a fleet of one.
    """

    def status(row: Row, wait_s: float = 0.0) -> str:
        is_done = is_completed is None or is_completed(row.epoch, wait_s)
        return COMPLETED if is_done else IN_PROGRESS

    def create(call: Call) -> Output:
        scope = _distribution(resources, call)
        batch = normalize(required(call.input, "InvalidationBatch"))
        reference = required(batch, "CallerReference")
        if not 1 <= len(reference) <= REFERENCE_CHARACTERS_MAX:
            text = f"CallerReference has 1 to {REFERENCE_CHARACTERS_MAX} characters"
            raise invalid(text)
        items = entries_of(batch, "Paths")
        if not items:
            raise invalid("Paths has no items")
        if len(items) > ITEMS_MAX:
            raise ApiError("BatchTooLarge", f"Paths has more than {ITEMS_MAX} items")
        try:
            if "/" in items:
                items = list(with_root_object(items, resources.root_object(scope)))
            row = log.invalidate(
                scope,
                items,
                caller_reference=reference,
                announce=lambda _position: announce(),
            )
        except ItemError as exc:
            raise invalid(f"Paths: {exc}") from exc
        except CallerReferenceError as exc:
            raise ApiError("InvalidationBatchAlreadyExists", str(exc)) from exc
        location = f"{VERSION_PATH}/distribution/{scope}/invalidation/{row.id}"
        output = _output(row, status(row, CREATION_WAIT_S))
        return {"Invalidation": output, "Location": location}

    def get(call: Call) -> Output:
        scope = _distribution(resources, call)
        identifier = required(call.input, "Id")
        row = log.invalidation(scope, identifier)
        if row is None:
            text = f"{scope} has no invalidation with the id {identifier}"
            raise ApiError("NoSuchInvalidation", text)
        return {"Invalidation": _output(row, status(row))}

    def list_invalidations(call: Call) -> Output:
        scope = _distribution(resources, call)
        marker, limit = call.input.get("Marker") or "", max_items(call)
        before = None
        if marker:
            last = log.invalidation(scope, marker)
            if last is None:
                raise invalid(f"Marker: {scope} has no invalidation with the id {marker}")
            before = last.epoch
        rows = log.invalidations(scope, before_epoch=before, count=limit + 1)
        next_marker = rows[limit - 1].id if len(rows) > limit else ""
        entries = [_summary(row, status(row)) for row in rows[:limit]]
        return {"InvalidationList": Page((), marker, limit, next_marker).listing(entries)}

    return {
        "CreateInvalidation": create,
        "GetInvalidation": get,
        "ListInvalidations": list_invalidations,
    }


def _distribution(resources: Resources, call: Call) -> str:
    """The id of the distribution of a call. Raises ApiError NoSuchDistribution."""
    identifier: str = required(call.input, "DistributionId")
    if not resources.has_distribution(identifier):
        raise ApiError("NoSuchDistribution", f"there is no distribution with the id {identifier}")
    return identifier


def _summary(row: Row, status: str) -> dict[str, Any]:
    return {"Id": row.id, "CreateTime": timestamp(row.created_s), "Status": status}


def _output(row: Row, status: str) -> dict[str, Any]:
    paths = listing(row.invalidation.items)
    batch = {"Paths": paths, "CallerReference": row.caller_reference}
    return {**_summary(row, status), "InvalidationBatch": batch}
