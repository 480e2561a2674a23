"""Replaces the program of the running edge by a call on the admin address.

    GET /upgrade     how the last upgrade went
    POST /upgrade    202: the supervisor tries the new program, as on SIGUSR2

The response to a POST comes before the result: the control process is replaced, too. A client
polls GET until ``attempts`` has grown and the state is none of ``trying`` and ``starting``.
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


def upgrade_routes(shared: SharedState) -> list[Route]:
    """The routes; called in the control process, a child of the supervisor."""
    supervisor = os.getppid()

    async def show(_request: Request) -> Response:
        return JSONResponse(asdict(shared.upgrade.read()))

    async def start(_request: Request) -> Response:
        if os.getppid() != supervisor:
            raise HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, "the edge is stopping")
        upgrade = shared.upgrade.read()
        os.kill(supervisor, signal.SIGUSR2)
        return JSONResponse({"attempts": upgrade.attempts}, HTTPStatus.ACCEPTED)

    return [
        Route("/upgrade", show, methods=["GET"]),
        Route("/upgrade", start, methods=["POST"]),
    ]
