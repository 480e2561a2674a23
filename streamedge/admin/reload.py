"""Reloads the config file by a call on the admin address.

    POST /reload    200: the changed keys, and those that need a restart; 422: the mistakes

The supervisor reads the file as on SIGHUP. The response waits until the workers have applied it.
"""

from __future__ import annotations

import os
import signal
from dataclasses import asdict
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from streamedge.coordination.shared_state import SharedState
from streamedge.coordination.wakeups import ChangeEvent

RESULT_TIMEOUT_S = 20.0
APPLIED_TIMEOUT_S = 5.0


def reload_routes(shared: SharedState, change_event: ChangeEvent) -> list[Route]:
    """The route; ``change_event`` belongs to the control process, a child of the supervisor."""
    supervisor = os.getppid()
    config_versions = shared.config_versions

    async def reload(_request: Request) -> Response:
        request_number = config_versions.request_reload()
        if os.getppid() != supervisor:
            raise HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, "the edge is stopping")
        os.kill(supervisor, signal.SIGHUP)

        def has_result() -> bool:
            return config_versions.reload_result(request_number) is not None

        await change_event.wait_for(has_result, RESULT_TIMEOUT_S)
        result = config_versions.reload_result(request_number)
        if result is None:
            raise HTTPException(HTTPStatus.GATEWAY_TIMEOUT, "the file was not read in time")
        if result.problems:
            body = {"error": "the file has mistakes; nothing has changed", **asdict(result)}
            return JSONResponse(body, HTTPStatus.UNPROCESSABLE_ENTITY)

        def pending() -> list[int]:
            return [
                worker
                for worker in shared.worker_status.workers
                if shared.worker_status.is_up(worker)
                and config_versions.applied_generation(worker) < result.generation
            ]

        await change_event.wait_for(lambda: not pending(), APPLIED_TIMEOUT_S)
        return JSONResponse({**asdict(result), "workers_pending": pending()})

    return [Route("/reload", reload, methods=["POST"])]
