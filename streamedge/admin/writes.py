"""The write-back queue on the admin address: pending writes and dead letters.

GET    /writes                  counts by state, totals, rows: dead letters first, oldest first
POST   /writes/{serial}/retry   tries a dead letter again; ?unconditional=1 without conditions
DELETE /writes/{serial}         deletes a dead letter for good
"""

from __future__ import annotations

import time

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from streamedge.http_fields import parse_number
from streamedge.write_back.queue import LISTED_ROWS_MAX, QueueStatus, WriteQueue
from streamedge.write_back.rows import Row, Totals
from streamedge.write_back.states import DEAD_LETTERS, PENDING_STATES, State

_EMPTY_STATUS = QueueStatus({}, Totals(0, 0, 0, 0), ())


def writes_routes(write_queue: WriteQueue | None) -> list[Route]:
    """The routes; ``write_queue`` is None where no behavior writes back."""

    async def list_writes(request: Request) -> Response:
        count = _number(request.query_params.get("limit", str(LISTED_ROWS_MAX)), "limit", 400)
        if write_queue is None:
            return JSONResponse(_status(_EMPTY_STATUS))
        return JSONResponse(_status(await write_queue.status(min(count, LISTED_ROWS_MAX))))

    async def retry(request: Request) -> Response:
        serial = _number(request.path_params["serial"], "the serial", 404)
        text = request.query_params.get("unconditional", "0")
        if text not in {"0", "1"}:
            raise HTTPException(400, f"unconditional is 0 or 1, not {text!a}")
        if write_queue is None or not await write_queue.requeue(serial, unconditional=text == "1"):
            raise _no_dead_letter(serial)
        return JSONResponse({"serial": serial, "outcome": "queued"})

    async def discard(request: Request) -> Response:
        serial = _number(request.path_params["serial"], "the serial", 404)
        if write_queue is None or not await write_queue.discard(serial):
            raise _no_dead_letter(serial)
        return JSONResponse({"serial": serial, "outcome": "discarded"})

    return [
        Route("/writes", list_writes),
        Route("/writes/{serial}/retry", retry, methods=["POST"]),
        Route("/writes/{serial}", discard, methods=["DELETE"]),
    ]


def _status(status: QueueStatus) -> dict[str, object]:
    now_s = time.time()
    return {
        "by_state": {
            state.value: status.by_state.get(state, 0)
            for state in State
            if state in PENDING_STATES | DEAD_LETTERS
        },
        "held_bytes": status.totals.held_bytes,
        "row_bytes": status.totals.row_bytes,
        "accepted": status.totals.accepted,
        "done": status.totals.done,
        "rows": [_row(row, now_s) for row in status.rows],
        "rows_left_off": max(0, sum(status.by_state.values()) - len(status.rows)),
    }


def _row(row: Row, now_s: float) -> dict[str, object]:
    """One write for the operator; its conditions and metadata are the viewer's header fields."""
    return {
        "serial": row.serial,
        "state": row.state.value,
        "method": row.method,
        "origin": row.origin_name,
        "object": row.name,
        "size_bytes": row.size_bytes,
        "etag": row.etag or None,
        "fields": row.fields,
        "attempts": row.attempts,
        "age_s": round(max(0.0, now_s - row.queued_s), 3),
        "due_in_s": round(max(0.0, row.due_s - now_s), 3) if row.state is State.QUEUED else None,
        "problem": row.problem or None,
    }


def _number(text: str, name: str, status: int) -> int:
    number = parse_number(text)
    if number is None:
        raise HTTPException(status, f"{name} is a number, not {text!a}")
    return number


def _no_dead_letter(serial: int) -> HTTPException:
    reason = f"no dead letter has the serial {serial}: it is still tried, is done, or never existed"
    return HTTPException(404, reason)
