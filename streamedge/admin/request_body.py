"""Request bodies of the admin address: read within a limit, and parsed as a JSON object."""

from __future__ import annotations

import json
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The whole body. Raises HTTPException 413."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > max_bytes:
            raise HTTPException(413, f"the body is longer than {max_bytes} bytes")
    return bytes(body)


def json_object(body: bytes) -> dict[str, Any]:
    """The members of a body that is a JSON object. Raises HTTPException 400."""
    try:
        members = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise HTTPException(400, "the body is not JSON") from exc
    if not isinstance(members, dict):
        raise HTTPException(400, "the body is not a JSON object")
    return members
