"""Errors of the admin address as JSON: ``{"error": REASON}``."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from streamedge.control.database import ControlError
from streamedge.write_back.rows import WriteQueueError


def _json_error(_request: Request, exc: Exception) -> Response:
    if isinstance(exc, HTTPException):
        return JSONResponse({"error": exc.detail}, exc.status_code, exc.headers)
    return JSONResponse({"error": str(exc)}, 503)


JSON_ERROR_HANDLERS: Mapping[type[Exception], Callable[[Request, Exception], Response]] = (
    dict.fromkeys((HTTPException, ControlError, WriteQueueError), _json_error)
)
"""The exception handlers of the application: 503 if a database cannot be read or written."""
