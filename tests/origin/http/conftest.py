"""The scripted server with one film, and an origin that reads it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from streamedge.origin.http.origin import HttpOrigin
from tests.origin.http.film import FILM
from tests.support.origins.scripted_origin import ScriptedOrigin


@pytest.fixture
async def server() -> AsyncIterator[ScriptedOrigin]:
    async with ScriptedOrigin() as server:
        server.put("film.mp4", FILM, etag='"v1"', content_type="video/mp4")
        yield server


@pytest.fixture
async def origin(server: ScriptedOrigin) -> AsyncIterator[HttpOrigin]:
    origin = HttpOrigin(server.url)
    yield origin
    await origin.close()
