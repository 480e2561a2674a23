"""The operators' page on the admin address.

    GET /              the page
    GET /page/{path}   its styles, scripts and icons

The files are package data of ``streamedge.page``. They hold no data of the edge: the page fetches
those by the other calls. The files are read at the first call and kept in memory, 200 KB.
"""

from __future__ import annotations

import asyncio
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from streamedge.admin.access.rules import PAGE_FILES, PAGE_PATH

PACKAGE = "streamedge.page"
INDEX = "index.html"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".LICENSE": "text/plain; charset=utf-8",
}


def page_routes() -> list[Route]:
    """The routes."""

    async def index(_request: Request) -> Response:
        return await respond(INDEX)

    async def file(request: Request) -> Response:
        return await respond(request.path_params["path"])

    async def respond(path: str) -> Response:
        entry = (await asyncio.to_thread(page_files)).get(path)
        if entry is None:
            raise HTTPException(404, "the page has no such file")
        content, media_type = entry
        return Response(content, media_type=media_type)

    return [Route(PAGE_PATH, index), Route(f"{PAGE_FILES}{{path:path}}", file)]


@cache
def page_files() -> dict[str, tuple[bytes, str]]:
    """Content and media type of each file, by path. Blocks at the first call."""
    return dict(_files_in(files(PACKAGE), ""))


def _files_in(folder: Traversable, prefix: str) -> list[tuple[str, tuple[bytes, str]]]:
    entries: list[tuple[str, tuple[bytes, str]]] = []
    for entry in folder.iterdir():
        path = f"{prefix}{entry.name}"
        if entry.is_dir():
            entries += _files_in(entry, f"{path}/")
            continue
        media_type = MEDIA_TYPES.get(f".{entry.name.rpartition('.')[2]}")
        if media_type is not None:
            entries.append((path, (entry.read_bytes(), media_type)))
    return entries
